"""The listening UAPI socket: stale files are replaced, live ones refused, others' files stay."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
from pathlib import Path

import pytest

from plait import doctor
from workers.descriptors import identity, is_covered, is_gone
from workers.failure import Exit, Failure
from workers.supervisor.uapi_socket import DIRECTORY, _is_live, _remove_dead, adopt_uapi, open_uapi


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def test_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "wireguard"
    umask = os.umask(0o077)
    try:
        opened = open_uapi("wg0", directory)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert stat.S_IMODE((directory / "wg0.sock").stat().st_mode) == 0o700
    assert not os.get_inheritable(opened.fd)
    assert connects(directory / "wg0.sock")
    opened.close()
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_directory_that_others_may_write_is_closed_to_them(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(mode)
    assert doctor.socket_directory(tmp_path).state == "advice"
    opened = open_uapi("wg0", tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode & ~0o022
    (told,) = caplog.messages
    assert f"{tmp_path} has mode {mode:04o}" in told and told.endswith("nobody else may write there now")
    assert doctor.socket_directory(tmp_path).state == "ok"
    opened.close()
    open_uapi("wg0", tmp_path).close()
    assert len(caplog.messages) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the directory is given to another user")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 1000, 0)
    with pytest.raises(Failure, match="belongs to user 1000, who could replace the socket") as caught:
        open_uapi("wg0", tmp_path)
    assert caught.value.code == Exit.UAPI and f"chown root:root {tmp_path}" in caught.value.next_step
    assert list(tmp_path.iterdir()) == []
    found = doctor.socket_directory(tmp_path)
    assert found.state == "missing" and "user 1000" in found.found


def test_stale_file_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "wg0.sock"))
    opened = open_uapi("wg0", tmp_path)
    assert connects(tmp_path / "wg0.sock")
    opened.close()


def test_live_socket_is_refused_and_goes_on(tmp_path: Path) -> None:
    first = open_uapi("wg0", tmp_path)
    with pytest.raises(Failure, match="listens there already") as caught:
        open_uapi("wg0", tmp_path)
    assert caught.value.code == Exit.UAPI
    assert connects(tmp_path / "wg0.sock")
    first.close()


def test_a_successors_file_stays(tmp_path: Path) -> None:
    first = open_uapi("wg0", tmp_path)
    assert not first.is_gone()
    (tmp_path / "wg0.sock").unlink()
    assert first.is_gone()
    second = open_uapi("wg0", tmp_path)
    assert first.is_gone() and not second.is_gone()
    first.close()
    assert connects(tmp_path / "wg0.sock")
    second.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
def test_a_file_that_nobody_may_look_at_is_not_gone(tmp_path: Path) -> None:
    directory = tmp_path / "wireguard"
    opened = open_uapi("wg0", directory)
    directory.chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            os.stat(directory / "wg0.sock")
        assert not opened.is_gone()
        opened.follow("wg0")
        with pytest.raises(Failure, match=r"file stays .*: Permission denied; see to the directory"):
            opened.follow("wg1")
    finally:
        os.seteuid(0)
    directory.chmod(0o755)
    assert not opened.is_gone()
    opened.close()
    assert list(directory.iterdir()) == []


def test_a_file_is_looked_for_in_its_directory_whatever_that_is_called(tmp_path: Path) -> None:
    """As it is when something is mounted over the directory: the path leads elsewhere, the file is there."""
    directory, other = tmp_path / "wireguard", tmp_path / "moved"
    opened = open_uapi("wg0", directory)
    assert opened.path is not None and not is_covered(opened.path, opened.identity)
    directory.rename(other)
    assert not opened.is_gone() and is_covered(opened.path, opened.identity)
    successor = open_uapi("wg0", directory)
    assert not opened.is_gone() and is_covered(opened.path, opened.identity)
    (other / "wg0.sock").rename(other / "wg1.sock")
    assert opened.is_gone()
    (other / "wg1.sock").rename(other / "wg0.sock")
    opened.close()
    assert list(other.iterdir()) == [] and connects(directory / "wg0.sock"), "its own, not the successor's"
    successor.close()


def test_a_file_of_another_file_system_is_mounted_over_ours(tmp_path: Path) -> None:
    (tmp_path / "wg0.sock").touch()
    device, inode = identity(tmp_path / "wg0.sock")
    assert is_gone(tmp_path / "wg0.sock", (device, inode + 1))
    assert not is_gone(tmp_path / "wg0.sock", (device + 1, inode + 1))


def test_whether_somebody_listens_is_not_waited_for(tmp_path: Path) -> None:
    """A listener that takes nobody: the kernel's queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "wg0.sock"))
        listener.listen(0)
        waiting = True
        while waiting:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            waiting = client.connect_ex(str(tmp_path / "wg0.sock")) == 0
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        assert _is_live(tmp_path / "wg0.sock")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw == before, "it did not sleep"


def test_no_place_for_the_file(tmp_path: Path) -> None:
    (tmp_path / "wireguard").write_text("in the way")
    with pytest.raises(Failure) as caught:
        open_uapi("wg0", tmp_path / "wireguard")
    assert caught.value.code == Exit.UAPI and str(tmp_path) in str(caught.value)


def test_inherited_listening_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "wg0.sock"))
        with pytest.raises(Failure, match="not a listening"):
            adopt_uapi(sock.fileno())
        sock.listen()
        adopted = adopt_uapi(os.dup(sock.fileno()))
    assert connects(tmp_path / "wg0.sock")
    adopted.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_outside_the_usual_directory_keeps_its_name(tmp_path: Path) -> None:
    if not DIRECTORY.is_dir():
        pytest.skip(f"there is no {DIRECTORY}")
    opened = open_uapi("wg0", tmp_path)
    opened.follow("wg1")
    assert opened.path == tmp_path / "wg0.sock" and list(tmp_path.iterdir()) == [opened.path]
    opened.close()


def test_a_file_that_a_successor_put_in_the_place_of_ours_is_not_renamed(tmp_path: Path) -> None:
    opened = open_uapi("wg0", tmp_path)
    (tmp_path / "wg0.sock").unlink()
    (tmp_path / "wg0.sock").touch()
    opened.follow("wg1")
    assert opened.path == tmp_path / "wg0.sock" and list(tmp_path.iterdir()) == [opened.path]
    opened.close()


def test_a_guard_removes_a_socket_where_nobody_listens_and_nothing_else(tmp_path: Path) -> None:
    dead, other, file = tmp_path / "dead.sock", tmp_path / "wg0.sock", tmp_path / "file.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    opened = open_uapi("wg0", tmp_path)
    file.touch()
    for path in (dead, other, file, tmp_path / "missing.sock"):
        _remove_dead(path)
    assert {*tmp_path.iterdir()} == {other, file} and connects(other)
    opened.close()


def test_a_file_where_the_directory_would_be_is_told_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "wireguard").touch()
    with pytest.raises(Failure) as caught:
        open_uapi("wg0", tmp_path / "wireguard")
    assert (caught.value.why, caught.value.errno) == ("File exists", errno.EEXIST)
