"""The race on tables of learning curves, in seconds: what it ends with against the best
of a sweep, with a base of the best rate, a tenth or ten times of it, and without one.

    python -m benchmarks.suite.offline TABLE.npz ... [--draws 3]

A draw shifts the first arms, or a base by up to 40%. The run's own steps are simulated
by the table of its rate cooled down, cut short by what the race took.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.suite.curves import Curves, load
from hyperdyn_jax import LogUniform, SearchSpace
from hyperdyn_jax.strategies import Schedule
from hyperdyn_jax.strategies.race import RACE, CannotTellError, Race

BASES = {"best": 1.0, "0.1x": 0.1, "10x": 10.0, "none": math.nan}
SHIFTS = (1.0, 1.2, 0.8, 1.4, 0.7)  # of a base, by draw
STRETCHES = 40


class Outcome(NamedTuple):
    """What a race on a table came to.

    rate: of the run; kept: whether it is the base's.
    ratio: of the end's loss to that of the best of the sweep, 1 being as good.
    overhead: steps of the race that are not the run's, over those of the run.
    """

    rate: float
    kept: bool
    ratio: float
    overhead: float


def play(
    curves: Curves,
    base: float | None,
    draw: int,
    change: Callable[[float], float] = lambda score: score,
) -> Outcome:
    """A race on a table.

    Args:
      curves: the table.
      base: a rate, None without one.
      draw: seed of the first arms.
      change: of every score.
    """
    low, high = (float(x) for x in curves.grid[[0, -1]])
    space = SearchSpace(learning_rate=LogUniform(low, high))
    schedule = None if base is None else Schedule.constant(learning_rate=base)
    each = curves.steps // STRETCHES
    tuner = Race(space, STRETCHES, each, base=schedule)
    state, held = tuner.init(jax.random.key(draw), -curves.start), [0]
    total = 0
    while state.phase == RACE:
        trials = tuner.ask(state)
        steps = round(trials.epochs * each)
        rates = trials.hparams["learning_rate"]
        ends = [held[parent] + steps for parent in trials.parents]
        total += steps * len(ends)
        scores = [
            change(-curves.at(float(rate), end))
            for rate, end in zip(rates, ends, strict=True)
        ]
        state, decision = tuner.tell(state, trials, np.array(scores, np.float32))
        held = [[*ends, *held][i] for i in decision.hold]
    length = curves.steps - (total - held[0])
    rate = float(space.from_unit(state.chosen)["learning_rate"])
    return Outcome(
        rate=rate,
        kept=bool(state.kept),
        ratio=curves.ratio(curves.end(rate, length)),
        overhead=(total - held[0]) / length,
    )


def outcomes(curves: Curves, draws: int) -> dict[str, list[Outcome]]:
    """By kind of base, one a draw."""
    found: dict[str, list[Outcome]] = {}
    for name, times in BASES.items():
        found[name] = []
        for draw in range(draws):
            base = curves.best_rate * times * SHIFTS[draw % len(SHIFTS)]
            low, high = curves.grid[0] * 1.001, curves.grid[-1] * 0.999
            chosen = None if math.isnan(base) else float(np.clip(base, low, high))
            try:
                found[name].append(play(curves, chosen, draw))
            except CannotTellError:
                print(f"{curves.name}, base {name}: no arm can be told from another")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    everything: list[Outcome] = []
    print("| table | " + " | ".join(BASES) + " |\n|---" * 1 + "|---" * len(BASES) + "|")
    for path in options.tables:
        curves = load(path)
        cells = []
        for found in outcomes(curves, options.draws).values():
            everything += found
            if not found:
                cells.append("-")
                continue
            ratios = " ".join(f"{x.ratio:.3f}" for x in found)
            rate = statistics.geometric_mean(x.rate for x in found) / curves.best_rate
            kept = sum(x.kept for x in found)
            cells.append(f"{ratios} (rate {rate:.2g}x, kept {kept})")
        print(f"| {curves.name} | " + " | ".join(cells) + " |", flush=True)
    ratios = [x.ratio for x in everything]
    mean = statistics.geometric_mean(ratios)
    overhead = [x.overhead for x in everything]
    print(
        f"geometric mean {mean:.4f}, worst {max(ratios):.3f}; over 1.05: "
        f"{sum(x > 1.05 for x in ratios)} of {len(ratios)}; overhead "
        f"{statistics.mean(overhead):.1%} on average, {max(overhead):.1%} at most"
    )


if __name__ == "__main__":
    main()
