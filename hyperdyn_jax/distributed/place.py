"""Which of several processes this one is: from the flags, or from the cluster."""

import contextlib
from typing import Any, NamedTuple

BAD_INPUT, TRY_AGAIN = 2, 75  # exit codes; the latter when another process was lost
WAIT = 300.0  # seconds that processes wait for each other at the start
HEARTBEAT = "10"  # seconds, by default


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


def place_of(
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
    beat, problems = given.get("heartbeat", HEARTBEAT), list[str]()
    if not coordinator:
        need = "needs --coordinator, which is HOST:PORT or auto"
        problems = [f"--{name}={value} {need}" for name, value in given.items()]
        where = Place("", 0, 1, 0, 0, "")
    elif coordinator == "auto":
        found = "is found by --coordinator=auto; leave it out"
        silence = _number("heartbeat", beat, float, 2, 3600, problems)
        known = sorted(given.keys() - {"heartbeat"})
        problems += [f"--{name} {found}" for name in known]
        where = Place("", 0, 0, 0, silence, "")
    else:
        silence = _number("heartbeat", beat, float, 2, 3600, problems)
        host, port = _address(coordinator, problems)
        count = _number("processes", processes, int, 1, 1_000_000, problems)
        index = _number("process", process, int, 0, count - 1, problems)
        where = Place(host, port, int(count), int(index), silence, host)
    if problems:
        raise JoinError(problems)
    return None if where.processes == 1 else where


def _number(
    name: str,
    text: str | None,
    kind: type[int] | type[float],
    low: float,
    high: float,
    problems: list[str],
) -> float:
    """The value of a flag, or its lowest and a problem."""
    what = "a whole number" if kind is int else "a number"
    must = f"must be {what} in [{low:g}, {high}]"
    if text is None:
        problems.append(f"--{name} is missing; it {must}")
        return low
    with contextlib.suppress(ValueError):
        if low <= kind(text) <= high:
            return kind(text)
    problems.append(f"--{name} {must}, got {text!r}")
    return low


def _address(text: str, problems: list[str]) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host and port.isdecimal() and 0 < int(port) < 2**16:
        return host.strip("[]"), int(port)
    problems.append(
        f"--coordinator must be auto or HOST:PORT, a port in [1, 65535], got {text!r}"
    )
    return "", 0


def detected(where: Place) -> Place:
    """The place with what the cluster's scheduler knows, for --coordinator=auto."""
    # As jax.distributed.initialize does it without arguments; there is no public way
    # to ask before it connects.
    from jax._src import clusters

    detect: Any = clusters.ClusterEnv.auto_detect_unset_distributed_params
    try:
        text, count, index, _ = detect(None, None, None, None, None, int(WAIT))
        host, port = _address(text, [])
        return where._replace(host=host, port=port, processes=count, process=index)
    except Exception as error:  # each kind of cluster has its own
        found = "--coordinator=auto finds no cluster here; give HOST:PORT of process 0"
        raise JoinError([f"{found}, --processes and --process"]) from error
