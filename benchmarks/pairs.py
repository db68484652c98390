"""Two ways of doing the same, timed in turn in one run.

A machine that others use changes its speed from minute to minute: only the ratio of two
runs beside each other says something, so the pairs are what is summed up.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Clock = Callable[[], float]
# Networks as XLA compiles them by itself, without `layout.compiler_options`. Where
# several processes train in turn they always are: so their peers have to be as well.
PLAIN = (
    "--xla_cpu_experimental_ynn_fusion_type=+LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
)


def seconds(function: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
    """How long a call takes; it has to wait for its own result."""
    start = clock()
    function()
    return clock() - start


def in_turn(
    ways: Mapping[str, Callable[[], Any]],
    pairs: int,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each way, the order swapped from pair to pair.

    Args:
      ways: by name; each has run before, so that nothing is compiled here.
      pairs: how many.
      clock: what seconds are read from.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for pair in range(pairs):
        for name in list(ways) if pair % 2 else reversed(ways):
            times[name].append(seconds(ways[name], clock))
    return times


def compare(ours: list[float], peer: list[float]) -> dict[str, float]:
    """How many times as fast as the peer: the median over pairs, and quartiles.

    Args:
      ours, peer: seconds of the same work, pair by pair.
    """
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"ratio": middle, "ratio_q25": low, "ratio_q75": high}


def per_second(count: float, times: list[float]) -> float:
    """The median rate of something of which `count` take each of these times."""
    return count / statistics.median(times)
