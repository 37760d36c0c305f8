"""The log of an engine: every process writes into one pipe, a thread of the supervisor empties it.

    supervisor ──────────────────────────┐
    control, receivers, consumers ───────┴─▶ pipe ──▶ thread ──▶ file, terminal, journald, syslog
                       (their stderr)

- Only the thread waits for the log's destination. Writers never do: while the pipe is full they drop lines,
  count them, and say how many are missing as soon as there is room.
- The destination's own flags are left alone: a pipe or terminal on stderr belongs to others, too.
- The supervisor alone has the log file open, so that it alone opens another one (SIGHUP).
- What was never a log record (a message of C before abort, a traceback of the interpreter) comes along.
- The pipe, with the lines in it, survives the exec of an upgrade.

A line in the pipe is `<6>1769860800.482 wg0 control: text`: the severity of syslog, Unix time, process, text.
Every other line is an error of whatever process.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

from workers.environment import unknown
from workers.failure import Exit, Failure

LEVELS: Final = {
    "silent": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "verbose": logging.DEBUG,
    "trace": logging.DEBUG,
}
DEV_LOG: Final = "/dev/log"
STDERR: Final = 2
# A write of PIPE_BUF bytes is whole or does not happen (pipe(7)); the destination's head may be longer.
LINE_BYTES: Final = select.PIPE_BUF - 64
END_SECONDS: Final = 1.0  # for what is in the pipe, when the engine ends or becomes another program
RETRY_SECONDS: Final = 0.5  # between two tries to reach syslog
# A worker may write what it likes: eleven digits end in the year 5138, and no date goes beyond 9999.
_LINE: Final = re.compile(r"<([0-7])>(\d{1,11}\.\d{3}) (.*)", re.DOTALL)
_ERROR, _INFO = 3, 6  # of syslog
_WORDS: Final = {2: "critical", _ERROR: "error", 4: "warning", _INFO: "info", 7: "debug"}
_LOGGING: Final = {2: logging.CRITICAL, _ERROR: logging.ERROR, 4: logging.WARNING, 7: logging.DEBUG}

log = logging.getLogger("plait")


def level_name(environment: Mapping[str, str]) -> str:
    """LOG_LEVEL, or WG_LOG_LEVEL; empty when neither is set."""
    return (environment.get("LOG_LEVEL") or environment.get("WG_LOG_LEVEL") or "").lower()


def unknown_level(environment: Mapping[str, str]) -> str:
    """The sentence about a level that is none, empty when there is nothing to say."""
    name = "LOG_LEVEL" if environment.get("LOG_LEVEL") else "WG_LOG_LEVEL"
    if level_name(environment) in ("", *LEVELS):
        return ""
    return unknown(name, environment[name], tuple(LEVELS), "the level is info")


def configure(title: str) -> None:
    """Send what this process logs into the pipe, as TITLE, from the level of LOG_LEVEL (default info) on.

    A worker's stderr is the pipe.
    """
    fd, root = STDERR if _current is None else _current.writer, logging.getLogger()
    match root.handlers:
        case [PipeHandler() as handler]:  # the supervisor's, in a worker
            handler.fd, handler.title, handler.dropped = fd, title, 0
        case others:
            for old in list(others):
                root.removeHandler(old)
            handler = PipeHandler(fd, title)
            root.addHandler(handler)
            root.setLevel(LEVELS.get(level_name(os.environ), logging.INFO))
    if _current is not None:
        _current.handler = handler


def leave_log() -> None:
    """This process is a worker from now on: the thread is the supervisor's, and stderr is the pipe
    (worker_stderr)."""
    global _current
    _current = None


class PipeHandler(logging.Handler):
    """Writes records into a pipe that does not block."""

    def __init__(self, fd: int, title: str) -> None:
        super().__init__()
        self.fd = fd
        self.title = title
        self.dropped = 0  # lines for which there was no room

    def emit(self, record: logging.LogRecord) -> None:
        try:
            lines = self.format(record).splitlines() or [""]
        except Exception:
            self.handleError(record)
            return
        for line in lines:
            if not (self.tell_dropped() and self._write(_severity(record.levelno), record.created, line)):
                self.dropped += 1

    def tell_dropped(self) -> bool:
        """Say how many lines are missing, where they are missing. False when there is no room for that."""
        if self.dropped:
            told = f"{self.dropped} lines are missing here: the log's destination did not take them in time"
            if not self._write(_ERROR, time.time(), told):
                return False
            self.dropped = 0
        return True

    def _write(self, severity: int, created: float, line: str) -> bool:
        whole = f"<{severity}>{created:.3f} {self.title}: {line}".encode(errors="replace")
        try:
            os.write(self.fd, whole[: LINE_BYTES - 1] + b"\n")
        except OSError:  # full, or nobody reads any more
            return False
        return True


def _severity(level: int) -> int:
    for severity, least in ((2, logging.CRITICAL), (_ERROR, logging.ERROR), (4, logging.WARNING)):
        if level >= least:
            return severity
    return _INFO if level >= logging.INFO else 7


# -- destinations ------------------------------------------------------------------------------------


class Destination(Protocol):
    """Where the log goes. `put` may wait as long as it likes; OSError: the line is lost."""

    is_tried_again: bool  # a line that is lost now may be taken later

    def put(self, severity: int, created: float, text: str) -> None: ...


class Stderr:
    """Descriptor 2: a file, a pipe, a terminal, or a stream to journald."""

    is_tried_again = False

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.form = _file_form
        self.is_journal = is_journal(environment)
        if self.is_journal:
            self.form = _journal_form
        elif os.isatty(STDERR):
            is_coloured = not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
            self.form = _coloured_form if is_coloured else _terminal_form
        self.is_broken = False  # the last line is there in part

    def put(self, severity: int, created: float, text: str) -> None:
        data = ("\n" * self.is_broken + self.form(severity, created, text) + "\n").encode(errors="replace")
        self.is_broken, whole = False, len(data)
        while data:
            try:
                data = data[os.write(STDERR, data) :]
            except BlockingIOError:  # somebody who shares it made it so
                select.select([], [STDERR], [])
            except OSError:
                self.is_broken = len(data) < whole
                raise


def is_journal(environment: Mapping[str, str]) -> bool:
    """Whether stderr is the stream to journald that JOURNAL_STREAM names as DEVICE:INODE (systemd.exec(5)).

    The variable alone says nothing: it is inherited, and stderr may have been sent elsewhere since.
    """
    try:
        device, inode = map(int, environment.get("JOURNAL_STREAM", "").split(":"))
        found = os.fstat(STDERR)
    except (ValueError, OSError):
        return False
    return (found.st_dev, found.st_ino) == (device, inode)


def _journal_form(severity: int, created: float, text: str) -> str:
    """As sd-daemon(3) has it. journald adds the time."""
    return f"<{severity}>plait: {text}"


def _file_form(severity: int, created: float, text: str) -> str:
    when = datetime.fromtimestamp(created).astimezone().isoformat(timespec="milliseconds")
    return f"{when} {_WORDS.get(severity, 'info')} plait: {text}"


def _terminal_form(severity: int, created: float, text: str) -> str:
    when = datetime.fromtimestamp(created).strftime("%H:%M:%S")
    return f"{when} {_WORDS.get(severity, 'info'):5} plait: {text}"


def _coloured_form(severity: int, created: float, text: str) -> str:
    line = _terminal_form(severity, created, text)
    return f"\033[31m{line}\033[0m" if severity <= _ERROR else line


class Syslog:
    """The syslog of this host, at /dev/log. It adds the time."""

    is_tried_again = True  # it was restarted

    def __init__(self, path: str) -> None:
        from logging.handlers import SysLogHandler

        class Handler(SysLogHandler):
            def handleError(self, record: logging.LogRecord) -> None:
                raise  # noqa: PLE0704  logging calls it from an except clause

        self._path = path
        self._new = Handler
        self._handler: Handler | None = None

    def put(self, severity: int, created: float, text: str) -> None:
        if self._handler is None:  # only now: it may wait for a stream's listener
            self._handler = self._new(self._path, self._new.LOG_DAEMON)
            self._handler.ident = f"plaitd[{os.getpid()}]: "
        level = _LOGGING.get(severity, logging.INFO)
        self._handler.emit(logging.LogRecord("plait", level, "", 0, text, None, None))


# -- the engine's log --------------------------------------------------------------------------------


class EngineLog:
    """The pipe and the thread, in the supervisor. kind: file, stderr or syslog; path: of the file."""

    def __init__(
        self,
        kind: str,
        path: str,
        environment: Mapping[str, str],
        pipe: tuple[int, int] | None = None,
        dev_log: str = DEV_LOG,
    ) -> None:
        self.kind, self.path = kind, path
        self.is_silent = LEVELS.get(level_name(environment)) == LEVELS["silent"]
        self.destination: Destination = Syslog(dev_log) if kind == "syslog" else Stderr(environment)
        self.reader, self.writer = pipe or os.pipe()
        for fd in (self.reader, self.writer):
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)
        self.handler: PipeHandler | None = None  # the supervisor's own
        self.lost = 0  # lines that the destination refused
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._reopen = False
        self._turn = threading.Lock()  # one thread at a time empties the pipe
        self.is_refused = self.has_said = False  # the thread, by the kernel
        self._begin(is_needed=pipe is None)

    @property
    def is_for_people(self) -> bool:
        """Whether it goes to where whoever started this process reads."""
        return self.kind == "stderr" and not getattr(self.destination, "is_journal", False)

    def _begin(self, is_needed: bool = False) -> None:
        """is_needed: RuntimeError for want of a thread. An engine that runs goes on without, an engine that
        starts does not."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._empty, args=(self._ending,), name="log", daemon=True)
        # Signals are the main thread's: this one takes none that wait for another program (upgrade.py).
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        except RuntimeError:  # the kernel has none for us now
            if is_needed:
                raise
            self.is_refused = True
        else:
            self.is_refused = False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def look(self) -> None:
        """Try again, where no thread was to be had. What is said meanwhile waits in the pipe."""
        if self.is_refused:
            if not self.has_said:
                self.has_said = True
                log.error("the kernel had no thread for the log, which waited for it in the pipe")
            self._begin()

    def hold(self) -> None:
        """Write what is in the pipe and stop, within END_SECONDS; the rest stays in the pipe."""
        self._ending.set()
        self._ring()
        if self._thread.ident is not None:  # else it never began
            self._thread.join(END_SECONDS)

    def release(self) -> None:
        """After `hold`."""
        self._begin()

    def ask_to_reopen(self) -> bool:
        """Have the thread go over to a new file of the same name. False when the log is no file."""
        self._reopen = self.kind == "file"
        self._ring()
        return self.kind == "file"

    def close(self) -> None:
        """The last lines are written, as far as the destination takes them."""
        self.hold()
        if not self._thread.is_alive():
            for fd in (self.reader, self.writer, self._wake):
                os.close(fd)

    def _ring(self) -> None:
        os.eventfd_write(self._wake, 1)

    # -- the thread ---------------------------------------------------------------------------

    def _empty(self, ending: threading.Event) -> None:
        rest = b""
        with self._turn:
            while True:
                if not ending.is_set():
                    select.select([self.reader, self._wake], [], [])
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                self._obey()
                try:
                    more = os.read(self.reader, 1 << 16)
                except BlockingIOError:
                    if ending.is_set():
                        break
                    continue
                *lines, rest = (rest + more).split(b"\n")
                if len(rest) > LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._take(line, ending)
                    self._obey()
                if self.handler is not None and self.handler.dropped:  # there is room now
                    with self.handler.lock or contextlib.nullcontext():
                        self.handler.tell_dropped()
            if rest:
                self._take(rest, ending)

    def _obey(self) -> None:
        """Reopen the file when that was asked for."""
        if not self._reopen:
            return
        self._reopen = False
        try:
            _open_file(self.path)
        except OSError as error:
            why = error.strerror or str(error)
            words = "cannot reopen the log file %s: %s; the old one is kept, mend it and send SIGHUP again"
            log.error(words, self.path, why)
        else:
            log.info("SIGHUP: the log file %s was reopened", self.path)

    def _take(self, line: bytes, ending: threading.Event) -> None:
        text = line.decode(errors="replace")
        found = _LINE.fullmatch(text)
        if found is None and (self.is_silent or not text):
            return
        severity, created = (int(found[1]), float(found[2])) if found else (_ERROR, time.time())
        text = found[3] if found else text
        if not text.isprintable():  # nobody may write to a terminal by what is logged of him
            text = "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)
        while True:
            try:
                if self.lost:
                    told = f"{self.lost} lines are missing here: the log's destination refused them"
                    self.destination.put(_ERROR, time.time(), told)
                    self.lost = 0
                self.destination.put(severity, created, text)
                return
            except OSError:
                if ending.is_set() or not self.destination.is_tried_again:
                    self.lost += 1
                    return
            ending.wait(RETRY_SECONDS)


_current: EngineLog | None = None  # of the engine whose supervisor this process is


def choose(environment: Mapping[str, str], in_background: bool, dev_log: str = DEV_LOG) -> str:
    """Where the log goes: file (WG_LOG_FILE), stderr, syslog, or nowhere.

    Whoever sets a level in the background wants to see it on stderr; else syslog has it, where there is one.
    """
    if environment.get("WG_LOG_FILE"):
        return "file"
    if not in_background:
        return "stderr"
    level = level_name(environment)
    if level:
        return "nowhere" if level == "silent" else "stderr"
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.stat(dev_log).st_mode):
            return "syslog"
    return "nowhere"


@contextlib.contextmanager
def opened(
    title: str,
    environment: Mapping[str, str],
    in_background: bool = False,
    left: Mapping[str, Any] | None = None,
    dev_log: str = DEV_LOG,
) -> Iterator[EngineLog]:
    """The log of the engine whose supervisor this process is, as TITLE. Failure: its file cannot be opened.

    left: what another program said of the log before this one took its place.
    """
    global _current
    for fd in range(3):  # a log must not go to whatever gets the number of a stderr that was closed
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_GETFD)
            continue
        os.open(os.devnull, os.O_RDWR)
    path = os.path.abspath(environment["WG_LOG_FILE"]) if environment.get("WG_LOG_FILE") else ""
    kind = choose(environment, in_background, dev_log)
    if left is not None:
        kind, path, pipe = left["kind"], left["path"], tuple(left["pipe"])
        _current = EngineLog(kind, path, environment, pipe, dev_log)
    else:
        if kind == "file":
            try:
                _open_file(path)
            except OSError as error:
                raise Failure(
                    f"cannot write the log file {path}",
                    error.strerror or str(error),
                    "mend WG_LOG_FILE or unset it",
                    Exit.USAGE,
                ) from error
        _current = EngineLog("stderr" if kind == "nowhere" else kind, path, environment, dev_log=dev_log)
    configure(title)
    if words := unknown_level(environment):
        log.warning("%s", words)
    try:
        yield _current
    finally:
        sys.stderr.flush()
        if _current.handler is not None:
            logging.getLogger().removeHandler(_current.handler)
        _current.close()
        _current = None


def _open_file(path: str) -> None:
    """Have stderr be this file, opened to be appended to. Does not wait for a FIFO's reader."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    fd = os.open(path, flags, 0o600)
    os.set_blocking(fd, True)
    os.dup2(fd, STDERR)
    os.close(fd)


def reopen() -> bool:
    """Go over to a new log file of the same name. False when the log is no file. Never waits."""
    return _current is not None and _current.ask_to_reopen()


def worker_stderr() -> int | None:
    """What a worker is given as its stderr; None: ours."""
    return None if _current is None else _current.writer


def fds() -> list[int]:
    """What another program needs of the log that takes this one's place."""
    return [] if _current is None else [_current.reader, _current.writer]


def describe() -> dict[str, Any] | None:
    """The log, for that program (handover.py)."""
    if _current is None:
        return None
    return {"kind": _current.kind, "path": _current.path, "pipe": fds()}


def look() -> None:
    """Now and then: the log's thread may have been refused."""
    if _current is not None:
        _current.look()


def hold() -> None:
    """Before an exec: write what is in the pipe."""
    if _current is not None:
        _current.hold()


def release() -> None:
    """The exec did not succeed."""
    if _current is not None:
        _current.release()
