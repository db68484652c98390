"""Several processes that train one network, and what becomes of it when one is lost.

Every process runs the same program over the same steps; gradients are summed over the
devices of all (`jax.distributed`). Process 0 alone prints and writes the run directory.

The processes meet over connections of their own before JAX does, and keep them open:
a killed process closes them at once, whatever the devices are, and one that is stopped
is no longer heard of. JAX itself would wait in a collective, or abort the program.
Where the processes must do the same thing, such as to stop at a step, they ask each
other with the collectives that the steps use, so no clock decides.
"""

import contextlib
import functools
import itertools
import json
import os
import select
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from hyperdyn_jax.system import signals

BAD_INPUT, TRY_AGAIN = 2, 75  # exit codes; the latter when another process was lost
WAIT = 300.0  # seconds that processes wait for each other at the start
HEARTBEAT = 10.0  # seconds, by default
EVERY = 4  # calls of what `together` returns, between two questions to the others
WORDS = 2**16  # of 32 bits, that travel at once


class JoinError(RuntimeError):
    """This process does not find together with the others.

    problems: a line each. code: to exit with.
    """

    def __init__(self, problems: list[str], code: int = BAD_INPUT):
        super().__init__("\n".join(problems))
        self.problems, self.code = problems, code


class Place(NamedTuple):
    """One process among those of a run.

    host, port: where process 0 is met; empty where the cluster's scheduler knows.
    processes, process: how many there are, and which this one is, from 0.
    heartbeat: seconds after which a process that is not heard of counts as lost.
    bind: the address that process 0 listens at; all of its machine if empty.
    """

    host: str
    port: int
    processes: int
    process: int
    heartbeat: float
    bind: str


def place(
    coordinator: str | None = None,
    processes: str | None = None,
    process: str | None = None,
    heartbeat: str | None = None,
) -> Place | None:
    """This process's place, from the values of the flags; None if it is alone.

    Raises:
      JoinError: with every problem.
    """
    flags = {"processes": processes, "process": process, "heartbeat": heartbeat}
    given = {name: value for name, value in flags.items() if value is not None}
    if not coordinator:
        need = "needs --coordinator, which is HOST:PORT or auto"
        problems = [f"--{name}={value} {need}" for name, value in given.items()]
        if problems:
            raise JoinError(problems)
        return None
    problems = []
    beat = _number(given, "heartbeat", 2, 3600, problems, HEARTBEAT)
    if coordinator == "auto":
        found = "is found by --coordinator=auto; leave it out"
        known = given.keys() - {"heartbeat"}
        problems += [f"--{name} {found}" for name in sorted(known)]
        where = Place("", 0, 0, 0, beat, "")
    else:
        host, port = _address(coordinator, problems)
        count = int(_number(given, "processes", 1, 1_000_000, problems))
        index = int(_number(given, "process", 0, count - 1, problems))
        where = Place(host, port, count, index, beat, host)
    if problems:
        raise JoinError(problems)
    return None if where.processes == 1 else where


def _number(
    given: dict[str, str],
    name: str,
    low: float,
    high: float,
    problems: list[str],
    default: float | None = None,
) -> float:
    """The value of a flag: any number if there is a default, else a whole one."""
    kind, what = (int, "a whole number") if default is None else (float, "a number")
    what = f"{what} in [{low}, {high}]"
    if name not in given:
        if default is None:
            problems.append(f"--{name} is missing; it must be {what}")
        return default or low
    with contextlib.suppress(ValueError):
        if low <= kind(given[name]) <= high:
            return kind(given[name])
    problems.append(f"--{name} must be {what}, got {given[name]!r}")
    return low


def _address(text: str, problems: list[str]) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host and port.isdecimal() and 0 < int(port) < 2**16:
        return host.strip("[]"), int(port)
    problems.append(
        f"--coordinator must be auto or HOST:PORT, a port in [1, 65535], got {text!r}"
    )
    return "", 0


def _detected(where: Place) -> Place:
    """The place with what the cluster's scheduler knows, for --coordinator=auto."""
    # As jax.distributed.initialize does it without arguments; there is no public way
    # to ask before it connects.
    from jax._src import clusters

    detect: Any = clusters.ClusterEnv.auto_detect_unset_distributed_params
    try:
        address, count, index, _ = detect(None, None, None, None, None, int(WAIT))
        host, port = _address(address, [])
        return where._replace(host=host, port=port, processes=count, process=index)
    except Exception as error:  # each kind of cluster has its own
        found = "--coordinator=auto finds no cluster here; give HOST:PORT of process 0"
        raise JoinError([f"{found}, --processes and --process"]) from error


def first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def join(where: Place, config: Any) -> None:
    """Meets the other processes and starts `jax.distributed`.

    Before anything is computed: JAX looks for its devices after that.

    Args:
      where: this process's place.
      config: of the run, which has to be the same in all of them.

    Raises:
      JoinError: others did not come in time, or with something else.
    """
    global _group
    if not where.host:
        where = _detected(where)
    if where.processes == 1:
        return
    digest = zlib.crc32(json.dumps(config, sort_keys=True, default=str).encode())
    hello = f"hyperdyn_jax {where.processes} {digest}"
    meet = _receive if where.process == 0 else _visit
    peers, port = meet(where, hello)
    _group = _Group(where, peers)
    _start_jax(where, port)


def leave(code: int) -> int:
    """Ends this process with an exit code, together with the others.

    Returns:
      The code, where there are no others.
    """
    if _group is not None:
        _group.leave(code)
    return code


def joined() -> bool:
    """Whether there are others."""
    return _group is not None


def await_cause() -> None:
    """After an error: returns only if no lost process was the cause of it."""
    if _group is not None:
        time.sleep(_group.place.heartbeat + 2)


def _start_jax(where: Place, port: int) -> None:
    # It would catch SIGTERM; `signals` does.
    jax.config.update("jax_enable_preemption_service", False)
    if where.process:
        port = _relay((where.host, port))
    jax.distributed.initialize(
        f"127.0.0.1:{port}" if where.process else _join_address(where.host, port),
        num_processes=where.processes,
        process_id=where.process,
        coordinator_bind_address=_join_address(where.bind or "::", port),
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=30 * 24 * 3600,  # it would abort; `_Group` does not
    )


def _join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _receive(where: Place, hello: str) -> tuple[dict[int, socket.socket], int]:
    """Process 0 waits for all others; then JAX has nothing to wait for."""
    peers: dict[int, socket.socket] = {}
    flag = f"--coordinator={_join_address(where.host, where.port)}"

    def missing() -> str:
        numbers = sorted({*range(1, where.processes)} - {*peers})
        return f"{flag}: process {', '.join(map(str, numbers))} did not come"

    check = _patience(missing)
    with _listen(where.bind, where.port, flag) as server:
        while len(peers) < where.processes - 1:
            check()
            with contextlib.suppress(TimeoutError):
                peer, _ = server.accept()
                number = _check_hello(peer, where, hello)
                if number is not None:
                    peers[number] = peer  # a process that came again, in its last form
    with _listen(where.bind, 0, flag) as free:
        port = free.getsockname()[1]
    for peer in peers.values():
        _send(peer, f"go {port}")
    return peers, port


def _listen(host: str, port: int, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise JoinError([f"{flag}: process 0 cannot listen there: {reason}"]) from None
    server.settimeout(0.2)
    return server


def _check_hello(peer: socket.socket, where: Place, hello: str) -> int | None:
    """The number of a process that came, None for someone else."""
    peer.settimeout(2.0)
    greeting, _, number = _read_line(peer).rpartition(" ")
    if not greeting.startswith("hyperdyn_jax ") or not number.isdecimal():
        peer.close()
        return None
    if greeting != hello or not 0 < int(number) < where.processes:
        problem = (
            f"process {number} has another --processes or config than process 0; "
            f"they must be the same everywhere"
        )
        _send(peer, f"no {problem}")
        raise JoinError([problem])
    return int(number)


def _visit(where: Place, hello: str) -> tuple[dict[int, socket.socket], int]:
    """Another process goes to process 0, until that is there and has seen all."""
    address = _join_address(where.host, where.port)
    check = _patience(lambda: f"--coordinator={address}: no process 0 came")
    while True:
        check()
        with contextlib.suppress(OSError):
            peer = socket.create_connection((where.host, where.port), timeout=0.2)
            _send(peer, f"{hello} {where.process}")
            word, _, rest = _read_line(peer, check).partition(" ")
            if word == "no":
                raise JoinError([rest])
            if word == "go":
                return {0: peer}, int(rest)
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


def _send(peer: socket.socket, line: str) -> None:
    """Says something; a peer that is gone is noticed where it is listened to."""
    with contextlib.suppress(OSError):
        peer.sendall(line.encode() + b"\n")


def _read_line(peer: socket.socket, waiting: Callable[[], None] | None = None) -> str:
    """A line, or what there was of it before the end or, without `waiting`, in time."""
    line = b""
    while not line.endswith(b"\n") and len(line) < 1000:
        try:
            byte = peer.recv(1)
        except TimeoutError:
            if waiting is None:
                break
            waiting()
            continue
        except OSError:
            break
        if not byte:
            break
        line += byte
    return line.decode(errors="replace").rstrip("\n")


def _relay(target: tuple[str, int]) -> int:
    """A local port that stands for another one, and stays when that is gone.

    JAX aborts the program as soon as its connection to process 0 breaks, with pages of
    text and before anyone could say why.

    Returns:
      The port.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            near, _ = server.accept()
            try:
                far = socket.create_connection(target)
            except OSError:
                near.close()
                continue
            for ends in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return server.getsockname()[1]


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Passes bytes on, and keeps both ends open when there are no more."""
    with contextlib.suppress(OSError):
        while content := source.recv(2**16):
            target.sendall(content)
    threading.Event().wait()


class _Group:
    """The connections of this process: of process 0 to all others, of those to it.

    A thread says every now and then that this process is there, and ends it when
    another is lost: nothing else can, while the main thread waits for that one.

    Args:
      place: of this process.
      peers: connections by the numbers of the processes.
    """

    def __init__(self, place: Place, peers: dict[int, socket.socket]):
        self.place, self._peers = place, peers
        self._tick = min(1.0, place.heartbeat / 4)
        self._silent = dict.fromkeys(peers, 0)  # ticks since each was heard of
        self._text = dict.fromkeys(peers, b"")  # of each, that is no whole line yet
        self._left: set[int] = set()  # those that ended as they should
        self._all_left, self._let_go = threading.Event(), threading.Event()
        self._code: int | None = None  # to end with, once that is known
        self._stopped = False  # and so are the others, by this process
        threading.Thread(target=self._watch, daemon=True).start()
        signals.cut_off = self.stop

    def stop(self) -> None:
        """Ends the others when this process cannot wait for the next step."""
        self._stopped = True
        for peer in self._peers.values():
            _send(peer, f"end 0 stopped with process {self.place.process}")
        time.sleep(0.1)  # for them to hear it before they see this end

    def leave(self, code: int) -> None:
        """Process 0 ends last: JAX's service is in it."""
        self._code = code
        for peer in self._peers.values():
            _send(peer, f"bye {code}")
        patience = 2.0 if code else None
        if self.place.process:
            self._let_go.wait(patience)
        else:
            self._all_left.wait(patience)
            for peer in self._peers.values():
                _send(peer, "go")
            # Until they have closed their ends, which reads as an end of theirs.
            end = time.monotonic() + 5
            while self._peers and time.monotonic() < end:
                time.sleep(0.01)
        _end(code)

    def _watch(self) -> None:
        ticked = time.monotonic()
        while True:
            sockets = list(self._peers.values())
            ready, _, _ = select.select(sockets, [], [], self._tick)
            for number, peer in list(self._peers.items()):
                if peer in ready:
                    self._hear(number, peer)
            # Ticks are counted, and not the time: it goes on while this process or
            # its machine is stopped.
            if time.monotonic() - ticked >= self._tick:
                ticked = time.monotonic()
                self._count()

    def _count(self) -> None:
        for number, peer in self._peers.items():
            _send(peer, ".")
            self._silent[number] += 1
            if self._silent[number] * self._tick > self.place.heartbeat:
                seconds = f"{self.place.heartbeat:g} s"
                self._lost(
                    f"process {number} was lost: nothing heard of it for {seconds}"
                )

    def _hear(self, number: int, peer: socket.socket) -> None:
        self._silent[number] = 0
        try:
            content = peer.recv(2**12)
        except OSError:
            content = b""
        if not content:
            self._closed(number)
            return
        *lines, self._text[number] = (self._text[number] + content).split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "bye":
                self._bye(number, int(rest))
            elif word == "go":
                self._let_go.set()
            elif word == "end" and not self._code:  # else its own cause was told
                code, _, why = rest.partition(" ")
                self._end_all(why, int(code))

    def _closed(self, number: int) -> None:
        # What is left to do then is to be saved, and only process 0 does that.
        done = self._code is not None and (self._code or self.place.process == 0)
        if number not in self._left and not done:
            self._lost(f"process {number} was lost: its connection is closed")
        self._peers.pop(number).close()
        self._let_go.set()
        if not self._peers:
            self._all_left.set()

    def _bye(self, number: int, code: int) -> None:
        self._left.add(number)
        if self._left >= set(self._peers):
            self._all_left.set()
        if code and self._code is None:
            time.sleep(1)  # this process may be about to find the same
        if code and self._code is None:
            why = f"error: process {number} ended with exit code {code}"
            self._end_all(why, code)

    def _lost(self, why: str) -> None:
        self._end_all(f"error: {why}", TRY_AGAIN)

    def _end_all(self, why: str, code: int) -> None:
        """Ends this process, and from process 0 the others, with the cause."""
        if self._stopped:
            return
        if self.place.process == 0:
            for peer in self._peers.values():
                _send(peer, f"end {code} {why}")
        again = code in (0, TRY_AGAIN)
        hint = "; the same command on every machine goes on" * again
        print(f"{why}{hint}", file=sys.stderr, flush=True)
        _end(code)


def _end(code: int) -> None:
    """At once: an orderly end of JAX waits for processes that may be gone."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    os._exit(code)


_group: _Group | None = None


def devices() -> list[jax.Device]:
    """Of all processes, those of one beside each other."""
    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


def any_of(value: bool) -> bool:
    """Whether it is so in any process; all have to ask, and wait for each other."""
    if jax.process_count() == 1:
        return value
    return bool(_total(np.array([value], np.uint32))[0])


def together(ask: Callable[[], bool]) -> Callable[[], bool]:
    """A question whose answer is the same in all processes, call by call.

    It becomes true some calls after it did so in one of them. None waits for steps that
    it has dispatched since: an answer is fetched `EVERY` calls after it was asked for.
    """
    if jax.process_count() == 1:
        return ask
    calls, asked_for = itertools.count(), None
    # They would run this beside a step, and both might wait for ever (`Trainer`).
    several_cpus = jax.local_device_count() > 1 and devices()[0].platform == "cpu"

    def answer() -> bool:
        nonlocal asked_for
        if next(calls) % EVERY:
            return False
        earlier, asked_for = asked_for, _total(np.array([ask()], np.uint32))
        if several_cpus:
            jax.block_until_ready(asked_for)
        return earlier is not None and bool(np.asarray(earlier)[0])

    return answer


def share_json(value: Any, source: int = 0) -> Any:
    """One process's value in every process; what JSON can hold."""
    if jax.process_count() == 1:
        return value
    return json.loads(_share(json.dumps(value).encode(), source))


def union(lines: Sequence[str]) -> list[str]:
    """The lines of all processes, each once; all have to ask."""
    processes = range(jax.process_count())
    shared = (share_json(list(lines), source) for source in processes)
    return list(dict.fromkeys(itertools.chain.from_iterable(shared)))


def share_tree(tree: Any) -> Any:
    """Process 0's numbers in every process, to the bit.

    Args:
      tree: a pytree of arrays and numbers; the same shapes and dtypes everywhere.

    Returns:
      NumPy arrays and numbers in place of what was there.
    """
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    hosts = [np.asarray(jax.device_get(leaf)) for leaf in leaves]
    kinds = json.dumps([(x.dtype.str, x.shape) for x in hosts]).encode()
    if _share(kinds) != kinds:
        raise RuntimeError("process 0 has arrays of other shapes than this process")
    content = _share(b"".join(map(np.ndarray.tobytes, hosts)))
    ends = np.cumsum([x.nbytes for x in hosts]).tolist()
    shared: list[Any] = [
        np.frombuffer(content[end - x.nbytes : end], x.dtype).reshape(x.shape)
        for x, end in zip(hosts, ends, strict=True)
    ]
    shared = [
        type(leaf)(x) if isinstance(leaf, bool | int | float) else x
        for leaf, x in zip(leaves, shared, strict=True)
    ]
    return _in_order_of(tree, jax.tree.unflatten(structure, shared))


def _in_order_of(like: Any, tree: Any) -> Any:
    """The tree with its dicts in the order of another; JAX sorts them."""
    if isinstance(like, dict):
        return {name: _in_order_of(x, tree[name]) for name, x in like.items()}
    if isinstance(like, list | tuple):
        items = [_in_order_of(*pair) for pair in zip(like, tree, strict=True)]
        return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)
    return tree


class _Tuner(Protocol):
    def init(self, key: jax.Array, score: float) -> Any: ...
    def ask(self, state: Any) -> Any: ...
    def tell(self, state: Any, trials: Any, scores: np.ndarray) -> Any: ...


def shared(tuner: _Tuner) -> Any:
    """A tuner that proposes and decides alike in all processes."""
    return tuner if jax.process_count() == 1 else _SharedTuner(tuner)


class _SharedTuner:
    """Every process computes the same, but machines of two kinds may round differently.

    Args:
      tuner: what it is otherwise.
    """

    def __init__(self, tuner: _Tuner):
        self._tuner = tuner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tuner, name)

    def init(self, key: jax.Array, score: float) -> Any:
        return share_tree(self._tuner.init(key, score))

    def ask(self, state: Any) -> Any:
        return share_tree(self._tuner.ask(state))

    def tell(self, state: Any, trials: Any, scores: np.ndarray) -> Any:
        return share_tree(self._tuner.tell(state, trials, scores))


def _share(content: bytes, source: int = 0) -> bytes:
    """One process's bytes in every process."""
    sizes = np.array(divmod(len(content), 2**32), np.uint32)
    high, low = _from(source, sizes).tolist()
    length = high * 2**32 + low
    parts = []
    for start in range(0, length, 4 * WORDS):
        part = content[start : start + 4 * WORDS].ljust(4 * WORDS, b"\0")
        parts.append(_from(source, np.frombuffer(part, np.uint32)))
    return b"".join(part.tobytes() for part in parts)[:length]


def _from(source: int, words: np.ndarray) -> np.ndarray:
    """A process's words, u32[n]: sums with nothing from all others change no bit."""
    mine = jax.process_index() == source
    return np.asarray(_total(words if mine else np.zeros_like(words)))


def _total(words: np.ndarray) -> jax.Array:
    """The sum over processes, u32[n], on its way."""
    parts = np.zeros((jax.local_device_count(), len(words)), np.uint32)
    parts[0] = words
    return _sum()(parts)


@functools.cache
def _sum() -> Callable[[np.ndarray], jax.Array]:
    return jax.pmap(
        lambda words: jax.lax.psum(words, "all"),
        axis_name="all",
        out_axes=None,
        devices=devices(),
    )
