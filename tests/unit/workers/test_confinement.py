"""What a worker can not do any more when it has begun to work.

The walls are tried from inside (confinement_trials.py): each deed without walls, where it must succeed, then
behind the walls, all of them and each alone. Then they are looked at from outside, at each process of a
running engine. An engine works on where the kernel does not grant all walls.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from plait.doctor import has_capability
from plait.lab.namespaces import PLAIT, Host, Lab, read_proc
from tests.support.waiting import until
from tests.unit.workers.confinement_deeds import DEEDS, DONE, EACCES, EPERM, KILLED, by_number
from tests.unit.workers.confinement_trials import BY_ARGUMENTS, LANDLOCK_CREATE_RULESET
from workers._workers import lib
from workers.priorities import CAP_SYS_NICE

pytestmark = pytest.mark.network

CAP_NET_ADMIN, CAP_SYS_RESOURCE, CAP_MAC_OVERRIDE, CAP_CHECKPOINT_RESTORE = 12, 24, 32, 40
SETTINGS = "receivers = 2\nconsumers = 2\nmax_peers = 64\nsmall_slots = 64\ntrain_slots = 1\n"
ROOT = Path(__file__).parents[3]
REFUSING = str(Path(__file__).with_name("refusing.py"))
PROGRAM = ("-m", "tests.unit.workers.confinement_trials")
ROLES = ("packets", "control")
NO_TRACER = ("setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace")
OPEN_MEMORY = """
import errno, sys
for pid in sys.argv[1:]:
    try:
        open(f"/proc/{pid}/mem", "rb").close()
        print("opened")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def tried(walls: str, role: str, directory: Path) -> dict[str, str]:
    """What came of each deed behind these walls."""
    command = [sys.executable, *PROGRAM, walls, role, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers: dict[str, str] = json.loads(done.stdout)
    return answers


def differences(answers: dict[str, str], expected: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Of each deed that ended otherwise: how, and how it should."""
    assert answers.keys() == expected.keys()
    return {name: (answers[name], expected[name]) for name in expected if answers[name] != expected[name]}


@pytest.fixture(scope="module")
def behind_filter(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """By role: the filter of system calls alone stands, and the process has every capability."""
    return {role: tried("filter", role, tmp_path_factory.mktemp(role)) for role in ROLES}


def test_deeds_are_possible_without_walls(tmp_path: Path) -> None:
    """Or else their refusal would say nothing."""
    expected = dict.fromkeys(DEEDS, DONE)
    assert differences(tried("none", "control", tmp_path), expected) == {}


@pytest.mark.parametrize("role", ROLES)
def test_filter_alone(behind_filter: dict[str, dict[str, str]], role: str) -> None:
    answers = {name: behind_filter[role][name] for name in DEEDS}
    assert differences(answers, {name: getattr(deed, role) for name, deed in DEEDS.items()}) == {}


@pytest.mark.parametrize("role", ROLES)
def test_calls_that_are_refused_whatever_they_are_told(
    behind_filter: dict[str, dict[str, str]], role: str
) -> None:
    expected = {name: answer for name, (_, answer) in by_number().items()}
    answers = {name: behind_filter[role][name] for name in expected}
    assert differences(answers, expected) == {}


@pytest.mark.parametrize("role", ROLES)
def test_calls_that_are_allowed_with_some_arguments(
    behind_filter: dict[str, dict[str, str]], role: str
) -> None:
    assert behind_filter[role][BY_ARGUMENTS] == DONE


def test_capabilities_that_cannot_be_asked_for_are_said() -> None:
    program = """
import os
from workers._workers import ffi, lib
os._exit(lib.sandbox_enter(0, ffi.NULL, ffi.NULL, 1) & lib.SANDBOX_CAPABILITIES != lib.SANDBOX_CAPABILITIES)
"""
    command = [sys.executable, REFUSING, "capget:EPERM", "--", sys.executable, "-c", program]
    subprocess.run(command, check=True)


@pytest.mark.parametrize(("refusal", "walls"), [
    ("chroot:EPERM", 0),  # which is no wall of these
    ("prctl,0=38:EPERM", lib.SANDBOX_FILES | lib.SANDBOX_SYSTEM_CALLS),  # PR_SET_NO_NEW_PRIVS
    ("prctl,0=22:EINVAL", lib.SANDBOX_SYSTEM_CALLS),  # PR_SET_SECCOMP
    ("capget:EPERM", lib.SANDBOX_CAPABILITIES), ("capset:EPERM", lib.SANDBOX_CAPABILITIES),
    ("landlock_create_ruleset:ENOSYS", lib.SANDBOX_FILES),
    ("landlock_restrict_self:EPERM", lib.SANDBOX_FILES),
])  # fmt: skip
def test_the_walls_that_are_not_granted_are_said_and_no_others(refusal: str, walls: int) -> None:
    """To a process that keeps its capabilities: without them, one refusal leads to another."""
    if ctypes.CDLL(None).syscall(LANDLOCK_CREATE_RULESET, None, 0, 1) < 1:
        walls |= lib.SANDBOX_FILES
    enter = f"""
import os
from workers._workers import ffi, lib
os._exit(lib.sandbox_enter({2**64 - 1}, ffi.NULL, ffi.NULL, 1))
"""
    done = subprocess.run([sys.executable, REFUSING, refusal, "--", sys.executable, "-c", enter])
    assert done.returncode == walls


FILTERS = """
#include <sys/wait.h>
#include <unistd.h>
#include "workers/system_calls.h"
int main(void)
{
    int status = 0;
    for (int packets = 0; packets < 2 && status == 0; packets++) {
        pid_t child = fork();
        if (child == 0)
            _exit(system_calls_restrict(packets) != 0);
        waitpid(child, &status, 0);
    }
    return status != 0;
}
"""


def test_filters_are_made_of_their_lists_and_nothing_behind_them(tmp_path: Path) -> None:
    """A rule read from beyond a list would allow whatever the compiler put there."""
    (tmp_path / "filters.c").write_text(FILTERS)
    command = ["cc", "-std=gnu11", "-D_GNU_SOURCE", "-g", "-fsanitize=address,undefined", f"-I{ROOT}",
               "-fno-sanitize-recover=all", str(tmp_path / "filters.c"), str(ROOT / "workers/system_calls.c"),
               "-o", str(tmp_path / "filters")]  # fmt: skip
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "filters"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# What Landlock takes from a process that has every capability and may make every system call, by the version
# of its interface.
LANDLOCK = {
    1: dict.fromkeys(
        ("read elsewhere", "write elsewhere", "write there", "cut", "open by the older call", "create",
         "create without a name", "openat2", "open_by_handle_at", "remove elsewhere", "remove a directory",
         "/proc/PID/mem", "/proc/PID/mem to write", "execve", "execveat"), EACCES,
    ) | dict.fromkeys(
        ("mount", "umount2", "move_mount", "pivot_root", "ptrace", "process_vm_readv", "process_vm_writev",
         "pidfd_getfd", "kcmp"), EPERM,
    ),
    4: {"listen by TCP": EACCES},
    6: dict.fromkeys(
        ("connect by an abstract name", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
         "pidfd_send_signal"), EPERM,
    ),
}  # fmt: skip


def test_landlock_alone(tmp_path: Path) -> None:
    version = ctypes.CDLL(None).syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)
    expected = dict.fromkeys(DEEDS, DONE)
    for since, taken in LANDLOCK.items():
        if version >= since:
            expected |= {name: answer for name, answer in taken.items() if name in DEEDS}
    assert differences(tried("landlock", "control", tmp_path), expected) == {}


# Answers for a kernel whose Landlock has the version in VERSION, and prints what it is asked to handle.
KERNEL = """
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_landlock_restrict_self)
        return 0;
    if (number != SYS_landlock_create_ruleset)
        return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (a[2] == LANDLOCK_CREATE_RULESET_VERSION) {
        errno = EOPNOTSUPP;
        return atoi(getenv("VERSION")) ? atoi(getenv("VERSION")) : -1;
    }
    const uint64_t *asked = (const uint64_t *)a[0];
    if (getenv("REFUSES"))
        return -1;
    dprintf(1, "%llx %llx %llx", (long long)asked[0], (long long)asked[1], (long long)asked[2]);
    return open("/dev/null", O_RDONLY);
}
"""
ENTER = """
import os
from workers._workers import ffi, lib
os._exit(bool(lib.sandbox_enter(2**64 - 1, ffi.NULL, ffi.NULL, 1) & lib.SANDBOX_FILES))
"""
# Of linux/landlock.h: the rights to files, of the network and of scopes, in bits.
ASKED = {
    0: "", 1: "1fff 0 0", 2: "3fff 0 0", 3: "7fff 0 0", 4: "7fff 3 0", 5: "ffff 3 0", 6: "ffff 3 3",
    7: "ffff 3 3",
}  # fmt: skip


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kernel")
    (directory / "kernel.c").write_text(KERNEL)
    command = ["cc", "-D_GNU_SOURCE", "-shared", "-fPIC", str(directory / "kernel.c"), "-o",
               str(directory / "kernel.so")]  # fmt: skip
    subprocess.run(command, check=True)
    return directory / "kernel.so"


@pytest.mark.parametrize("version", ASKED)
def test_landlock_is_asked_for_all_that_its_version_knows(kernel: Path, version: int) -> None:
    """This kernel shows one version; the rights of the others are only in its header."""
    environment = os.environ | {"LD_PRELOAD": str(kernel), "VERSION": str(version)}
    done = subprocess.run([sys.executable, "-c", ENTER], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (ASKED[version], 0 if version else 1), done.stderr


def test_a_ruleset_may_be_any_descriptor_and_none_is_said(kernel: Path) -> None:
    """Of a process without stdin it is the lowest."""
    environment = os.environ | {"LD_PRELOAD": str(kernel), "VERSION": "3"}
    enter = [sys.executable, "-c", "import os; os.close(0)" + ENTER]
    assert subprocess.run(enter, env=environment, stdout=PIPE).returncode == 0
    assert subprocess.run(enter, env=environment | {"REFUSES": "1"}, stdout=PIPE).returncode == 1


REMOVE = """
import ctypes, os, sys
from workers._workers import ffi, lib
directory = sys.argv[1]
paths = ffi.new("char[]", directory.encode())
listed = ffi.new("char *[]", [paths, ffi.NULL])
assert not lib.sandbox_enter(0, ffi.NULL, listed, 0) & lib.SANDBOX_FILES
os.unlink(directory + "/file")
"""


def test_a_file_is_removed_from_a_directory_that_may_not_be_read(tmp_path: Path) -> None:
    """As root without its capabilities is anybody."""
    directory = tmp_path / "closed"
    directory.mkdir()
    (directory / "file").touch()
    directory.chmod(0o300)
    subprocess.run([sys.executable, "-c", REMOVE, str(directory)], check=True)
    assert not (directory / "file").exists()


# What takes a capability.
PRIVILEGED = (
    "mount", "umount2", "fsopen", "fsmount", "fspick", "move_mount", "open_tree", "mount_setattr",
    "pivot_root", "chroot", "setns", "name the host", "a raw socket", "a packet socket", "open_by_handle_at",
)  # fmt: skip


def test_capabilities_alone(tmp_path: Path) -> None:
    answers = tried("capabilities", "control", tmp_path)
    assert {name: answers[name] for name in PRIVILEGED} == dict.fromkeys(PRIVILEGED, EPERM)


KEEP = """
import sys
from workers._workers import ffi, lib
lib.sandbox_enter(int(sys.argv[1]), ffi.NULL, ffi.NULL, 0)
print("entered", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kept", [
    0, 1, 1 << CAP_NET_ADMIN, 1 << 31, 1 << CAP_MAC_OVERRIDE, 1 << CAP_CHECKPOINT_RESTORE, 1 << 31 | 1 << 39,
])  # fmt: skip
def test_what_is_kept_is_kept_and_nothing_else(kept: int) -> None:
    """Also in the bounding set: what is not in it is lost to whatever the process becomes. In both words
    of 32 that the kernel takes; the process begins with two that it would hand on."""
    hands_on = ("setpriv", "--inh-caps", "+net_admin,+sys_nice", "--ambient-caps", "+net_admin,+sys_nice")
    command = [*hands_on, sys.executable, "-c", KEEP, str(kept)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "entered\n"
        lines = (read_proc(process.pid, "status") or "").splitlines()
        process.communicate()
    told = (line.split(":\t") for line in lines if line.startswith("Cap"))
    held = {name: int(value, 16) for name, value in told}
    assert held == {"CapInh": 0, "CapPrm": kept, "CapEff": kept, "CapBnd": kept, "CapAmb": 0}


@pytest.mark.parametrize("role", ROLES)
def test_all_walls(tmp_path: Path, role: str) -> None:
    """The filter answers first; what it lets through ends at Landlock."""
    expected = {name: getattr(deed, role) for name, deed in DEEDS.items() if getattr(deed, role) != KILLED}
    if role == "control":
        expected |= dict.fromkeys(("read elsewhere", "remove elsewhere", "/proc/PID/mem"), EACCES)
    assert differences(tried("all", role, tmp_path), expected) == {}


def statuses(host: Host) -> dict[str, dict[str, str]]:
    """/proc/PID/status of the engine's processes, by title."""
    found = {}
    for title, pid in host.titles().items():
        lines = (read_proc(pid, "status") or "").splitlines()
        found[title] = dict(line.split(":\t", 1) for line in lines)
    return found


@pytest.fixture(scope="module")
def running() -> Iterator[Host]:
    """An engine whose user, root, may trace its own processes and, without a capability, no others."""
    with Lab() as lab:
        host = lab.host("one")
        engine = host.engine("wg0", [*NO_TRACER, *PLAIT], settings=SETTINGS)
        until(lambda: "wg0 is ready" in engine.process.output(), "every worker, confined")
        yield host


@pytest.fixture(scope="module")
def processes(running: Host) -> dict[str, dict[str, str]]:
    return statuses(running)


@pytest.mark.parametrize("title", ["control", "receiver 0", "receiver 1", "consumer 0", "consumer 1"])
def test_walls_from_outside(processes: dict[str, dict[str, str]], title: str) -> None:
    status = processes[title]
    may_raise_limits = has_capability(CAP_SYS_RESOURCE) or resource.getrlimit(resource.RLIMIT_RTPRIO)[1]
    expected = 1 << CAP_NET_ADMIN if title == "control" else 0 if may_raise_limits else 1 << CAP_SYS_NICE
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[name], 16) == expected, name
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"  # a filter
    assert int(status["Threads"]) == 1


def test_no_process_can_be_traced_by_its_own_user(running: Host) -> None:
    """Nor leaves a core file: the kernel asks the same mark of a process (prctl(2), PR_SET_DUMPABLE). Whoever
    asks here has all capabilities of the engine; of a process without that mark, the memory can be opened."""
    ordinary = running.popen([*NO_TRACER, "sleep", "1000"])
    pids = running.titles()
    try:
        look = [*NO_TRACER, sys.executable, "-c", OPEN_MEMORY]
        until(lambda: (read_proc(ordinary.pid, "cmdline") or "").startswith("sleep"), "an ordinary process")
        asked = map(str, (ordinary.pid, *pids.values()))
        done = subprocess.run([*look, *asked], capture_output=True, text=True, timeout=120)
    finally:
        ordinary.stop()
        ordinary.close()
    assert done.stdout.split() == ["opened", *["EACCES"] * len(pids)], done.stderr
    assert {"supervisor", "control", "receiver 0", "consumer 0"} <= pids.keys()


def test_engine_works_where_the_kernel_grants_no_wall() -> None:
    """Each is named once in the log, for all workers together."""
    with Lab() as lab:
        host = lab.host("one")
        command = [sys.executable, *PROGRAM, "refuse", "nothing", *PLAIT]
        engine = host.engine("wg0", command, settings=SETTINGS)
        assert "errno=0" in engine.uapi("get=1\n\n", 60)
        until(lambda: "wg0 is ready" in engine.process.output(), "every worker, and the log's lines of it")
        said = [line for line in engine.process.output().splitlines() if "promise does not hold" in line]
        words = ["give up their capabilities", "open no files (Landlock)", "loops (seccomp)"]
        assert [word for word in words for line in said if word in line] == words
