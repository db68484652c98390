"""SIGTERM and Ctrl-C: a run stops between two steps, and the next command goes on."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

STOPPING = (signal.SIGINT, signal.SIGTERM)
GRACE = 6.0  # seconds from a signal to the end, wherever the run is stuck

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


@contextlib.contextmanager
def stoppable(message: str) -> Iterator[None]:
    """The first signal ends what is in it at the next `check`, a second one at once.

    Nothing is interrupted where it happens to be: Python drops an exception that a
    signal raises in a callback of the garbage collector, and JAX has one.

    A thread keeps the time, for the main thread may be compiling or waiting for a
    device. What it then cuts off is what a kill would, and the next command goes on.

    Args:
      message: printed to standard error in place of a traceback.
    """
    global _asked
    listener, wakeup = socket.socketpair()
    wakeup.setblocking(False)  # as Python demands
    watch = threading.Thread(target=_watch, args=(listener, message), daemon=True)
    watch.start()
    previous_fd = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    previous = {each: signal.signal(each, _nothing) for each in STOPPING}
    try:
        yield
    except KeyboardInterrupt:
        print(message, file=sys.stderr)
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(previous_fd)
        wakeup.close()  # and so the thread ends
        watch.join()
        listener.close()
        _asked = False


def _nothing(*_: object) -> None:
    """Only signals with a handler in Python are written to the wakeup socket."""


def _watch(listener: socket.socket, message: str) -> None:
    """Sets the flag at the first signal; ends the process at a second or in time."""
    global _asked
    if not _next_signal(listener):
        return
    _asked = True
    listener.settimeout(GRACE)
    try:
        number = _next_signal(listener)
    except TimeoutError:
        print(message, file=sys.stderr, flush=True)
        if cut_off is not None:
            cut_off()
        os._exit(0)
    if number:
        os._exit(128 + number)


def _next_signal(listener: socket.socket) -> int:
    """The number of the next stopping signal, or 0 at the end."""
    while received := listener.recv(1):
        if received[0] in STOPPING:
            return received[0]
    return 0
