"""Record handshakes with the real wireguard-go: what made tests/unit/engine/vectors/wireguard_go.json.

usage: unshare -n python tests/unit/engine/record_wireguard_go.py > FILE      (as root)

In an empty network namespace, wireguard-go runs one interface; this script is its peer on
127.0.0.1 and writes down every message as hex. All keys are throwaway: hashes of their names.
Three scenes: it initiates, we initiate, and a flood makes it ask for cookies.

         this script  UDP 127.0.0.1:41000  <-->  127.0.0.1:41001  wireguard-go, TUN plrec0 10.9.0.1/24
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from engine import cookie, messages, noise, tai64n

NAME = "plrec0"
OURS, THEIRS = ("127.0.0.1", 41000), ("127.0.0.1", 41001)


def key(name: str) -> bytes:
    return hashlib.sha256(f"plait throwaway test key: {name}".encode()).digest()


def nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


def ping() -> bytes:
    """An ICMP echo request from 10.9.0.2 to 10.9.0.1."""

    def checksum(data: bytes) -> bytes:
        total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
        total = (total & 0xFFFF) + (total >> 16)
        return (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big")

    icmp = bytes((8, 0, 0, 0, 0, 1, 0, 1)) + b"plait    "[:8]
    icmp = icmp[:2] + checksum(icmp) + icmp[4:]
    ip = bytes((0x45, 0, 0, 20 + len(icmp), 0, 0, 0, 0, 64, 1, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1))
    return ip[:10] + checksum(ip) + ip[12:] + icmp + bytes(12)  # padded to a multiple of 16


def run(*command: str, text: str | None = None) -> None:
    subprocess.run(command, check=True, input=text, text=True, stdout=sys.stderr, timeout=10)


def receive(sock: socket.socket, kind: int) -> bytes:
    while True:
        message = sock.recv(2048)
        if messages.message_type(message) == kind:
            return message


def main() -> None:
    us, them, psk = noise.Identity(key("ours")), noise.Identity(key("theirs")), key("preshared")
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    run("ip", "link", "set", "lo", "up")
    sock.bind(OURS)
    sock.connect(THEIRS)
    sock.settimeout(8)
    environment = os.environ | {"LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"}
    daemon = subprocess.Popen(["wireguard-go", "-f", NAME], env=environment, stdout=sys.stderr)
    try:
        path = f"/var/run/wireguard/{NAME}.sock"
        while not os.path.exists(path):
            time.sleep(0.05)
        with socket.socket(socket.AF_UNIX) as uapi_socket:
            uapi_socket.connect(path)
            uapi_socket.sendall(
                f"set=1\nprivate_key={them.private_key.hex()}\nlisten_port={THEIRS[1]}\n"
                f"public_key={us.public_key.hex()}\npreshared_key={psk.hex()}\n"
                f"endpoint={OURS[0]}:{OURS[1]}\nallowed_ip=10.9.0.2/32\n\n".encode()
            )
            assert uapi_socket.recv(100) == b"errno=0\n\n"
        run("ip", "address", "add", "10.9.0.1/24", "dev", NAME)
        run("ip", "link", "set", NAME, "up")
        scenes = record(sock, us, them, psk)
    finally:
        daemon.terminate()
        daemon.wait(5)
    version = subprocess.run(["wireguard-go", "--version"], capture_output=True, text=True).stdout.split()[1]
    source = f"recorded from wireguard-go {version} by tests/unit/engine/record_wireguard_go.py"
    source += "; throwaway keys"
    keys = {"our_private": key("ours").hex(), "their_private": key("theirs").hex(), "psk": psk.hex()}
    json.dump({"source": source} | keys | scenes, sys.stdout, indent=1)
    print()


def record(sock: socket.socket, us: noise.Identity, them: noise.Identity, psk: bytes) -> dict[str, object]:
    secret = us.static_static(them.public_key)

    # It initiates: a packet for 10.9.0.2 makes it want a session.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inner:
        inner.sendto(b"plait", ("10.9.0.2", 9))
    initiation = receive(sock, messages.INITIATION)
    _, opened = noise.open_timestamp(noise.open_initiation(us, initiation), secret)
    body, session = noise.create_response(opened, psk, 0x01020304, key("responder ephemeral"))
    response = cookie.add_macs(body, them.mac1_key, None)
    sock.send(response)
    data = receive(sock, messages.DATA)
    message = messages.Data.unpack(data)
    inner_packet = ChaCha20Poly1305(session.receive_key).decrypt(nonce(message.counter), message.sealed, b"")
    they_initiate = {
        "initiation": initiation.hex(),
        "response_ephemeral": key("responder ephemeral").hex(),
        "response": response.hex(),
        "data": data.hex(),
        "inner": inner_packet.hex(),
    }

    # We initiate: its kernel answers our ping inside.
    peer = noise.PeerKeys(us, them.public_key)
    stamp = tai64n.stamp(time.time_ns())
    body, state = noise.create_initiation(us, peer, 0x05060708, stamp, key("initiator ephemeral"))
    initiation = cookie.add_macs(body, peer.mac1_key, None)
    sock.send(initiation)
    response = receive(sock, messages.RESPONSE)
    session = noise.consume_response(us, state, response, psk)
    sealed = ChaCha20Poly1305(session.send_key).encrypt(nonce(0), ping(), b"")
    sock.send(messages.Data(session.remote_index, 0, sealed).pack())
    data = receive(sock, messages.DATA)
    message = messages.Data.unpack(data)
    inner_packet = ChaCha20Poly1305(session.receive_key).decrypt(nonce(message.counter), message.sealed, b"")
    we_initiate = {
        "timestamp": stamp.hex(),
        "initiation_ephemeral": key("initiator ephemeral").hex(),
        "initiation": initiation.hex(),
        "response": response.hex(),
        "data": data.hex(),
        "inner": inner_packet.hex(),
    }

    # A flood: more initiations at once than it works off; it asks for cookies.
    sock.settimeout(0.01)
    flood = []
    for index in range(1500):
        body, _ = noise.create_initiation(us, peer, index, tai64n.stamp(time.time_ns()))
        flood.append(cookie.add_macs(body, peer.mac1_key, None))
    reply = None
    for _ in range(20):
        for message_bytes in flood:
            sock.send(message_bytes)
        try:
            reply = receive(sock, messages.COOKIE)
            break
        except TimeoutError:
            continue
    assert reply is not None, "wireguard-go was never under load"
    asked = flood[messages.CookieReply.unpack(reply).receiver_index]
    return {
        "they_initiate": they_initiate,
        "we_initiate": we_initiate,
        "cookie": {"message": asked.hex(), "reply": reply.hex()},
    }


if __name__ == "__main__":
    main()
