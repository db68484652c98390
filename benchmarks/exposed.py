"""P3: search time that is not hidden behind training, as a share of the epoch.

    python benchmarks/exposed.py DATA_DIR

A run of the paper's method on the CPU twin. Every epoch of it is trained three ways
from the same state, in an order that changes from epoch to epoch:

  none     the trials are handed over: training alone
  hidden   as the loop does it: the incumbent trains while the tuner searches
  before   the search first, then the training

What training gives must be the same to the bit each time. The share is the median over
epochs of what a way takes longer than training alone, over that.
"""

import argparse
import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np
import record
from epoch import RESULTS, load

from hyperdyn_jax.run import config as config_lib
from hyperdyn_jax.run.engine import Engine
from hyperdyn_jax.run.network import Network
from hyperdyn_jax.run.rows import InMemory
from hyperdyn_jax.run.state import Run
from hyperdyn_jax.training.trainer import Trainer
from hyperdyn_jax.tuner.interface import Trials

EPOCHS = 150


class Told:
    """A tuner that knows the trials already.

    Args:
      tuner: what it is otherwise.
      trials: what it says.
    """

    def __init__(self, tuner: Any, trials: Trials):
        self._tuner, self._trials = tuner, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tuner, name)

    def ask(self, _: Any) -> Trials:
        return self._trials

    def incumbent(self, _: Any) -> None:
        return None


class Before(Told):
    """A tuner whose whole search comes before the training."""

    def ask(self, state: Any) -> Trials:
        return self._tuner.ask(state)


def engine_of(setup: config_lib.Setup, trainer: Trainer) -> Engine:
    """The engine of a run."""
    return Engine(setup.tuner, Network(setup, trainer), setup.backtracking)


def timed(setup: config_lib.Setup, trainer: Trainer, run: Run) -> tuple[float, Run]:
    """Seconds that an epoch's branches take, and the run with them trained."""
    began = time.perf_counter()
    engine = engine_of(setup, trainer)
    trained = engine.training.train(engine, run, InMemory())
    return time.perf_counter() - began, trained


def measure(setup: config_lib.Setup, epochs: int) -> dict[str, Any]:
    """Seconds of every epoch by way, and of every call of tell."""
    trainer = Trainer(setup.model, setup.optimizer, setup.dataset)
    run = Network(setup, trainer).begin()
    seconds: dict[str, list[float]] = {way: [] for way in ("none", "hidden", "before")}
    tells: list[float] = []
    while run.epoch <= epochs:
        trials = setup.tuner.ask(run.tuner)
        tuners = {
            "none": Told(setup.tuner, trials),
            "hidden": setup.tuner,
            "before": Before(setup.tuner, trials),
        }
        ends, order = {}, list(tuners)[run.epoch % 3 :] + list(tuners)[: run.epoch % 3]
        for way in order:
            changed = dataclasses.replace(setup, tuner=tuners[way])
            elapsed, ends[way] = timed(changed, trainer, run)
            if run.epoch > 1:  # the random start, and what is compiled after it
                seconds[way].append(elapsed)
        check_same([end.pending.progress for end in ends.values()])
        tell = functools.partial(engine_of(setup, trainer).decide, ends["hidden"])
        scores = np.zeros(len(trials.parents), np.float32)
        began = time.perf_counter()
        setup.tuner.tell(run.tuner, trials, scores)
        tells.append(time.perf_counter() - began)
        run, _ = tell()
    return {"seconds": seconds, "tell_seconds": tells[2:]}


def check_same(ends: list[Any]) -> None:
    """Raises where the ways have trained different networks."""
    first, *others = ends
    for other in others:
        np.testing.assert_array_equal(first.losses, other.losses)
        jax.tree.map(np.testing.assert_array_equal, first.states, other.states)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", metavar="DATA_DIR")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    config = load("cifar10_twin", arguments.data_dir)
    config |= {"strategy": "hyperdyn", "epochs": arguments.epochs + 2}
    found = measure(config_lib.build(config), arguments.epochs)
    seconds = {way: np.array(each) for way, each in found["seconds"].items()}
    results: dict[str, Any] = {"epochs": len(seconds["none"])}
    for way in ("hidden", "before"):
        shares = seconds[way] / seconds["none"] - 1
        low, middle, high = np.quantile(shares, (0.25, 0.5, 0.75))
        results[way] = {"share": middle, "share_q25": low, "share_q75": high}
    results["epoch_seconds"] = float(np.median(seconds["none"]))
    results["tell_ms"] = 1e3 * float(np.median(found["tell_seconds"]))
    print(results)
    record.write(
        RESULTS / "exposed.json", ("jax", "flax", "tinygp"), results | {"raw": found}
    )


if __name__ == "__main__":
    main()
