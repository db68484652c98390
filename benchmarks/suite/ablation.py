"""The race with one of its parts taken out, on the suite.

    python -m benchmarks.suite.ablation OUT.jsonl RACE.jsonl TABLE-4.npz ...

RACE.jsonl has the rows of the whole race (`race.py`), which the others are held
against. A race without a base needs no run of its own: that is the base "none".
"""

import argparse
import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import numpy as np

from benchmarks.suite import race as real
from benchmarks.suite import rows, workloads
from benchmarks.suite.curves import load
from hyperdyn_jax.strategies import race, race_plan

BASES = ("best", "0.1x", "none")
COLUMNS = ("without", "workload", "seed", "kind")


class ByScore(race.Race):
    """Takes the best arm of the last round, whatever a model expects of the end."""

    def _survivors(
        self, state: Any, belief: Any, scores: np.ndarray, following: int, most: int
    ) -> np.ndarray:
        del belief, following
        sound = np.flatnonzero(np.isfinite(scores))
        ranks = np.where(self.is_base(state.arms[sound]), np.inf, scores[sound])
        return np.sort(sound[np.argsort(-ranks, stable=True)[:most]])

    def _choose(self, state: Any, belief: Any, scores: np.ndarray) -> Any:
        leader = np.argmax(np.where(np.isfinite(scores), scores, -np.inf))
        best = self.moved(state.arms[leader], 1)
        leaves = not self.is_base(state.arms[: len(scores)])[leader]
        belief = belief._replace(best=best, leaves_base=leaves)
        return super()._choose(state, belief, scores)


@contextlib.contextmanager
def one_horizon() -> Iterator[None]:
    """All arms train for as long as the budget has room for."""
    with (
        mock.patch.object(race, "HORIZONS", (1,)),
        mock.patch.object(race, "KEPT", ()),
        mock.patch.object(race, "FIRST", 1.0),
    ):
        yield


PARTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "going back": (race.Race, lambda: mock.patch.object(race, "BEHIND", math.inf)),
    "the model": (ByScore, contextlib.nullcontext),
    "averaging": (functools.partial(race.Race, averaging=None), contextlib.nullcontext),
    "the cooldown": (
        race.Race,
        lambda: mock.patch.object(race_plan, "wsd", return_value=1.0),
    ),
    "growing horizons": (race.Race, one_horizon),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("whole", type=Path)
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--data_dir", default="")
    options = parser.parse_args()
    known = rows.Rows(options.out, *COLUMNS)
    whole = {
        (row["workload"], row["seed"], row["kind"]): row
        for row in rows.read(options.whole)
        if row.get("version") == real.VERSION and "went_back" in row
    }
    for path in options.tables:
        curves = load(path)
        name, _, number = curves.name.rpartition("-")
        seed, work = int(number), workloads.load(name, options.data_dir, int(number))
        for without, (kind_of_race, patched) in PARTS.items():
            for kind in BASES:
                about = {"without": without, "workload": name, "seed": seed}
                about["kind"] = kind
                if about in known:
                    continue
                full = whole[name, seed, kind]
                found = full
                if without != "going back" or full["went_back"]:  # else it is the same
                    with patched():
                        found = real.row(work, curves, kind, seed, race=kind_of_race)
                change = 1 + (found["loss"] - full["loss"]) / curves.unit
                known.add(found | about | {"change": change})
                print(f"{name} {kind} without {without}: {change:.3f}", flush=True)


if __name__ == "__main__":
    main()
