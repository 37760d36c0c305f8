"""`plait sync` between a real PostgreSQL and a real engine.

    host gateway   wg0 -- plaitd -- eth0 ---- eth0 -- wireguard-go -- wg0   host client
                   plait sync, PostgreSQL
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from plait.lab.namespaces import Lab, keypair, preshared_key
from plait.lab.postgresql import DATABASE, PASSWORD
from plait.sync.postgres import Postgres
from plait.sync.store import GATHER
from tests.support.database import Database
from tests.support.syncing import PLAIT, Gateway
from tests.support.waiting import until

pytestmark = pytest.mark.network

INSERT = "insert into plait.peer (public_key, allowed_ips) values (%s, %s)"


class Scene(Gateway):
    """A gateway, and a database beside it."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.database = Database(self.host)
        self.url = self.database.local_url()

    def reset(self) -> None:
        """No rows, no peers, nothing remembered."""
        self.database.run("truncate plait.peer; truncate plait.gone; update plait.store set pruned = 0")
        super().reset()

    def row(self, address: str = "") -> str:
        """A row of a new peer; its public key."""
        _, public = keypair()
        self.database.run(INSERT, public, [address or f"{next(self.addresses)}/32"])
        return public


@pytest.fixture(scope="module")
def made() -> Iterator[Scene]:
    with Lab() as lab:
        scene = Scene(lab)
        yield scene


@pytest.fixture
def scene(made: Scene) -> Scene:
    made.reset()
    return made


def test_rows_become_peers_and_every_change_of_a_row_follows(scene: Scene) -> None:
    by_hand, first, second = keypair()[1], scene.row(), scene.row()
    scene.engine.wg("set", "wg0", "peer", by_hand, "allowed-ips", "10.7.255.1/32")
    secret, third = preshared_key(), keypair()[1]
    scene.database.run(
        "insert into plait.peer (public_key, allowed_ips, preshared_key, endpoint, keepalive)"
        " values (%s, %s, %s, %s, %s)", third, ["10.8.0.0/24", "fd00:7::/64"], secret, "192.0.2.7:51820", 25,
    )  # fmt: skip
    with scene.syncing() as process:
        peers = scene.peers()
        assert set(peers) == {by_hand, first, second, third}
        told = peers[third]
        assert (sorted(told.allowed_ips), told.preshared_key, told.endpoint, told.keepalive) == (
            ["10.8.0.0/24", "fd00:7::/64"], secret, "192.0.2.7:51820", 25)  # fmt: skip

        scene.database.run("update plait.peer set allowed_ips = '{10.9.0.0/24}', preshared_key = null,"
                           " keepalive = 0 where public_key = %s", third)
        until(lambda: scene.peers()[third].allowed_ips == ["10.9.0.0/24"], "the changed row is in force")
        assert (scene.peers()[third].preshared_key, scene.peers()[third].keepalive) == ("", 0)
        fourth = scene.row("10.8.0.0/24")
        scene.database.run("delete from plait.peer where public_key = %s", first)
        until(lambda: set(scene.peers()) == {by_hand, second, third, fourth}, "a deleted row takes its peer")
        renamed = keypair()[1]
        scene.database.run("update plait.peer set public_key = %s where public_key = %s", renamed, fourth)
        until(lambda: set(scene.peers()) == {by_hand, second, third, renamed}, "another key is another peer")
        assert scene.peers()[renamed].allowed_ips == ["10.8.0.0/24"]
        scene.database.run("truncate plait.peer")
        until(lambda: set(scene.peers()) == {by_hand}, "only the peer set by hand is left")
        greatest = scene.database.run("select max(rev) from plait.gone")[0][0]
        until(lambda: scene.metrics()["plait_sync_position"] == greatest, "the position is told")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_a_dry_run_prints_the_difference_and_once_takes_it_away(scene: Scene) -> None:
    same, changed, gone, new = (scene.row() for _ in range(4))
    scene.database.run("delete from plait.peer where public_key = %s", new)
    scene.sync("--once")
    by_hand, secret = keypair()[1], preshared_key()
    scene.engine.wg("set", "wg0", "peer", by_hand, "allowed-ips", "10.7.255.1/32")
    scene.database.run("delete from plait.peer where public_key = %s", gone)
    scene.database.run("update plait.peer set keepalive = 9, preshared_key = %s where public_key = %s",
                       secret, changed)  # fmt: skip
    scene.database.run(INSERT, new, ["10.7.200.0/24"])
    before = scene.engine.wg("showconf", "wg0")
    text = scene.sync("--dry-run")[1]
    assert text.splitlines() == [
        f"+ {new}", f"~ {changed}  keepalive 0 -> 9; preshared_key none -> one", f"- {gone}",
        "1 to add, 1 to change, 1 to remove, 0 refused, 1 the same",
    ]  # fmt: skip
    told = json.loads(scene.sync("--dry-run", "--only", "--json")[1])
    assert told == {
        "add": [new], "change": {changed: {"keepalive": [0, 9], "preshared_key": [False, True]}},
        "remove": sorted([gone, by_hand]), "refuse": {}, "same": 1,
    }  # fmt: skip
    assert scene.engine.wg("showconf", "wg0") == before
    assert scene.sync("--once")[2].splitlines()[-1].endswith("3 applied, 0 refused")
    assert set(scene.peers()) == {same, changed, new, by_hand}
    scene.sync("--once", "--fresh", "--only")
    assert set(scene.peers()) == {same, changed, new}
    assert json.loads(scene.sync("--dry-run", "--json")[1])["same"] == 3


def test_a_bad_row_is_refused_by_itself_named_and_counted(scene: Scene) -> None:
    good, bad = scene.row(), scene.row()
    scene.database.run("update plait.peer set endpoint = 'vpn.example:51820' where public_key = %s", bad)
    code, _, said = scene.sync("--once", check=False)
    assert code == 1 and f"the row of {bad} is refused: its endpoint 'vpn.example:51820'" in said
    assert set(scene.peers()) == {good}
    with scene.syncing() as process:
        later = scene.row()
        until(lambda: later in scene.peers(), "the feed goes on")
        scene.database.run("update plait.peer set endpoint = '192.0.2.7:0' where public_key = %s", good)
        until(lambda: "nothing can be sent to port 0" in process.output(), "a row may become bad")
        assert scene.metrics()["plait_sync_refused_total"] == 1
        scene.database.run("update plait.peer set endpoint = null where public_key = %s", bad)
        until(lambda: set(scene.peers()) == {good, bad, later}, "a row that is mended is a peer")
    refused, others = scene.row(), {scene.row() for _ in range(5)}
    zone = "[fe80::1%nowhere]:51820"  # a peer by itself, and none of this host
    scene.database.run("update plait.peer set endpoint = %s where public_key = %s", zone, refused)
    code, _, said = scene.sync("--once", check=False)
    assert code == 1 and f"the row of {refused} is refused: its engine answered" in said
    assert set(scene.peers()) == {good, bad, later} | others, "each for itself"


def test_a_prefix_of_two_rows_is_refused_by_the_database_and_may_change_hands(scene: Scene) -> None:
    first, second = scene.row("10.8.0.0/24"), scene.row("10.8.1.0/24")
    with pytest.raises(psycopg.errors.UniqueViolation, match="one_peer_for_each_prefix"):
        scene.row("10.8.0.0/24")
    scene.database.run(
        "update plait.peer set allowed_ips ="
        " case public_key when %s then '{10.8.1.0/24}'::cidr[] else '{10.8.0.0/24}' end", first,
    )  # fmt: skip
    scene.sync("--once")
    assert [scene.peers()[key].allowed_ips for key in (first, second)] == [["10.8.1.0/24"], ["10.8.0.0/24"]]


def test_revisions_become_visible_in_their_order(scene: Scene) -> None:
    """Else a gateway that has read the greater one would never see the smaller."""
    key = scene.row()
    with scene.database.connect() as slow, scene.database.connect() as fast:
        with slow.transaction():
            slow.execute(INSERT, (keypair()[1], ["10.8.0.0/24"]))
            fast.execute("set lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                fast.execute(INSERT, (keypair()[1], ["10.8.1.0/24"]))
            assert fast.execute("select max(rev) from plait.peer").fetchall() == fast.execute(
                "select rev from plait.peer where public_key = %s", (key,)).fetchall()  # fmt: skip
        fast.execute(INSERT, (keypair()[1], ["10.8.1.0/24"]))


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often changes were gathered."""

    gathered = 0

    def call_later(self, delay: float, *rest: Any, **more: Any) -> asyncio.TimerHandle:
        self.gathered += delay == GATHER
        return super().call_later(delay, *rest, **more)


def test_changes_that_ring_one_by_one_are_gathered_once(scene: Scene) -> None:
    """Once for each of them, a store with more than one change per GATHER is never caught up with."""
    store = Postgres(f"postgres://owner@/{DATABASE}?host={scene.database.outside}")

    async def follow() -> None:
        async with store.open() as feed, aclosing(feed.follow(await feed.position())) as batches:
            assert not (await anext(batches)).rows
            keys = [scene.row() for _ in range(20)]
            batch = await anext(batches)
            assert [row.public_key for row in batch.rows] == keys

    loop = CountingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(follow())
    assert loop.gathered == 1


def test_an_update_that_changes_nothing_is_no_change(scene: Scene) -> None:
    scene.row()
    before = scene.database.run("select rev from plait.peer")
    scene.database.run("update plait.peer set keepalive = 0, rev = 10000000")
    assert scene.database.run("select rev from plait.peer") == before
    scene.database.run("update plait.peer set keepalive = 1, rev = 0")
    assert scene.database.run("select rev from plait.peer")[0][0] > before[0][0]


def test_the_role_of_gateways_reads_and_no_more(scene: Scene) -> None:
    scene.row()
    with scene.database.connect("gateway") as gateway:
        for statement in (
            "update plait.peer set keepalive = 1", "delete from plait.peer", "truncate plait.peer",
            "insert into plait.gone values ('', 1)",
            "update plait.store set pruned = 1", "select nextval('plait.rev')",
            "select plait.prune()",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                gateway.execute(statement)
        assert len(gateway.execute("select * from plait.peer").fetchall()) == 1


def test_a_sync_that_was_killed_goes_on_where_it_was(scene: Scene) -> None:
    first, second = scene.row(), scene.row()
    with scene.syncing() as process:
        assert scene.metrics()["plait_sync_snapshots_total"] == 1
        process.signal(signal.SIGKILL)
        process.wait()
    third = scene.row()
    scene.database.run("delete from plait.peer where public_key = %s", first)
    scene.host.run([*PLAIT, "upgrade", "wg0"])  # the same life of the engine
    with scene.syncing():
        assert set(scene.peers()) == {second, third}
        told = scene.metrics()
        assert (told["plait_sync_snapshots_total"], told["plait_sync_applied_total"]) == (0, 2)
        assert told["plait_sync_store_up"] == 1


def test_deletions_that_were_forgotten_are_found_by_reading_all(scene: Scene) -> None:
    by_hand, gone, kept = keypair()[1], scene.row(), scene.row()
    scene.engine.wg("set", "wg0", "peer", by_hand, "allowed-ips", "10.7.255.1/32")
    scene.sync("--once")
    scene.database.run("delete from plait.peer where public_key = %s", gone)
    scene.database.run("select plait.prune('-1 second')")
    assert scene.database.run("select * from plait.gone") == []
    with scene.syncing():
        assert set(scene.peers()) == {kept, by_hand}
        assert scene.metrics()["plait_sync_snapshots_total"] == 1


def test_all_rows_are_read_once_more_and_sessions_go_on(scene: Scene) -> None:
    private, public = keypair()
    address = next(scene.addresses)
    scene.database.run(INSERT, public, [f"{address}/32"])
    scene.sync("--once")
    with scene.client_engine(private, address):
        assert scene.client.ping("10.7.0.1", 1).received == 1
        before = scene.engine.counters()["hs_initiation_accepted"]
        scene.sync("--once", "--fresh")
        assert scene.client.ping("10.7.0.1", 3).received == 3
        assert scene.engine.counters()["hs_initiation_accepted"] == before


def test_a_store_that_goes_away_leaves_all_as_it_is_and_is_followed_again(scene: Scene) -> None:
    key = scene.row()
    with scene.syncing() as process:
        scene.database.stop(signal.SIGQUIT)
        until(lambda: scene.metrics()["plait_sync_store_up"] == 0, "it is told that the store is away")
        lag = scene.metrics()["plait_sync_lag_seconds"]
        until(lambda: scene.metrics()["plait_sync_lag_seconds"] > lag + 1, "the lag grows")
        assert set(scene.peers()) == {key} and process.poll() is None
        scene.database.start()
        other = scene.row()
        until(lambda: set(scene.peers()) == {key, other}, "what changed since is in force")
        until(lambda: scene.metrics()["plait_sync_lag_seconds"] < lag + 1, "the lag is gone")
        lines = process.output().splitlines()
        assert lines[-1].endswith("again")
        assert all(line != next_line for line, next_line in itertools.pairwise(lines)), "each is said once"


def test_an_engine_that_begins_without_peers_gets_all_of_them(scene: Scene) -> None:
    keys = {scene.row() for _ in range(3)}
    with scene.syncing() as process:
        scene.engine.stop()
        until(lambda: "cannot be asked" in process.output(), "it is told that the engine is away")
        scene.engine = scene.started()
        until(lambda: set(scene.peers()) == keys, "the next engine has all peers")
        other = scene.row()
        until(lambda: other in scene.peers(), "and follows")


def failures(scene: Scene) -> dict[str, tuple[list[str], dict[str, str], str]]:
    """What is wrong: the arguments, the environment, the words of the error."""
    database = scene.database
    wrong = database.outside / "wrong"
    wrong.write_text("*:*:*:gateway:another-secret\n")
    wrong.chmod(0o600)
    passwords = {"PGPASSFILE": str(database.place / "wrong")}
    return {
        "unreachable": ([f"postgres://owner@/vpn?host={database.place}/none"], {}, "Is it running"),
        "no such name": (["postgres://owner@no.such.host.invalid/vpn"], {}, "Is it running"),
        "tables": ([database.local_url(database="empty")], {}, "lacks the tables of peers"),
        "password": ([database.local_url("gateway")], passwords, "password authentication failed"),
        "rights": ([database.local_url("stranger")], {}, "may not read"),
        "database": ([database.local_url(database="none")], {}, 'database "none" does not exist'),
        "secret": ([f"postgres://gateway:{PASSWORD}@/vpn?host={database.place}"], {}, "list of processes"),
        "option": ([database.local_url(more="&colour=red")], {}, "colour"),
        "scheme": (["mysql://owner@/vpn"], {}, "begins with"),
        "together": ([database.local_url(), "--once", "--on-demand"], {}, "do not go together"),
        "listen": ([database.local_url(), "--listen", "nowhere"], {}, "--listen nowhere is not understood"),
        "state": ([database.local_url(), "--state", "/proc/none"], {}, "cannot be remembered"),
    }


def test_each_mistake_is_one_sentence_and_changes_nothing(scene: Scene) -> None:
    key = scene.row()
    scene.sync("--once")
    scene.row()
    scene.database.run("create role stranger login; alter role stranger set search_path = ''")
    with scene.database.connect(database="postgres") as connection:  # the role needs no password
        connection.execute("select pg_reload_conf()")
    path = scene.database.outside / "data/pg_hba.conf"
    path.write_text("local all stranger trust\n" + path.read_text())
    scene.database.run("select pg_reload_conf()")
    until(lambda: reachable(scene, "stranger"), "the server has read its rules")
    for case, (arguments, environment, words) in failures(scene).items():
        done = scene.host.run([*PLAIT, "sync", "wg0", *arguments], environment=environment, check=False)
        lines = done.stderr.splitlines()
        assert (done.returncode, len(lines), done.stdout) == (1, 1, ""), (case, done.stderr)
        assert words in lines[0] and lines[0].startswith("plait: "), (case, lines)
        assert PASSWORD not in done.stderr and "another-secret" not in done.stderr, case
        assert set(scene.peers()) == {key}, case
    assert scene.sync(url=scene.database.local_url("gateway"), check=False)[0] == 1


def reachable(scene: Scene, user: str) -> bool:
    try:
        scene.database.connect(user).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_position_from_the_future_and_another_store_are_refused(scene: Scene) -> None:
    key, other = scene.row(), scene.row()
    scene.sync("--once")
    scene.database.run("truncate plait.peer; truncate plait.gone; alter sequence plait.rev restart")
    scene.row()
    code, _, said = scene.sync(check=False)
    assert code == 1 and "perhaps it was restored" in said and len(said.splitlines()) == 1
    scene.database.run("update plait.store set id = gen_random_uuid()")
    code, _, said = scene.sync(check=False)
    assert code == 1 and "another store" in said and len(said.splitlines()) == 1
    assert set(scene.peers()) == {key, other}
    scene.sync("--once", "--fresh")
    assert len(scene.peers()) == 1 and not {key, other} & set(scene.peers())


def test_a_password_file_is_enough_and_no_secret_is_told(scene: Scene) -> None:
    key = scene.row()
    command = [*PLAIT, "sync", "wg0", scene.database.local_url("gateway")]
    process = scene.host.popen(command, environment=scene.database.credentials(scene.host))
    try:
        until(lambda: key in scene.peers() or process.poll() is not None, "it follows")
        assert process.poll() is None, process.output()
        assert PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text()
        twice = scene.host.run([*PLAIT, "sync", "wg0", scene.database.local_url()], check=False)
        assert twice.returncode == 1 and "not followed twice" in twice.stderr
        assert PASSWORD not in process.output()
    finally:
        process.close()


def test_peers_on_demand_come_with_their_first_packet_and_go_with_their_row(scene: Scene) -> None:
    (private, public), unknown, address = keypair(), scene.row(), next(scene.addresses)
    with scene.syncing("--on-demand", "--ttl", "3600") as process:
        until(lambda: scene.engine.report()["on_demand"]["providers"] == 1, "the engine has a provider")
        with scene.client_engine(private, address):
            scene.client.ping("10.7.0.1", 1, wait=0.1)
            until(lambda: scene.engine.counters()["unknown_refused"], "a key without a row is refused")
            scene.database.run(INSERT, public, [f"{address}/32"])
            until(lambda: public in scene.peers(), "the row of a key that was refused is a peer at once")
            assert scene.client.ping("10.7.0.1", 1, wait=30).received == 1
            assert scene.peers()[public].others["on_demand"] == "1"
            scene.database.run("update plait.peer set keepalive = 21 where public_key = %s", public)
            until(lambda: scene.peers()[public].keepalive == 21, "a change of a peer that is there follows")
            scene.database.run("update plait.peer set keepalive = 22 where public_key = %s", unknown)
            scene.database.run("delete from plait.peer where public_key = %s", public)
            until(lambda: not scene.peers(), "the peer goes with its row")
        scene.database.run(INSERT, public, [f"{address}/32"])
        with scene.client_engine(private, address):  # another, which begins with a handshake
            assert scene.client.ping("10.7.0.1", 1, wait=30).received == 1
        assert set(scene.peers()) == {public}, "the row of a client that has not come is no peer"
        process.signal(signal.SIGKILL)
        process.wait()
    scene.database.run("delete from plait.peer where public_key = %s", public)
    with scene.syncing("--on-demand", "--fresh"):
        until(lambda: not scene.peers(), "what changed while it was away is found without a position")
