"""`plait peers`: answers of programs and of files, and what they say that is none."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from engine import uapi
from plait.api.provider import Answer, Question, Setter
from plait.api.values import Refuse
from plait.failure import Failure
from plait.keys import encode
from plait.lab.namespaces import Lab
from plait.peers import answer
from plait.peers.program import OUTPUT_BYTES, Program
from plait.peers.store import FileStore, Index
from tests.support.fake_peer import FakePeer, Network
from tests.support.waiting import until

KEY, OTHER, PSK = (bytes([number]) * 32 for number in (7, 8, 9))
QUESTION = Question(KEY, "192.0.2.7:40000")


def text(peer: Answer) -> str:
    assert isinstance(peer, uapi.PeerChange)
    operation = uapi.Set()
    operation.add_peer(peer)
    return "".join(uapi.format_set(operation))


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("said, lines", [
    ("allowed-ips 10.0.0.2/32", ["allowed_ip=10.0.0.2/32"]),
    (f"peer {encode(KEY)}\n allowed-ips 10.0.0.2,fd00::/64\n",
     ["allowed_ip=10.0.0.2/32", "allowed_ip=fd00::/64"]),
    (f"preshared-key {encode(PSK)} persistent-keepalive 25 endpoint [2001:db8::1]:7",
     [f"preshared_key={PSK.hex()}", "endpoint=[2001:db8::1]:7", "persistent_keepalive_interval=25"]),
])  # fmt: skip
def test_what_stands_behind_wg_set_is_a_peer(said: str, lines: list[str]) -> None:
    head = ["set=1", f"public_key={KEY.hex()}", "replace_allowed_ips=true"]
    assert text(answer.parse(said, KEY)).split("\n")[:-2] == head + lines


@pytest.mark.parametrize("said, ttl", [
    ("", 60), (" \n", 60), ("refuse", 60), ("refuse 0", 0), ("refuse 3600", 3600),
])  # fmt: skip
def test_a_refusal(said: str, ttl: int) -> None:
    assert answer.parse(said, KEY) == Refuse(ttl)


@pytest.mark.parametrize("said, why", [
    ("refuse soon", "0 to 3600"),
    ("refuse 3601", "0 to 3600"),
    ("refuse 1 2", "0 to 3600"),
    (f"peer {encode(OTHER)} allowed-ips 10.0.0.2/32", "was not asked about"),
    ("<html>", "no word of `wg set`"),
    ("allowed-ips", "a value is missing"),
    ("allowed-ips 10.0.0.300/32", "10.0.0.300"),
    ("endpoint gateway.example:51820", "is a name"),
    ("preshared-key secret", "not a key"),
])  # fmt: skip
def test_what_is_no_answer_is_told(said: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        answer.parse(said, KEY)


# --- a program ----------------------------------------------------------------------------------


def ask(command: str, timeout: float = 60, jobs: int = 4, times: int = 1) -> list[Answer]:
    async def all_of_them() -> list[Answer]:
        program = Program(command, "wg0", jobs, timeout)
        return list(await asyncio.gather(*(program.look(QUESTION) for _ in range(times))))

    return asyncio.run(all_of_them())


def test_a_program_gets_key_source_and_interface_as_words_of_their_own(tmp_path: Path) -> None:
    program = tmp_path / "lookup"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/said\necho allowed-ips 10.0.0.2/32\n')
    program.chmod(0o755)
    (found,) = ask(f"{program} %k 'from %s;' %i %% 100%")
    assert "allowed_ip=10.0.0.2/32" in text(found)
    said = (tmp_path / "said").read_text().splitlines()
    assert said == [encode(KEY), "from 192.0.2.7:40000;", "wg0", "%", "100%"]


@pytest.mark.parametrize("command, why", [
    ("false", "ended with exit code 1"),
    ("sh -c 'kill -9 $$'", "was killed by signal 9"),
    ("/nowhere/lookup %k", "cannot be started"),
    ("echo nonsense", "printed no answer"),
    ("printf '\\377'", "printed no answer"),
    (f"head -c {OUTPUT_BYTES + 1} /dev/zero", f"more than {OUTPUT_BYTES} bytes"),
])  # fmt: skip
def test_what_a_program_does_wrong_is_one_line_and_not_remembered(
    command: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(command) == [Refuse(0)]
    said = capsys.readouterr().err
    assert why in said and encode(KEY) in said and said.count("\n") == 1


def test_a_program_that_hangs_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("sleep 3600", timeout=0.2) == [Refuse(0)]
    assert "took longer than 0.2 s and was killed" in capsys.readouterr().err


def test_what_a_program_has_started_is_killed_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    too_much = f"head -c {OUTPUT_BYTES + 1} /dev/zero"
    assert ask(f"sh -c 'sleep 3600 & echo $! > {pid}; {too_much}; wait'") == [Refuse(0)]
    child = int(pid.read_text())
    until(lambda: "\nState:\tZ" in status(child), "the child is gone")


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ"


def test_no_more_programs_run_at_once_than_are_wanted(tmp_path: Path) -> None:
    """Two of eight: each waits until two have begun, or it is too late for that."""
    count = f"ls {tmp_path} | wc -l >> {tmp_path}.counts"
    alone = f"[ $(ls {tmp_path} | wc -l) -lt 2 ] && [ $n -lt 200 ]"
    others = f"n=0; while {alone}; do n=$((n+1)); sleep 0.01; done"
    body = f"touch {tmp_path}/$$; {others}; {count}; rm {tmp_path}/$$; echo refuse"
    assert ask(f"sh -c '{body}'", jobs=2, times=8) == [Refuse()] * 8
    counts = [int(line) for line in Path(f"{tmp_path}.counts").read_text().split()]
    assert len(counts) == 8 and max(counts) == 2


def test_sets_go_on_when_the_engine_has_closed_an_idle_connection(tmp_path: Path) -> None:
    """It closes who was silent longest when its places are full."""

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n\n")
        writer.write(b"errno=0\n\n")
        writer.close()

    async def ask_twice() -> list[int]:
        path = str(tmp_path / "engine.sock")
        async with await asyncio.start_unix_server(answer_one, path):
            setter = Setter(path)
            codes = []
            for number in range(2):
                codes.append(await setter.set(uapi.PeerChange(number.to_bytes(32, "big"))))
                while setter.writer is not None:  # until it has seen the end
                    await asyncio.sleep(0)
            setter.close()
        return codes

    assert asyncio.run(ask_twice()) == [0, 0]


def test_a_command_that_is_none() -> None:
    for command in ("", "lookup 'half"):
        with pytest.raises(Failure, match="is no command"):
            Program(command, "wg0", 1, 1)


# --- a file -------------------------------------------------------------------------------------


def peers(count: int, first: int = 0) -> str:
    return "".join(
        f"[Peer]\nPublicKey = {encode(number.to_bytes(32, 'big'))}\n"
        f"AllowedIPs = 10.{number >> 8}.{number & 255}.1/32\n\n"
        for number in range(first, first + count)
    )


def find(store: FileStore, number: int) -> Answer:
    return asyncio.run(store.look(Question(number.to_bytes(32, "big"), "")))


def test_each_peer_of_a_file_is_found_and_no_other(tmp_path: Path) -> None:
    """Keys that differ in their last bytes alone, so that the index finds many of one kind."""
    path = tmp_path / "accounts.conf"
    head, last = "# all\n[Interface]\nListenPort = 1\n", f"[Peer]  # last\npublickey={encode(PSK)}"
    path.write_text(head + peers(300) + last)
    store = FileStore(str(path), "wg0", 33)
    for number in (0, 1, 255, 299):
        assert f"allowed_ip=10.{number >> 8}.{number & 255}.1/32" in text(find(store, number))
    assert find(store, 300) == Refuse(33)
    assert f"public_key={PSK.hex()}" in text(asyncio.run(store.look(Question(PSK, ""))))


def test_a_file_that_changes_is_read_again_and_one_that_is_gone_stays_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "accounts.conf"
    path.write_text(peers(3))
    store = FileStore(str(path), "wg0", 60)
    assert find(store, 7) == Refuse(60)
    (tmp_path / "new").write_text(peers(5, 5))
    os.replace(tmp_path / "new", path)
    assert "allowed_ip=10.0.7.1/32" in text(find(store, 7)) and find(store, 1) == Refuse(60)
    path.unlink()
    assert "allowed_ip=10.0.7.1/32" in text(find(store, 7))
    assert "cannot be read any more (No such file or directory)" in capsys.readouterr().err
    path.write_text(peers(1))
    assert find(store, 7) == Refuse(60) and "allowed_ip=10.0.0.1/32" in text(find(store, 0))


def test_the_last_of_two_sections_of_a_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "accounts.conf"
    path.write_text(peers(1) + peers(1).replace("10.0.0.1", "10.0.0.9"))
    assert "allowed_ip=10.0.0.9/32" in text(find(FileStore(str(path), "wg0", 60), 0))


def test_a_section_that_is_no_peer_is_told_and_not_remembered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "accounts.conf"
    path.write_text(peers(2).replace("10.0.1.1/32", "10.0.1.1/33"))
    store = FileStore(str(path), "wg0", 60)
    assert find(store, 1) == Refuse(0) and "is no peer" in capsys.readouterr().err
    assert "allowed_ip=10.0.0.1/32" in text(find(store, 0))


def test_the_index_takes_sixteen_bytes_a_peer(tmp_path: Path) -> None:
    path = tmp_path / "accounts.conf"
    path.write_text(peers(1000))
    index = Index(path)
    assert (len(index.tags) * index.tags.itemsize + len(index.places) * index.places.itemsize) == 16_000


# --- the command --------------------------------------------------------------------------------


@pytest.mark.network
def test_the_command_answers_from_a_file_and_by_a_program_and_goes_on_past_a_restart_of_control() -> None:
    with Lab() as lab:
        network = Network(lab)
        host = network.plait
        peer = FakePeer(network)
        key = encode(peer.identity.public_key)
        remove = f"public_key={peer.identity.public_key.hex()}\nremove=true\n"
        network.set(remove)
        accounts = f"[Peer]\nPublicKey = {key}\nAllowedIPs = {peer.inner4}/32\n"
        (host.root / "run/accounts.conf").write_text(accounts)
        for arguments in (["--file", "/run/accounts.conf"],
                          ["--exec", f"echo peer %k allowed-ips {peer.inner4}/32"]):  # fmt: skip
            process = host.popen(["plait", "peers", "wg0", *arguments])
            until(lambda process=process: "is asked about unknown peers" in process.output(), "it is asked")
            before = network.count("unknown_answered")
            peer.initiate()
            assert network.count("unknown_answered") == before + 1
            assert network.peer(peer)["allowed_ip"] == f"{peer.inner4}/32"
            network.set(remove)

            os.kill(host.titles()["control"], signal.SIGKILL)
            until(lambda process=process: process.output().count("is asked about unknown peers") == 2,
                  "it is asked again")  # fmt: skip
            peer.initiate()
            network.set(remove)
            assert process.stop() == 0
        neither = host.run(["plait", "peers", "wg0"], check=False)
        assert neither.returncode == 1 and "one of --exec and --file" in neither.stderr
        nobody = host.run(["plait", "peers", "wg7", "--file", "/run/accounts.conf"], check=False)
        assert nobody.returncode == 1 and "nobody listens" in nobody.stderr


