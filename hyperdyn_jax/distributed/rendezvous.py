"""The processes of a run meet, and then start JAX's own service.

They meet over connections of their own, since JAX aborts when one does not come; the
watchdog keeps these open.
"""

import contextlib
import json
import socket
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax

from hyperdyn_jax.distributed import relay, watchdog
from hyperdyn_jax.distributed.connection import Connection, address
from hyperdyn_jax.distributed.place import TRY_AGAIN, WAIT, JoinError, Place, detected
from hyperdyn_jax.system import signals

NEVER = 30 * 24 * 3600  # seconds


def join(where: Place, config: Any) -> None:
    """Meets the other processes and starts `jax.distributed`.

    Before anything is computed: JAX looks for its devices after that.

    Args:
      where: this process's place.
      config: of the run, which has to be the same in all of them.

    Raises:
      JoinError: others did not come in time, or with something else.
    """
    if not where.host:
        where = detected(where)
    if where.processes == 1:
        return
    digest = zlib.crc32(json.dumps(config, sort_keys=True, default=str).encode())
    hello = f"hyperdyn_jax {where.processes} {digest}"
    meet = visit if where.process else receive
    watchdog.start(where, meet(where, hello))
    _start_jax(where)


def _start_jax(where: Place) -> None:
    # It would catch SIGTERM; `signals` does, and what else stops a run.
    jax.config.update("jax_enable_preemption_service", False)
    host, port = where.host, where.port
    if where.process:
        host, port = "127.0.0.1", relay.start(host, port)
    jax.distributed.initialize(
        address(host, port),
        num_processes=where.processes,
        process_id=where.process,
        coordinator_bind_address=address(where.bind or "::", port),
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=NEVER,  # it would abort; the watchdog says why
    )


def receive(where: Place, hello: str) -> dict[int, Connection]:
    """Process 0 waits for all others; then JAX has nothing to wait for.

    Returns:
      A connection to each, by its number.
    """
    peers: dict[int, Connection] = {}
    flag = f"--coordinator={address(where.host, where.port)}"

    def missing() -> str:
        numbers = sorted({*range(1, where.processes)} - {*peers})
        return f"{flag}: process {', '.join(map(str, numbers))} did not come"

    check = _patience(missing)
    with _listen(where, flag) as server:
        while len(peers) < where.processes - 1:
            check()
            with contextlib.suppress(TimeoutError):
                peer = Connection(server.accept()[0])
                number = _check_hello(peer, where, hello)
                if number is not None:
                    peers[number] = peer  # a process that came again, in its last form
    for peer in peers.values():  # JAX's service takes the port now
        peer.say("go")
    return peers


def _listen(where: Place, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.bind else socket.AF_INET
    try:
        server = socket.create_server((where.bind, where.port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise JoinError([f"{flag}: process 0 cannot listen there: {reason}"]) from None
    server.settimeout(0.2)
    return server


def _check_hello(peer: Connection, where: Place, hello: str) -> int | None:
    """The number of a process that came, None for someone else."""
    greeting = number = ""
    with contextlib.suppress(EOFError):
        greeting, _, number = (peer.hear(2.0) or "").rpartition(" ")
    if not greeting.startswith("hyperdyn_jax ") or not number.isdecimal():
        peer.close()
        return None
    if greeting != hello or not 0 < int(number) < where.processes:
        problem = (
            f"process {number} has another --processes or config than process 0; "
            f"they must be the same everywhere"
        )
        peer.say(f"no {problem}")
        peer.close()
        raise JoinError([problem])
    return int(number)


def visit(where: Place, hello: str) -> dict[int, Connection]:
    """Another process goes to process 0, until that is there and has seen all."""
    there = address(where.host, where.port)
    check = _patience(lambda: f"--coordinator={there}: no process 0 came")
    while True:
        check()
        with contextlib.suppress(OSError, EOFError):
            end = socket.create_connection((where.host, where.port), timeout=0.2)
            peer = Connection(end)
            peer.say(f"{hello} {where.process}")
            while (answer := peer.hear(0.2)) is None:
                check()
            if answer == "go":
                return {0: peer}
            peer.close()
            if answer.startswith("no "):
                raise JoinError([answer.removeprefix("no ")])
        time.sleep(0.2)


def _patience(what: Callable[[], str]) -> Callable[[], None]:
    """To be called while others are waited for: raises when `WAIT` is over, or when the
    program was asked to stop."""
    end = time.monotonic() + WAIT

    def check() -> None:
        signals.check()
        if time.monotonic() > end:
            raise JoinError([f"{what()} in {WAIT:.0f} s"], TRY_AGAIN)

    return check
