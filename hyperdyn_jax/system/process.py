"""What every command does first, so that neither a crash nor a lost reader is silent.

Light: it needs nothing but Python's own modules.
"""

import contextlib
import errno
import faulthandler
import io
import os
import sys
from typing import Any, TextIO

# What a write fails with when nobody reads any more: a pipe, a terminal that is closed.
UNREAD = (errno.EPIPE, errno.EIO, errno.ENXIO)


def begin() -> None:
    """Prepares this process for a command; a second call changes nothing.

    A crash in native code prints where it happened. Output that nobody reads is
    dropped, and what its encoding lacks is written as an escape: neither ends a run.
    Streams that something else has replaced, such as a notebook, are left alone.
    """
    for descriptor in range(3):  # else the next file that is opened takes its place
        _fill(descriptor)
    if not faulthandler.is_enabled():
        faulthandler.enable(file=2)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _lasting(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(2, sys.stderr)


def _fill(descriptor: int) -> None:
    """Opens the null device where a standard descriptor is closed."""
    try:
        os.fstat(descriptor)
    except OSError:
        _discard(descriptor)


def _discard(descriptor: int) -> None:
    """Lets what is written to a descriptor go nowhere from now on."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


def _lasting(descriptor: int, stream: TextIO | None) -> TextIO:
    """A text stream that goes on when its reader is gone.

    Args:
      descriptor: that it writes to.
      stream: of Python's start, None where the descriptor was closed.
    """
    if stream is None:
        return open(os.devnull, "w")
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(descriptor, "w", closefd=False)),
        stream.encoding,
        "backslashreplace",
        line_buffering=descriptor == 2 or stream.isatty(),
        write_through=getattr(stream, "write_through", False),
    )


class _Raw(io.FileIO):
    """A descriptor whose writes succeed when nobody reads them."""

    def write(self, content: Any, /) -> Any:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in UNREAD:
                raise
            _discard(self.fileno())
            return memoryview(content).nbytes
