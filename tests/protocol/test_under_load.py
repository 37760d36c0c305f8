"""Section 3 of the checklist, cookies and the limiter, under a real flood of handshake messages."""

from __future__ import annotations

import threading
import time
from ipaddress import ip_address

import pytest

from engine import cookie, noise
from tests.support.fake_peer import PORT, FakePeer, Network
from tests.support.tunnel import eventually

pytestmark = pytest.mark.network


@pytest.mark.parametrize("version", [4, 6])
def test_under_a_flood_cookies_are_asked_for_and_open_the_door(network: Network, version: int) -> None:
    """A replayed initiation is expensive to refuse: the queue fills and the flood is answered with cookies.
    A peer that shows its cookie is served all the while; one second after the flood none is needed."""
    flooder, peer = FakePeer(network, version), FakePeer(network, version)
    stale, _ = flooder.initiation()
    before = network.counters()
    ended = threading.Event()

    def flood() -> None:
        while not ended.is_set():
            flooder.send_raw(stale)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        eventually(lambda: network.count("hs_cookie_sent") > before["hs_cookie_sent"])
        message, _ = peer.initiation()
        held = cookie.CookieHolder()
        reply, sent = None, set()
        while reply is None:
            sent.add(message[4:8])
            peer.send_raw(message)
            held.message_sent(message)
            try:
                reply = peer.receive(0.5)
            except TimeoutError:
                message, _ = peer.initiation()
        # The load may have let one through between two floods: then there is nothing more to show here.
        if reply.kind == 3:
            assert reply.data[4:8] in sent  # receiver_index
            held.consume_reply(noise.cookie_key(network.identity.public_key), reply.data, 0)
            accepted = network.count("hs_initiation_accepted")
            deadline = time.monotonic() + 20
            while network.count("hs_initiation_accepted") == accepted:
                assert time.monotonic() < deadline
                message, _ = peer.initiation(held.cookie(0))
                peer.send_raw(message)
                time.sleep(0.06)  # the limiter gives one address twenty a second
            reply = peer.hear(2)
        assert reply.kind == 2
    finally:
        ended.set()
        thread.join()
    taken = [name for name in before if name.startswith("hs_") and not name.endswith(("_sent", "mac2_bad"))]
    taken += ["hs_cookie_sent"]  # this one ends a message, the other *_sent do not
    eventually(lambda: network.count(*taken) >= network.count("handshake_to_control"))
    network.step(1.1)
    quiet = network.count("hs_cookie_sent")
    calm = FakePeer(network, version)
    calm.initiate()
    assert network.count("hs_cookie_sent") == quiet


def test_a_cookie_is_of_one_address_and_port(network: Network) -> None:
    """The secret is the device's: what another port was given opens nothing (seen from outside by mac2)."""
    secret = bytes(32)
    one = cookie.make_cookie(secret, ip_address("10.0.0.1").packed, PORT)
    assert one != cookie.make_cookie(secret, ip_address("10.0.0.1").packed, PORT + 1)
    assert one != cookie.make_cookie(secret, ip_address("10.0.0.2").packed, PORT)
