"""Learning curves of a workload over a grid of learning rates, for `curves.py`.

    python -m benchmarks.suite.tables WORKLOAD OUT.npz [--data_dir DIR] [--seed 0]

Every rate is trained held constant, cooled down over the last fifth (1 - sqrt), and
along a cosine; the loss (minus the validation score) of the end of the path and of its
average is kept at geometric horizons. The format is that of `curves.load`. With
`--around` only 4 rates of the grid are trained: enough for the best of a sweep.
"""

import argparse
import math
import os
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import numpy as np

from benchmarks.suite import workloads
from benchmarks.suite.workload import Workload
from hyperdyn_jax.optimizers import iterate_average

SHARES = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.16,
          0.2, 0.25, 0.35, 0.5, 0.7, 0.8, 1.0)  # fmt: skip
POWER = 5.0
COOLDOWN = 0.2


def wsd(share: float) -> float:
    """The multiplier of a constant rate with a cooldown of 1 - sqrt."""
    return 1 - math.sqrt(max(0.0, share - (1 - COOLDOWN)) / COOLDOWN)


def cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


SHAPES = {"constant": lambda _: 1.0, "wsd": wsd, "cosine": cosine}


class Path:
    """A path of training and its average."""

    def __init__(self, work: Workload, key: jax.Array):
        self.work, self.step = work, 0
        self.state = work.init(key)
        self.average = iterate_average.start(self.state)

    def copy(self) -> "Path":
        new = object.__new__(type(self))
        new.__dict__ |= self.__dict__
        return new

    def advance(self, rate: float, steps: int) -> None:
        """Trains on, in one piece."""
        span = range(self.step, self.step + steps)
        self.state = self.work.train(self.state, {"learning_rate": rate}, span)
        self.step += steps
        share = iterate_average.weight(POWER, self.step, steps)
        self.average = iterate_average.update(self.average, self.state, share)

    def losses(self) -> tuple[float, float]:
        """Of the end of the path, and of its average."""
        mean = iterate_average.read_out(self.average, self.state)
        return -self.work.evaluate(self.state), -self.work.evaluate(mean)


def curve(
    path: Path, rate: float, shape: str, horizons: list[int]
) -> tuple[list[tuple[float, float]], Path]:
    """Losses at the horizons, and the path where the cooldown begins."""
    total, found, at_cooldown = path.work.steps, [], path.copy()
    piece = max(1, total // 200)
    while path.step < horizons[-1]:
        if path.step <= (1 - COOLDOWN) * total:
            at_cooldown = path.copy()
        following = min(h for h in horizons if h > path.step)
        steps = min(piece, following - path.step)
        middle = (path.step + steps / 2) / total
        path.advance(rate * SHAPES[shape](middle), steps)
        if path.step in horizons:
            found.append(path.losses())
            if not np.isfinite(found[-1][0]):  # diverged, and stays so
                break
    return found + [(math.nan, math.nan)] * (len(horizons) - len(found)), at_cooldown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workload", choices=workloads.NAMES)
    parser.add_argument("out")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rates", type=int, default=12)
    parser.add_argument("--around", type=float, help="only the 4 rates next to this")
    options = parser.parse_args()
    work = workloads.load(options.workload, options.data_dir, options.seed)
    key = jax.random.key(options.seed)
    horizons = sorted({max(1, round(work.steps * share)) for share in SHARES})
    grid = np.geomspace(*work.rates, options.rates)
    table = np.full((2, len(horizons), len(SHAPES), len(grid)), np.nan)
    began = time.monotonic()
    order = np.argsort(np.abs(np.log(grid / (options.around or 1))))
    for i in sorted(order[:4] if options.around else order):
        rate = float(grid[i])
        losses, half = curve(Path(work, key), rate, "constant", horizons)
        table[:, :, 0, i] = np.transpose(losses)
        table[:, :, 1, i] = table[:, :, 0, i]
        after = [h for h in horizons if h > half.step]
        if np.isfinite(losses[-1][0]):
            ends, _ = curve(half, rate, "wsd", after)
            table[:, -len(after) :, 1, i] = np.transpose(ends)
        losses, _ = curve(Path(work, key), rate, "cosine", horizons)
        table[:, :, 2, i] = np.transpose(losses)
        ends = " ".join(f"{x:.4f}" for x in table[0, -1, :, i])
        print(f"{rate:.2g}: {ends} ({time.monotonic() - began:.0f} s)", flush=True)
    raw, avg = table
    start = -work.evaluate(work.init(key))
    np.savez(
        options.out, raw=raw, avg=avg, grid=grid, horizons=horizons, start=start,
        kinds=list(SHAPES), steps=work.steps,
    )  # fmt: skip


if __name__ == "__main__":
    main()
