"""A local port that stands for process 0's, and stays open when that is gone.

JAX aborts the program as soon as its connection to process 0 breaks, before anyone
could say why: after 0.1 s with jax 0.10.2 and 0.12.0.1, whatever its time-outs are.
"""

import contextlib
import socket
import threading


def start(host: str, port: int) -> int:
    """Starts to pass on connections; returns the local port."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(server, host, port), daemon=True).start()
    return server.getsockname()[1]


def _accept(server: socket.socket, host: str, port: int) -> None:
    while True:
        near, _ = server.accept()
        try:
            far = socket.create_connection((host, port))
        except OSError:  # JAX's service is not there yet; JAX tries again
            near.close()
            continue
        for ends in ((near, far), (far, near)):
            threading.Thread(target=_pump, args=ends, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Passes bytes on, and keeps both ends open when there are no more."""
    with contextlib.suppress(OSError):
        while content := source.recv(2**16):
            target.sendall(content)
    threading.Event().wait()
