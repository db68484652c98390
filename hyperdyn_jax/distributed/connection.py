"""Lines of text between two processes, over TCP."""

import contextlib
import socket

LONGEST = 1000  # bytes of a line; who sends more is someone else


class Connection:
    """One end of a connection.

    Args:
      end: connected.
    """

    def __init__(self, end: socket.socket):
        self._end, self._text = end, b""

    def say(self, line: str) -> None:
        """Sends a line; a peer that is gone is noticed by `hear`."""
        with contextlib.suppress(OSError):
            self._end.sendall(line.encode() + b"\n")

    def hear(self, seconds: float) -> str | None:
        """The next line; None if there is none in time.

        Raises:
          EOFError: the connection is closed, or sends no lines of ours.
        """
        while b"\n" not in self._text:
            try:
                self._end.settimeout(seconds)
                content = self._end.recv(LONGEST)
            except TimeoutError:
                return None
            except OSError:
                content = b""
            if not content or len(self._text) > LONGEST:
                raise EOFError
            self._text += content
        line, _, self._text = self._text.partition(b"\n")
        return line.decode(errors="replace")

    def finish(self) -> None:
        """Says that no more lines will come; those of the peer can still be heard."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._end.close()


def address(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
