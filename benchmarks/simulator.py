"""A run on more devices and for more epochs than are at hand, from measured constants.

Every decision has branches to train. They share the devices: each in a group of its
own where that leaves none idle, in turn on all otherwise; inside a group a batch is
split and gradients are summed over it at every step, so the group waits for its slowest
device. All groups wait for the slowest of them. A device that fails stops all, and the
run goes on from its last save.

NumPy alone: nothing of the library is used.
"""

import math
from typing import NamedTuple

import numpy as np


class Machine(NamedTuple):
    """What is known of the devices and of what they train.

    work: seconds in which one device alone computes a step of the whole batch.
    overhead: seconds of a step that do not shrink with the devices.
    latency: alpha, seconds of a message. seconds_per_byte: beta, of a link.
    gradient: bytes that are summed over a group at every step. sums: in how many
      all-reduces.
    state: bytes of a branch, which a group gets from each of the others.
    host: devices of a process.
    jitter: mean time by which a device is late for a step, as a share of its work; it
      is drawn anew at every step, from an exponential distribution.
    failures: of one device in an hour.
    restart: seconds from a failure until the run goes on.
    save: seconds that a save holds up the run.
    cores: that the devices share, where they are virtual; None: each is its own.
    """

    work: float
    overhead: float
    latency: float
    seconds_per_byte: float
    gradient: float
    sums: int = 1
    state: float = 0.0
    host: int = 8
    jitter: float = 0.0
    failures: float = 0.0
    restart: float = 0.0
    save: float = 0.0
    cores: int | None = None


def all_reduce(machine: Machine, devices: int, size: float, sums: int = 1) -> float:
    """Seconds in which `size` bytes are summed over a group, in so many all-reduces.

    By recursive halving and doubling (Thakur, Rabenseifner and Gropp 2005):
    2 log2(p) alpha + 2 (p - 1) / p n beta each, additions left out.
    """
    messages = 2 * sums * math.ceil(math.log2(devices))
    share = 2 * (devices - 1) / devices
    return messages * machine.latency + share * size * machine.seconds_per_byte


def traffic(devices: int, size: float) -> float:
    """Bytes that each device of a group sends to sum `size` bytes over it."""
    return 2 * (devices - 1) / devices * size


def groups(machine: Machine, devices: int, branches: int) -> int:
    """Groups of devices that train side by side, as `branch_parallel` makes them:
    the greatest number that divides the branches and the devices of a process."""
    return math.gcd(branches, min(devices, machine.host))


def step_time(machine: Machine, devices: int) -> float:
    """Expected seconds of a step in a group.

    The slowest of p exponential delays is late by the p-th harmonic number of them.
    """
    slowest = 1 + machine.jitter * harmonic(devices)
    return _compute(machine, devices) * slowest + _rest(machine, devices)


def harmonic(count: int) -> float:
    """1 + 1/2 + ... + 1/count: the mean of the largest of so many draws from the
    exponential distribution with mean 1."""
    return float(np.sum(1 / np.arange(1, count + 1)))


def _compute(machine: Machine, devices: int) -> float:
    """Seconds of a step's computation, every device being on time."""
    return machine.work / min(devices, machine.cores or devices)


def _rest(machine: Machine, devices: int) -> float:
    summed = all_reduce(machine, devices, machine.gradient, machine.sums)
    return machine.overhead + summed


def train(
    machine: Machine, devices: int, steps: int, trials: int, rng: np.random.Generator
) -> np.ndarray:
    """Seconds of some steps in a group, drawn: f[trials]."""
    compute, late = _compute(machine, devices), np.zeros(trials)
    if machine.jitter:
        # The largest of p draws at once, by its distribution function (1 - e^-x)^p.
        uniform = rng.random((trials, steps))
        late = -np.log(-np.expm1(np.log(uniform) / devices)).sum(1) * machine.jitter
    return compute * (steps + late) + steps * _rest(machine, devices)


def decide(
    machine: Machine,
    devices: int,
    branches: int,
    steps: int,
    trials: int,
    rng: np.random.Generator,
    *,
    parallel: bool = True,
) -> np.ndarray:
    """Seconds in which all branches of a decision are trained: f[trials].

    Args:
      machine: the devices.
      devices: how many there are.
      branches: of the decision.
      steps: of each.
      trials: draws.
      rng: of the delays.
      parallel: in groups, where that leaves no device idle; else in turn on all.
    """
    width = groups(machine, devices, branches) if parallel else 1
    waves = branches // width
    if machine.cores:  # each group has its share of them
        machine = machine._replace(cores=max(1, machine.cores // width))
    seconds = np.zeros((width, trials))
    for group in seconds:
        group += train(machine, devices // width, waves * steps, trials, rng)
    return seconds.max(0) + _exchange(machine, branches, waves)


def _exchange(machine: Machine, branches: int, waves: int) -> float:
    """Seconds until every group has the branches of the others too."""
    received = machine.state * (branches - waves) if waves < branches else 0.0
    return machine.latency * (received > 0) + received * machine.seconds_per_byte


def with_failures(
    machine: Machine,
    devices: int,
    pieces: np.ndarray,
    rng: np.random.Generator | None = None,
) -> float:
    """Seconds of a run whose pieces each end with a save, failures included.

    Failures come at random, in proportion to the devices; one takes the piece back to
    its beginning, and nothing fails while the run is being started again.

    Args:
      machine: the devices.
      devices: how many there are.
      pieces: f[n], seconds from one save to the next, without the saves.
      rng: of the failures; None for the expected time, which is
        (1 / rate + restart) (e^(rate piece) - 1) of each piece (Daly 2006, but
        for failures during a restart).
    """
    rate = machine.failures * devices / 3600
    pieces = np.asarray(pieces, float) + machine.save
    if not rate:
        return float(pieces.sum())
    if rng is None:
        return float(((1 / rate + machine.restart) * np.expm1(rate * pieces)).sum())
    total = 0.0
    for piece in pieces:
        while (failure := rng.exponential(1 / rate)) < piece:
            total += failure + machine.restart
        total += piece
    return total


def best_interval(machine: Machine, devices: int) -> float:
    """Seconds between two saves that cost the least time: sqrt(2 save / rate) (Young
    1974), as long as that is short against the time between two failures."""
    return math.sqrt(2 * machine.save * 3600 / (machine.failures * devices))


def pieces_of(epoch: float, epochs: int, interval: float) -> np.ndarray:
    """Seconds between the saves of a run: after every epoch, and inside one whenever
    `interval` seconds have gone by."""
    count = max(1, math.ceil(epoch / interval))
    return np.full(epochs * count, epoch / count)
