"""plaitd: the launcher that wg-quick starts, `plaitd IFACE`.

It returns when the UAPI socket listens and every process is ready, and leaves the engine in
the background; --foreground stays. The background process is forked off before anything but
the command line was looked at; until it is ready, its parent waits for its word and passes
error text and exit code on.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import setproctitle

from plait import standard_streams
from plait.failure import Failure as NotWritten
from workers.control.keylog import VARIABLE, WARNING
from workers.environment import choice
from workers.failure import Exit, Failure, explain
from workers.log import choose, level_name, opened

log = logging.getLogger("plait")
ENDING = (  # a launcher that waits
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT,
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
)  # fmt: skip
NO_LOG = (
    "{interface} runs and logs nowhere, since this host has no syslog at /dev/log; "
    "set WG_LOG_FILE=FILE for a log, and see `plait events {interface}`"
)

if TYPE_CHECKING:
    from workers.launch import WorkerStart
    from workers.supervisor.patience import Patience

class Options(NamedTuple):
    """The command line of plaitd."""

    interface: str
    foreground: bool = False
    inherit: int | None = None  # the descriptor that an upgrade left (supervisor/upgrade.py)
    trial: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """The program plaitd. Returns an exit code (workers.failure.Exit)."""
    # A title is written over the arguments and the environment. setproctitle finds both only while the
    # environment's first variable is as the kernel put it, and without a word gives no title afterwards.
    setproctitle.getproctitle()
    standard_streams.prepare()
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()  # now, since a failure at Python's own end would be a traceback
    except NotWritten as failure:
        print(f"plaitd: {failure}", file=sys.stderr)
    except BrokenPipeError:
        pass  # the reader has seen enough
    except KeyboardInterrupt:  # before there is anything to end
        return 128 + signal.SIGINT
    return Exit.INTERNAL


def _main(arguments: Sequence[str] | None) -> int:
    options = _options(sys.argv[1:] if arguments is None else arguments)
    foreground = options.foreground or _is_foreground(os.environ.get("WG_PROCESS_FOREGROUND", ""))
    try:
        if options.inherit is not None:
            return take_over(options.interface, options.inherit, options.trial)
        if foreground:
            return start_in_foreground(options.interface)
        return start_in_background(options.interface)
    except Failure as failure:
        print(f"plaitd: {failure}", file=sys.stderr)
        return failure.code
    except (OSError, RuntimeError) as error:  # before there is a log
        print("plaitd: cannot run the engine: {}; {}".format(*explain(error)), file=sys.stderr)
        return Exit.PRIVILEGE


def _options(arguments: Sequence[str]) -> Options:
    """What the command line says. Ends the process when it asks for help, or has no meaning."""
    match arguments:
        case [interface] if not interface.startswith("-"):
            return Options(interface)
        case ["--foreground", interface] if not interface.startswith("-"):
            return Options(interface, foreground=True)
        case ["--inherit", fd, interface] if fd.isdigit() and not interface.startswith("-"):
            return Options(interface, inherit=int(fd))
    from plait import plaitd_help  # late: argparse is for people; what it loads, an engine would keep

    return Options(**vars(plaitd_help.parser().parse_args(arguments)))


def _is_foreground(value: str) -> bool:
    instead = "plaitd goes to the background"
    return choice("plaitd", "WG_PROCESS_FOREGROUND", value, ("1", "0"), "0", instead) == "1"


def program() -> list[str]:
    """How plaitd was started, which starts whatever is installed there later."""
    path = os.path.abspath(sys.argv[0])
    return [path] if os.access(path, os.X_OK) else [sys.executable, "-P", path]


def take_over(interface: str, fd: int, is_trial: bool) -> int:
    """Go on in the place of a supervisor that was this very process before exec (supervisor/upgrade.py).

    fd: what it left. A trial is a process beside it, which only says whether it could.
    """
    from workers import trial, version
    from workers.promises import PR_SET_DUMPABLE, set_process_option
    from workers.supervisor import handover

    with contextlib.suppress(OSError):
        set_process_option(PR_SET_DUMPABLE, 0)
    description = handover.read(fd)
    if is_trial:
        trial.look(description)
        print(f"plaitd {version.words()}\n{handover.ACCEPTED}")
        return Exit.OK
    with opened(_title(interface), os.environ, left=description.get("log")):
        return _run(lambda: _go_on(interface, description), lambda _, text: log.error("%s", text))


def _go_on(interface: str, description: dict[str, Any]) -> None:
    """The engine that another program left."""
    work = _load_engine()
    from workers.providers import prepare
    from workers.settings import described
    from workers.supervisor.notify import ServiceManager
    from workers.supervisor.process import Supervisor
    from workers.supervisor.resources import Resources
    from workers.supervisor.signals import Signals

    settings = described(description["settings"])
    prepare(settings.aead)
    _take_title(interface)
    _take_small_pages()
    manager = ServiceManager(os.environ)
    with (
        Signals(Supervisor.SIGNALS) as signals,
        Resources.resume(interface, description["resources"]) as resources,
    ):
        supervisor = Supervisor(resources, settings, signals, lambda: None, work, manager, program())
        supervisor.resume(description)
        supervisor.run()
    log.info("ended, nothing is left")


def serve(interface: str, on_ready: Callable[[], None], patience: Patience | None = None) -> None:
    """Run the engine of one interface until it ends. patience: None for the supervisor's own.

    Raises Failure when it cannot start.
    """
    # Imported late: the parent of a background engine needs none of it.
    work = _load_engine()
    from workers.control.keylog import open_keylog
    from workers.promises import PR_SET_DUMPABLE, set_process_option
    from workers.providers import prepare
    from workers.settings import load
    from workers.supervisor import room, tun
    from workers.supervisor.notify import ServiceManager
    from workers.supervisor.process import Supervisor
    from workers.supervisor.resources import Resources, fit
    from workers.supervisor.signals import Signals

    tun.check_name(interface)
    settings = load(interface, shrink=room.fitted)
    keylog = open_keylog(os.environ)
    if keylog is not None:
        keylog.close()
    settings = fit(settings, interface, os.environ)
    prepare(settings.aead)
    room.raise_files(settings)
    room.raise_stack()
    _take_title(interface)
    _take_small_pages()
    with contextlib.suppress(OSError):  # as early as can be; the supervisor says it if this is refused
        set_process_option(PR_SET_DUMPABLE, 0)
    manager = ServiceManager(os.environ)
    with (
        Signals(Supervisor.SIGNALS) as signals,
        Resources.open(interface, settings, os.environ) as resources,
    ):
        Supervisor(resources, settings, signals, on_ready, work, manager, program(), patience).run()
    log.info("ended, nothing is left")


def _run(engine: Callable[[], None], tell: Callable[[int, str], None]) -> int:
    """Run the engine; its exit code. tell(exit code, text): why it failed."""
    try:
        engine()
    except Failure as failure:
        tell(failure.code, str(failure))
        return failure.code
    except OSError as error:
        log.debug("the kernel refused something", exc_info=True)
        tell(Exit.PRIVILEGE, "cannot run the engine: {}; {}".format(*explain(error)))
        return Exit.PRIVILEGE
    except Exception as error:
        log.critical("the supervisor ends on an error that nobody expected", exc_info=True)
        fault = f"{type(error).__name__}: {error}"
        tell(Exit.INTERNAL, f"the engine failed: {fault}; see where with `plaitd --foreground`")
        return Exit.INTERNAL
    return Exit.OK


def _title(interface: str) -> str:
    return f"{interface} supervisor"


def _load_engine() -> Mapping[str, Callable[[WorkerStart], None]]:
    """Load all that any process of the engine runs: what each kind of worker does."""
    # Linear algebra, which nobody needs, starts no threads: workers are forks, of a process with one thread.
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    from workers.arrays import load_arrays

    load_arrays()
    import workers.supervisor.process
    import workers.supervisor.resources  # noqa: F401
    from workers import version
    from workers.entry_points import WORK

    # Else the first full collection in any process would write to all pages of Python that they share.
    gc.freeze()
    version.as_dict()  # reads files and asks git, which nobody waits for who has something to watch
    return WORK


def _take_title(interface: str) -> None:
    from workers.launch import take_title

    take_title(_title(interface))


def _take_small_pages() -> None:
    """Tables that have a place for 2^20 peers must not cost 2 MiB each for the first of them."""
    from workers.promises import PR_SET_THP_DISABLE, set_process_option

    with contextlib.suppress(OSError):  # a kernel without huge pages
        set_process_option(PR_SET_THP_DISABLE, 1)


def start_in_foreground(interface: str) -> int:
    """Run the engine. Its last words to whoever started it come behind its log."""
    words: list[str] = []

    def tell(_: int, text: str) -> None:
        if engine_log.is_for_people:
            words.append(text)
        else:  # stderr is the log, and not read as it comes
            log.error("%s", text)

    with opened(_title(interface), os.environ) as engine_log:
        code = _run(lambda: serve(interface, lambda: None), tell)
    for text in words:
        print(f"plaitd: {text}", file=sys.stderr)
    return code


def start_in_background(interface: str) -> int:
    """Fork the engine off and wait until it is ready, or has said why not. A signal that ends the wait
    ends the engine."""
    if os.environ.get(VARIABLE):  # in the foreground control's own warning is seen
        print(f"plaitd: {WARNING.format(os.environ[VARIABLE])}", file=sys.stderr)
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reader)
        os._exit(_run_in_background(interface, writer))
    os.close(writer)
    return _await(child, reader)


def _run_in_background(interface: str, writer: int) -> int:
    """The child: what it has to say until it is ready goes to its parent through writer."""
    parent = _Parent(writer)

    def tell(code: int, text: str) -> None:
        parent.tell(code, text)
        if not engine_log.is_for_people:
            log.error("%s", text)

    try:
        os.setsid()
        _redirect(os.environ)
        _leave_directory()
        with opened(_title(interface), os.environ, in_background=True) as engine_log:
            words = ""
            if choose(os.environ, in_background=True) == "nowhere" and not level_name(os.environ):
                words = NO_LOG.format(interface=interface)
            return _run(lambda: serve(interface, lambda: parent.tell(Exit.OK, words)), tell)
    except Failure as failure:
        parent.tell(failure.code, str(failure))
        return failure.code
    except (OSError, RuntimeError) as error:
        parent.tell(Exit.PRIVILEGE, "cannot run the engine: {}; {}".format(*explain(error)))
        return Exit.PRIVILEGE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException as error:
        parent.tell(Exit.INTERNAL, f"the engine failed: {type(error).__name__}: {error}; tell of this fault")
        return Exit.INTERNAL


class _Parent:
    """The waiting parent, as its background child sees it: it listens once."""

    def __init__(self, writer: int) -> None:
        self.writer: int | None = writer

    def tell(self, code: int, text: str) -> None:
        """Say how the start went; nobody hears anything that comes after.

        Failure when it cannot be told that it went well: of such an engine nobody would know.
        """
        if self.writer is None:
            return
        writer, self.writer = self.writer, None
        try:
            os.write(writer, f"{int(code)} {text}".encode()[:4096])
        except BrokenPipeError as error:
            if code == Exit.OK:
                why, next_step = "the plaitd that waited for it was killed", "start it again"
                raise Failure("the engine ends", why, next_step, Exit.INTERNAL) from error
        finally:
            os.close(writer)


def _leave_directory() -> None:
    """Hold no directory busy. Paths in the environment keep their meaning."""
    for name in ("PLAIT_CONFIG", "PLAIT_CLOCK", "WG_LOG_FILE", VARIABLE):
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(os.environ[name])
    sys.argv[0] = os.path.abspath(sys.argv[0])
    os.chdir("/")


class _Interrupted(BaseException):
    """A signal that ends the parent: its number."""


def _interrupt(number: int, _: object) -> NoReturn:
    raise _Interrupted(number)


def _await(child: int, reader: int) -> int:
    """The parent, ENDING blocked: 0 once the child is ready, else its exit code, with its words on stderr."""
    for ending in ENDING:
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(ending, _interrupt)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        with os.fdopen(reader) as pipe:
            words = pipe.read()
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # too late: the child is ready, or ends
    except _Interrupted as interrupted:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        return 128 + int(interrupted.args[0])
    if not words:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(
            f"plaitd: the engine ended before it was ready: exit code {code}; see why with --foreground",
            file=sys.stderr,
        )
        return code if code > 0 else Exit.INTERNAL
    number, _, text = words.partition(" ")
    if text:
        print(f"plaitd: {text}", file=sys.stderr)
    return int(number)


def _redirect(environment: Mapping[str, str]) -> None:
    """Let go of the terminal, unless the log goes there."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if choose(environment, in_background=True) != "stderr":
        os.dup2(null, 1)
        os.dup2(null, 2)
    if null > 2:
        os.close(null)


if __name__ == "__main__":
    sys.exit(main())
