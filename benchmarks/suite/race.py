"""The race through `tune` on real training, against the sweep of a table.

    python -m benchmarks.suite.race OUT.jsonl TABLE-0.npz ...

A table's name is its workload's, a dash and its seed (`tables.py`). Bases as in
`offline.py`, and one of the best rate along a cosine; a row a run, with the ratio of
its validation loss to the table's best and, of a base of the best rate, to its own run.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import numpy as np

from benchmarks.suite import workloads
from benchmarks.suite.curves import Curves, load
from benchmarks.suite.offline import BASES, STRETCHES
from benchmarks.suite.workload import Workload
from hyperdyn_jax import LogUniform, SearchSpace
from hyperdyn_jax.strategies import Schedule
from hyperdyn_jax.strategies.race import Race
from hyperdyn_jax.tuning import tune

VERSION = "5"  # of the race, so that rows of earlier ones are told apart


def row(
    work: Workload, curves: Curves, kind: str, seed: int, key: int
) -> dict[str, object]:
    """A run: its settings and what it ended with."""
    times, _, shape = kind.partition(":")
    base: float | None = None
    if not math.isnan(BASES[times]):
        base = curves.best_rate * BASES[times]
        base = float(np.clip(base, work.rates[0] * 1.001, work.rates[1] * 0.999))
    low, high = work.rates
    space = SearchSpace(learning_rate=LogUniform(low, high))
    each = work.steps // STRETCHES
    schedule, own = None, None
    if base is not None:
        schedule = Schedule.constant(learning_rate=base)
        if shape:
            schedule = Schedule.cosine(STRETCHES, base)
        if times == "best":
            own = curves.own(base, shape or "constant")
    began = time.monotonic()
    result = tune(
        work.train,
        work.evaluate,
        work.init(jax.random.key(seed)),
        Race(space, STRETCHES, each, base=schedule),
        epochs=STRETCHES,
        steps_per_epoch=each,
        key=jax.random.key(key),
    )
    middle, last = result.metrics[len(result.metrics) // 2], result.metrics[-1]
    return {
        "workload": work.name,
        "strategy": "race",
        "version": VERSION,
        "seed": seed,
        "base": base,
        "key": key,
        "ratio": curves.ratio(-result.score),
        "own": own and 1 + (-result.score - own) / curves.unit,
        "loss": -result.score,
        "test": work.test(result.state),
        "rate": middle["hyperparams"]["learning_rate"],
        "total_steps": last["total_steps"],
        "accepted_steps": last["step"],
        "best_epoch": result.best_epoch,
        "epochs": len(result.metrics),
        "seconds": time.monotonic() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--keys", type=int, default=1)
    parser.add_argument("--bases", default=",".join(["best:cosine", *BASES]))
    options = parser.parse_args()
    for path in options.tables:
        curves = load(path)
        name, _, seed = curves.name.rpartition("-")
        work = workloads.load(name, options.data_dir, int(seed))
        for kind in options.bases.split(","):
            for key in range(options.keys):
                found = {"kind": kind, **row(work, curves, kind, int(seed), key)}
                with options.out.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(
                    f"{name} {kind}: {found['ratio']:.3f} at {found['rate']:.3g}, "
                    f"{found['total_steps']} steps, path {found['accepted_steps']}, "
                    f"best {found['best_epoch']} of {found['epochs']}, "
                    f"{found['seconds']:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
