"""The parts of `plait sync` that need no store and no engine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import pytest

from plait import uapi_client
from plait.failure import Failure
from plait.keys import decode, encode
from plait.lab.namespaces import keypair, preshared_key
from plait.sync import rows, state
from plait.sync.commands import store_of
from plait.sync.follower import Follower
from plait.sync.owners import Owners
from plait.sync.store import BATCH, Row

KEY = "FDff0q83mcxJTXSsW3Wnzj5VXYN3H7qzr3QtTi+OLk0="
BAD = [
    (Row("short"), "public key"),
    (Row(KEY[:-1]), "public key"),
    (Row(KEY, allowed_ips=None), "no list"),
    (Row(KEY, allowed_ips="10.0.0.2/32"), "no list"),
    (Row(KEY, allowed_ips=["10.0.0.2/33"]), "10.0.0.2/33"),
    (Row(KEY, allowed_ips=["10.0.0.2/24"]), "host bits"),
    (Row(KEY, allowed_ips=[None]), "None is no prefix"),
    (Row(KEY, allowed_ips=[167772162]), "is no prefix"),
    (Row(KEY, preshared_key="secret"), "preshared_key"),
    (Row(KEY, preshared_key=7), "preshared_key"),
    (Row(KEY, endpoint="vpn.example:51820"), "vpn.example"),
    (Row(KEY, endpoint="192.0.2.1:0"), "port 0"),
    (Row(KEY, endpoint="192.0.2.1:65536"), "65536"),
    (Row(KEY, endpoint=51820), "no text"),
    (Row(KEY, keepalive=-1), "keepalive -1"),
    (Row(KEY, keepalive=65536), "keepalive 65536"),
    (Row(KEY, keepalive=True), "keepalive True"),
    (Row(KEY, keepalive="25"), "keepalive '25'"),
]


@pytest.mark.parametrize(("row", "words"), BAD, ids=[words for _, words in BAD])
def test_a_row_that_is_no_peer_says_why_and_no_secret(row: Row, words: str) -> None:
    with pytest.raises(rows.BadRow, match=words.replace("'", ".")) as refused:
        rows.change_to(row)
    assert "secret" not in str(refused.value) and "secret" not in repr(row)


def test_a_row_says_all_of_its_peer() -> None:
    secret = preshared_key()
    change = rows.change_to(Row(KEY, False, ["10.0.0.2/32", "fd00::/64"], secret, "[2001:db8::1]:7", 25))
    assert change.preshared_key == decode(secret)
    assert (str(change.endpoint), change.keepalive) == ("[2001:db8::1]:7", 25)
    assert change.replace_allowed_ips and [*map(str, change.allowed_ips)] == ["10.0.0.2/32", "fd00::/64"]
    bare = rows.change_to(Row(KEY, False, [], None, None, None))
    assert (bare.preshared_key, bare.endpoint, bare.keepalive) == (bytes(32), None, 0)
    assert rows.change_to(Row(KEY, True)).remove


@pytest.mark.parametrize("url", [
    "postgres://me:tell-nobody@db/vpn", "postgresql://db/vpn?user=me&password=tell-nobody",
    "postgres://me:tell@nobody@db/vpn", "postgres://me:tell%nobody@db/vpn", "postgres://me:tell-nobody@db:x/vpn",
    "postgres://db/vpn?sslpassword=tell-nobody",
])  # fmt: skip
def test_an_address_with_a_password_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Failure, match="list of processes") as refused:
        store_of(url)
    assert "nobody" not in str(refused.value)


def keys(count: int) -> list[bytes]:
    return [decode(keypair()[1]) for _ in range(count)]


def test_what_is_remembered_outlives_the_process(tmp_path: Path) -> None:
    path, (first, second, third) = state.path_of(str(tmp_path / "new"), "wg0"), keys(3)
    made = state.State(path)
    assert made.is_old and made.owned() == set()
    made.begin("life", "store")
    made.note([first, second])
    made.commit(7)
    made.forget([first])
    made.note([third])
    made.close()
    again = state.State(path)
    assert (again.life, again.store, again.position, again.is_old) == ("life", "store", 7, False)
    assert again.owned() == {second, third}
    again.unsettle()
    again.close()
    assert state.read(path).position is None and state.read(path).owned == {second, third}
    moved = state.State(path)
    moved.commit(9)
    moved.move("another")
    assert (moved.store, moved.position, moved.owned()) == ("another", None, {second, third})
    moved.begin("next life", "another")
    assert moved.owned() == set()
    moved.close()


def test_a_line_that_a_kill_cut_off_is_not_read(tmp_path: Path) -> None:
    path, (first, second) = state.path_of(str(tmp_path), "wg0"), keys(2)
    made = state.State(path)
    made.begin("life", "store")
    made.note([first])
    made.commit(7)
    made.note([second])
    made.close()
    os.truncate(path, path.stat().st_size - 5)
    again = state.State(path)
    assert (again.position, again.owned()) == (7, {first})
    again.note([second])
    assert again.owned() == {first, second}
    again.close()


def test_the_file_stays_as_small_as_what_it_says(tmp_path: Path) -> None:
    path, (key,) = state.path_of(str(tmp_path), "wg0"), keys(1)
    made = state.State(path)
    made.begin("life", "store")
    lines = state.SLACK // 2
    for position in range(5):
        made.note([key] * lines)
        made.commit(position)
    assert made.owned() == {key}
    with path.open() as file:
        assert sum(1 for _ in file) < 4 * lines
    made.close()


def test_one_process_alone_follows_for_an_interface(tmp_path: Path) -> None:
    path = state.path_of(str(tmp_path), "wg0")
    made = state.State(path)
    with pytest.raises(Failure, match="another `plait sync wg0` runs"):
        state.State(path)
    made.close()
    state.State(path).close()


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = state.path_of(str(tmp_path), "wg0")
    for text in ("something else\n", state.HEAD + "\nxyz\n", state.HEAD + "\n@x y\n", state.HEAD + "\n+no\n"):
        path.write_text(text)
        with pytest.raises(Failure, match="is not understood"):
            state.State(path)
        assert path.read_text() == text


def test_a_prefix_is_one_row_s_until_that_row_gives_it_up() -> None:
    owners, (first, second) = Owners(), (keypair()[1], keypair()[1])

    def take(key: str, *prefixes: str, is_gone: bool = False) -> None:
        change = rows.change_to(Row(key, is_gone, prefixes))
        owners.release(change)
        owners.take(change)

    take(first, "10.0.0.0/24", "10.0.1.0/24")
    with pytest.raises(rows.BadRow, match=r"10\.0\.1\.0/24 is also that of the row of"):
        take(second, "10.0.2.0/24", "10.0.1.0/24")
    take(second, "10.0.1.0/25")
    take(first, "10.0.0.0/24")
    take(second, "10.0.1.0/24")
    take(first, is_gone=True)
    take(second, "10.0.0.0/24")


class ManyPeers(Follower):
    """Of an engine that has some batches of them."""

    def __init__(self) -> None:
        super().__init__("wg0", cast("Any", None), cast("Any", None))

    async def peers(self) -> list[uapi_client.Peer]:
        return [
            uapi_client.Peer(encode(at.to_bytes(32, "big")), allowed_ips=[f"10.{at >> 8}.{at & 255}.2/32"])
            for at in range(1, 3 * BATCH)
        ]


def test_beats_may_leave_while_prefixes_of_many_peers_are_learned() -> None:
    async def go() -> None:
        turns = 0

        async def beat() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beating = asyncio.create_task(beat())
        owners = await ManyPeers().owners()
        assert turns >= 3
        beating.cancel()
        taken = rows.change_to(Row(KEY, allowed_ips=["10.1.7.2/32"]))
        with pytest.raises(rows.BadRow, match="also that of"):
            owners.take(taken)

    asyncio.run(go())
