"""P5: an epoch of the loop's training against a bare loop over the same jitted step.

    python benchmarks/epoch.py DATA_DIR

The network, the data and the compiled step are those of a config; the bare loop has its
batches at hand, dispatches one step after the other, and waits once at the end, as
Flax's ImageNet example does. Both in turn in one process, the order swapped from pair
to pair; that both end with the same parameters is checked.
"""

import argparse
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pairs
import record

from hyperdyn_jax import optimizers
from hyperdyn_jax.run import config as config_lib
from hyperdyn_jax.training.trainer import Trainer, TrainState

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# The config's file, the steps of a timed epoch, and pairs of such epochs.
CASES = {"cifar10": (10, 7), "cifar10_twin": (256, 15)}


def load(name: str, data_dir: str) -> dict[str, Any]:
    """The config of configs/<name>.py."""
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config().to_dict() | {"data_dir": data_dir}


def bare(
    trainer: Trainer, state: TrainState, steps: int, key: jax.Array
) -> Callable[[], TrainState]:
    """The bare loop, with its batches made beforehand."""
    resident, place = trainer._hold("train"), trainer._layout(1)
    batches = [place.put(trainer.dataset.train_batch(i)) for i in range(steps)]
    hparams = {"learning_rate": np.float32(0.1), "momentum": np.float32(0.9)}
    opt_state = optimizers.set_hyperparams(state.opt_state, hparams)

    def epoch() -> TrainState:
        (new,), losses = place.pack([state._replace(opt_state=opt_state)]), []
        for batch in batches:
            new, loss = place.step(new, resident, batch, key)
            losses.append(loss)
        np.mean(jax.device_get(losses))
        return new

    return epoch


def ours(
    trainer: Trainer, state: TrainState, steps: int, key: jax.Array
) -> Callable[[], TrainState]:
    """The loop's epoch: one branch."""
    hparams = {"learning_rate": np.float32(0.1), "momentum": np.float32(0.9)}
    return lambda: trainer.train(trainer.begin([state], [hparams]), steps, key).states[
        0
    ]


def measure(name: str, data_dir: str) -> dict[str, Any]:
    """Rates of both in images a second, and their ratio, pair by pair."""
    setup = config_lib.build(load(name, data_dir))
    trainer = Trainer(setup.model, setup.optimizer, setup.dataset)
    steps, count = CASES[name]
    state, key = trainer.init(jax.random.key(0)), jax.random.key(1)
    ways = {way.__name__: way(trainer, state, steps, key) for way in (ours, bare)}
    ends = [epoch() for epoch in ways.values()]  # also compiles
    same = jax.tree.map(np.array_equal, ends[0].params, ends[1].params)
    waiting = {
        way: functools.partial(lambda epoch: jax.block_until_ready(epoch()), epoch)
        for way, epoch in ways.items()
    }
    times = pairs.in_turn(waiting, count)
    images = steps * setup.dataset.batch_size
    return {
        "config": name,
        "steps": steps,
        "batch_size": setup.dataset.batch_size,
        "pairs": count,
        "same_parameters": all(jax.tree.leaves(same)),
        "ours_images_per_second": pairs.per_second(images, times["ours"]),
        "bare_images_per_second": pairs.per_second(images, times["bare"]),
        **pairs.compare(times["ours"], times["bare"]),
        "seconds": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", metavar="DATA_DIR")
    data_dir = parser.parse_args().data_dir
    rows = [measure(name, data_dir) for name in CASES]
    for row in rows:
        print({name: x for name, x in row.items() if name != "seconds"})
    record.write(RESULTS / "epoch.json", ("jax", "flax", "optax"), rows)


if __name__ == "__main__":
    main()
