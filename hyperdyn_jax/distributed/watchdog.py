"""Every process notices when another one is lost or fails, says so and ends.

Threads of each process listen to process 0, and those of process 0 to all others: the
main thread may be waiting for the lost process in a collective, and nothing ends that.
A killed process closes its connection at once; one that is stopped falls silent.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from hyperdyn_jax.distributed.connection import Connection
from hyperdyn_jax.distributed.place import TRY_AGAIN, Place
from hyperdyn_jax.system import signals

AGAIN = (0, TRY_AGAIN)  # exit codes after which the same command goes on
BEATS = 8  # signs of life in the time after which a process counts as lost


def start(place: Place, peers: dict[int, Connection]) -> None:
    """Watches the others from now on."""
    global _watchdog
    _watchdog = Watchdog(place, peers)


def leave(code: int) -> int:
    """Ends this process with an exit code, together with the others.

    Returns:
      The code, where there are no others.
    """
    if _watchdog is not None:
        _watchdog.leave(code)
    return code


def run(program: Callable[[], int]) -> int:
    """Runs what may call `start`, and leaves with its exit code or with an error."""
    try:
        code = program()
    except Exception:
        if _watchdog is None:
            raise
        # A lost process may be the cause; then the watchdog tells of that and ends.
        time.sleep(_watchdog.place.heartbeat + 2)
        traceback.print_exc()  # Python's own end would wait for the other processes
        code = 1
    return leave(code)


class Watchdog:
    """The connections of this process: of process 0 to all others, of those to it.

    Args:
      place: of this process.
      peers: connections by the numbers of the processes.
    """

    def __init__(self, place: Place, peers: dict[int, Connection]):
        self.place, self._peers = place, peers
        self._done: set[int] = set()  # those that have nothing left to do
        self._has_cause = False  # this process ends, and has said why
        self._ending = threading.Lock()  # and so it does only once
        self._listeners = [
            threading.Thread(target=self._listen, args=(number,), daemon=True)
            for number in peers
        ]
        for thread in self._listeners:
            thread.start()
        threading.Thread(target=self._beat, daemon=True).start()
        signals.cut_off = self.stop

    def stop(self) -> None:
        """Ends the others when this process cannot wait for the next step."""
        self._has_cause = True
        self._say(f"end 0 stopped with process {self.place.process}")
        time.sleep(0.1)  # for them to hear it before they see this end

    def leave(self, code: int) -> None:
        """Ends this process when the others are done too, or have heard of its error.

        JAX's own end is a barrier that aborts where a process is missing.
        """
        if code:
            self._has_cause = True
            why = f"process {self.place.process} ended with exit code {code}"
            self._say(f"end {code} error: {why}")
        else:
            self._say("done")
        for peer in self._peers.values():
            peer.finish()
        for thread in self._listeners:
            thread.join(2.0 if code else None)
        _end(code)

    def _say(self, line: str) -> None:
        for peer in self._peers.values():
            peer.say(line)

    def _beat(self) -> None:
        while True:
            time.sleep(self.place.heartbeat / BEATS)
            self._say(".")

    def _listen(self, number: int) -> None:
        # Waits are counted, and not the time: it goes on while this process or its
        # machine is stopped.
        peer, silent = self._peers[number], 0
        while silent <= BEATS:
            try:
                line = peer.hear(self.place.heartbeat / BEATS)
            except EOFError:
                self._lost(number, "its connection is closed")
                return  # what is done here will be said to it yet
            silent = silent + 1 if line is None else 0
            word, _, rest = (line or "").partition(" ")
            if word == "done":
                self._done.add(number)
            elif word == "end":
                code, _, why = rest.partition(" ")
                if int(code) not in AGAIN:
                    time.sleep(1)  # this process may be about to find the same
                self._end_all(why, int(code))
        self._lost(number, f"nothing heard of it for {self.place.heartbeat:g} s")

    def _lost(self, number: int, how: str) -> None:
        if number not in self._done:
            self._end_all(f"error: process {number} was lost: {how}", TRY_AGAIN)

    def _end_all(self, why: str, code: int) -> None:
        """Ends this process, and from process 0 the others, with the cause."""
        with self._ending:
            if self._has_cause:
                return
            if self.place.process == 0:
                self._say(f"end {code} {why}")
            hint = "; the same command on every machine goes on" * (code in AGAIN)
            print(f"{why}{hint}", file=sys.stderr, flush=True)
            _end(code)


def _end(code: int) -> None:
    """At once: an orderly end of JAX waits for processes that may be gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


_watchdog: Watchdog | None = None
