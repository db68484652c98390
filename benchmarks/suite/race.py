"""The race through `tune` on real training, against the sweep of a table.

    python -m benchmarks.suite.race OUT.jsonl TABLE-0.npz ...

A table's name is its workload's, a dash and its seed (`tables.py`). Bases as in
`offline.py`, and one of the best rate along a cosine; a row a run, with the ratio of
its validation loss to the table's best and to the base's own run.
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import numpy as np

from benchmarks.suite import plain, workloads
from benchmarks.suite.curves import Curves, load
from benchmarks.suite.offline import BASES, STRETCHES
from benchmarks.suite.rows import Row, Rows
from benchmarks.suite.tables import SHAPES
from benchmarks.suite.workload import Workload
from hyperdyn_jax import LogUniform, SearchSpace
from hyperdyn_jax.strategies import Schedule
from hyperdyn_jax.strategies.race import Race
from hyperdyn_jax.tuning import tune

VERSION = "5"  # of the race, so that rows of earlier ones are told apart
TOLD = "told"  # of the warm-up in the optimizer: kinds "best:told", "best:cosine:told"
COLUMNS = ("workload", "seed", "kind", "key", "version")  # that tell rows apart


def base_of(work: Workload, curves: Curves, kind: str) -> float | None:
    """The rate of a kind of base, within the range that is searched."""
    times = BASES[kind.partition(":")[0]]
    if math.isnan(times):
        return None
    low, high = work.rates[0] * 1.001, work.rates[1] * 0.999
    return float(np.clip(curves.best_rate * times, low, high))


def shape_of(kind: str) -> str:
    """Of a kind of base, one of `plain.SCHEDULES`."""
    shapes = [part for part in kind.split(":")[1:] if part != TOLD]
    return shapes[0] if shapes else "constant"


def own_loss(work: Workload, curves: Curves, kind: str, seed: int) -> float | None:
    """What the base ends with alone; None where it diverges or there is none."""
    base, shape = base_of(work, curves, kind), shape_of(kind)
    if base is None:
        return None
    if kind.startswith("best") and shape in SHAPES:  # a rate of the table
        return curves.own(base, shape)
    last = plain.train(work, base, shape, seed).last
    return last if math.isfinite(last) else None


def row(
    work: Workload,
    curves: Curves,
    kind: str,
    seed: int,
    key: int = 0,
    race: Callable[..., Race] = Race,
) -> Row:
    """A run: its settings and what it ended with.

    Args:
      work, curves: the workload and its table.
      kind: of the base.
      seed: of the weights.
      key: of the race.
      race: makes it.
    """
    base, shape = base_of(work, curves, kind), shape_of(kind)
    low, high = work.rates
    space = SearchSpace(learning_rate=LogUniform(low, high))
    each = work.steps // STRETCHES
    schedule = None
    if base is not None:
        schedule = Schedule.constant(learning_rate=base)
        if shape == "cosine":
            schedule = Schedule.cosine(STRETCHES, base)
        elif shape != "constant":
            along = plain.SCHEDULES[shape]
            schedule = Schedule(
                {"learning_rate": lambda t: base * along(t / STRETCHES)}
            )
    told = {"warmup": work.warmup} if kind.endswith(TOLD) else {}
    began = time.monotonic()
    result = tune(
        work.train,
        work.evaluate,
        work.init(jax.random.key(seed)),
        race(space, STRETCHES, each, base=schedule, **told),
        epochs=STRETCHES,
        steps_per_epoch=each,
        key=jax.random.key(key),
    )
    seconds = time.monotonic() - began
    middle, last = result.metrics[len(result.metrics) // 2], result.metrics[-1]
    losses = [(x["total_steps"], x["validation_loss"]) for x in result.metrics]
    return {
        "workload": work.name,
        "strategy": "race",
        "version": VERSION,
        "seed": seed,
        "kind": kind,
        "base": base,
        "key": key,
        "ratio": curves.ratio(-result.score),
        "loss": -result.score,
        "test_loss": -work.test(result.state),
        "rate": middle["hyperparams"]["learning_rate"],
        "total_steps": last["total_steps"],
        "accepted_steps": last["step"],
        "best_epoch": result.best_epoch,
        "epochs": len(result.metrics),
        "went_back": sum(bool(x["rollback"]) for x in result.decisions),
        "target": curves.target,
        "losses": [*losses, (last["total_steps"], -result.score)],
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--keys", type=int, default=1)
    parser.add_argument("--bases", default=",".join(["best:cosine", *BASES]))
    options = parser.parse_args()
    rows = Rows(options.out, *COLUMNS)
    for path in options.tables:
        curves = load(path)
        name, _, seed = curves.name.rpartition("-")
        wanted = [
            {"workload": name, "seed": int(seed), "kind": kind, "key": key}
            for kind in options.bases.split(",")
            for key in range(options.keys)
        ]
        wanted = [each for each in wanted if each | {"version": VERSION} not in rows]
        if not wanted:
            continue
        work = workloads.load(name, options.data_dir, int(seed))
        for each in wanted:
            found = row(work, curves, each["kind"], int(seed), each["key"])
            own = own_loss(work, curves, each["kind"], int(seed))
            found["own"] = None
            if own is not None:
                found["own"] = 1 + (found["loss"] - own) / curves.unit
            rows.add(found)
            print(
                f"{name} {each['kind']}: {found['ratio']:.3f} at {found['rate']:.3g}, "
                f"{found['total_steps']} steps, path {found['accepted_steps']}, "
                f"best {found['best_epoch']} of {found['epochs']}, "
                f"{found['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
