"""Signals that stop a run between two steps, so that the same command can resume it."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

# Ctrl-C, the end of a job, a terminal that is closed, and what is sent some time before
# the end of a job: the SIGUSRs by SLURM and Grid Engine, SIGXCPU by a limit of time.
# Windows lacks some of them.
STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
URGENT = (signal.SIGINT, signal.SIGTERM)  # a second one ends the run at once
TWICE = 0.5  # seconds in which two signals are one: `timeout` and shells send it twice
GRACE = 6.0  # seconds from a signal to the end, wherever the run is stuck

RESUME = "Run the same command to resume."
SAVED = f"Stopped and saved. {RESUME}"
STUCK = f"Stopped in the middle of a step; what was saved before is kept. {RESUME}"
AT_ONCE = "Stopped at once by a second {}; what was saved before is kept. " + RESUME

_asked = False
cut_off: Callable[[], None] | None = None  # called before a run that is stuck ends


def asked() -> bool:
    """Whether the run was asked to stop."""
    return _asked


def check() -> None:
    """Raises KeyboardInterrupt if the run was asked to stop.

    Called where the run can be left; it waits for nothing.
    """
    if _asked:
        raise KeyboardInterrupt


def ignore() -> None:
    """From now on nothing stops the process: its work is done and its exit code set."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """The first signal ends the block at the next `check`, a second one at once.

    A signal that is ignored already stays so, as SIGHUP under `nohup`.

    Nothing is interrupted where it happens to be: Python drops an exception that a
    signal raises in a callback of the garbage collector, and JAX has one.

    A thread keeps the time, for the main thread may be compiling or waiting for a
    device. What it then cuts off is what a kill would, and the next command goes on.
    In place of a traceback a line is printed to standard error.
    """
    global _asked
    listener, wakeup = socket.socketpair()
    wakeup.setblocking(False)  # as Python demands
    watch = threading.Thread(target=_watch, args=(listener,), daemon=True)
    watch.start()
    previous_fd = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    previous = {each: signal.getsignal(each) for each in STOPPING}
    heard = [each for each in STOPPING if previous[each] is not signal.SIG_IGN]
    for each in heard:
        signal.signal(each, _nothing)
    try:
        yield
    except KeyboardInterrupt:
        print(SAVED, file=sys.stderr)
    finally:
        for each in heard:
            signal.signal(each, previous[each])
        signal.set_wakeup_fd(previous_fd)
        wakeup.close()  # and so the thread ends
        watch.join()
        listener.close()
        _asked = False


def _nothing(*_: object) -> None:
    """Only signals with a handler in Python are written to the wakeup socket."""


def _watch(listener: socket.socket) -> None:
    """Sets the flag at the first signal; ends the process at a second or in time."""
    global _asked
    if not _next_signal(listener):
        return
    _asked = True
    first = time.monotonic()
    try:
        while True:
            listener.settimeout(max(0.001, first + GRACE - time.monotonic()))
            number = _next_signal(listener)
            if not number:
                return
            if number in URGENT and time.monotonic() > first + TWICE:
                _end(AT_ONCE.format(signal.Signals(number).name), 128 + number)
    except TimeoutError:
        _end(STUCK, 0)


def _end(line: str, code: int) -> None:
    """Ends the process where it is; says so, whatever has become of the stream."""
    with contextlib.suppress(Exception):
        print(line, file=sys.stderr, flush=True)
    if code == 0 and cut_off is not None:
        cut_off()
    os._exit(code)


def _next_signal(listener: socket.socket) -> int:
    """The number of the next stopping signal, or 0 at the end."""
    while received := listener.recv(1):
        if received[0] in STOPPING:
            return received[0]
    return 0
