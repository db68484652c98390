"""P6: two branches against twice one: in turn, on two groups of devices, and by vmap.

    python benchmarks/branches.py DATA_DIR

On the host, as two devices. *One* is a branch on one of them; the two are trained there
in turn; side by side, each on its own; and by the peer, `vmap` over both sets of
weights on one device. All start from the same weights and must have the same after two
steps, up to rounding, which training makes larger step by step.

A group of devices has half of the machine, but XLA:CPU spreads the program of one
device over all cores. So what two side by side are compared with is one branch in a
process that has one core, while the others have two. In turn from pair to pair.
"""

import argparse
import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

# Before JAX starts.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax
import jax.numpy as jnp
import numpy as np
import pairs
import record
from epoch import RESULTS, load

from hyperdyn_jax.run import config as config_lib
from hyperdyn_jax.training import branch_parallel
from hyperdyn_jax.training.train_step import AXIS
from hyperdyn_jax.training.trainer import Trainer

# The config's file, and the steps of a timed stretch.
CASES = {"cifar10_twin": 64, "cifar10": 6}
PAIRS = 7
SETTINGS = [
    {"learning_rate": np.float32(rate), "momentum": np.float32(0.9)}
    for rate in (0.1, 0.02)
]
KEY = jax.random.key(1)


def ways(setup: config_lib.Setup) -> dict[str, Callable[[int], list[Any]]]:
    """What is timed: functions of the steps that give the branches' parameters."""
    parts = (setup.model, setup.optimizer, setup.dataset)
    single = Trainer(*parts, jax.devices()[:1])
    both = Trainer(*parts, jax.devices())

    def train(trainer: Trainer, settings: list[Any]) -> Callable[[int], list[Any]]:
        state = trainer.init(jax.random.key(0))

        def run(steps: int) -> list[Any]:
            begun = trainer.begin([state] * len(settings), settings)
            trained = trainer.train(begun, steps, KEY).states
            return [jax.block_until_ready(branch.params) for branch in trained]

        return run

    return {
        "one": train(single, SETTINGS[:1]),
        "in turn": train(single, SETTINGS),
        "side by side": train(both, SETTINGS),
        "vmap": vmapped(single),
    }


def vmapped(trainer: Trainer) -> Callable[[int], list[Any]]:
    """One program for both sets of weights on one device."""
    step, _ = trainer._programs
    over_device = functools.partial(jax.vmap, axis_name=AXIS)
    # An axis of one device, for the averages over it; then one of branches.
    inner = over_device(step, in_axes=(None, None, 0, None), out_axes=0)
    both = jax.vmap(inner, in_axes=(0, None, None, None))
    program = branch_parallel.compiled(both, jax.devices())
    resident = trainer._hold("train")
    state = trainer.init(jax.random.key(0))
    begun = trainer.begin([state] * 2, SETTINGS).states
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *begun)

    def run(steps: int) -> list[Any]:
        wave = stacked
        for i in range(steps):
            batch = trainer._layout(1).put(trainer.dataset.train_batch(i))
            wave, _ = program(wave, resident, batch, KEY)
            wave = jax.tree.map(lambda x: x[:, 0], wave)
        jax.block_until_ready(wave)
        return [jax.tree.map(lambda x, i=i: x[i], wave.params) for i in range(2)]

    return run


@contextlib.contextmanager
def on_one_core(name: str, data_dir: str) -> Iterator[Callable[[], None]]:
    """Trains one branch in a process that has one core, whenever it is called."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(every)})  # of this thread, and its children
    process = subprocess.Popen(
        [sys.executable, __file__, data_dir, f"--serve={name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.sched_setaffinity(0, every)

    def ask() -> None:
        process.stdin.write("\n")
        process.stdin.flush()
        if process.stdout.readline() != "done\n":
            raise RuntimeError("the process on one core did not train")

    with process:
        ask()  # compiles
        yield ask
        process.stdin.close()


def serve(name: str, data_dir: str) -> None:
    """The other end of `on_one_core`."""
    train = ways(config_lib.build(load(name, data_dir)))["one"]
    for _ in sys.stdin:
        train(CASES[name])
        print("done", flush=True)


def measure(name: str, data_dir: str) -> list[dict[str, Any]]:
    """Rows, a way each: its time over twice that of one."""
    steps = CASES[name]
    setup = config_lib.build(load(name, data_dir))
    timed = ways(setup)
    ends = {way: run(2) for way, run in timed.items()}  # also compiles
    for way, params in ends.items():
        same = [("one", 0)] if way == "one" else [("in turn", 0), ("in turn", 1)]
        for (_, i), branch in zip(same, params, strict=True):
            check_close(branch, ends["in turn"][i])
    bound = {way: functools.partial(run, steps) for way, run in timed.items()}
    with on_one_core(name, data_dir) as alone:
        seconds = pairs.in_turn(bound | {"one on one core": alone}, PAIRS)
    rows = []
    for way in ("in turn", "side by side", "vmap"):
        one = "one on one core" if way == "side by side" else "one"
        twice = [2 * x for x in seconds[one]]
        rows.append(
            {
                "config": name,
                "layout": way,
                "steps": steps,
                "pairs": PAIRS,
                "peer": one,
                **pairs.compare(twice, seconds[way]),  # the share of twice one
                "seconds": seconds[way],
                "one_seconds": seconds[one],
            }
        )
    return rows


def check_close(mine: Any, theirs: Any) -> None:
    """The same up to rounding: within a hundredth of all weights together."""
    both = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
        for tree in (mine, theirs)
    ]
    distance = np.linalg.norm(both[0] - both[1]) / np.linalg.norm(both[1])
    if not distance <= 0.01:
        raise RuntimeError(f"weights differ by {distance:.2g} of their norm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", metavar="DATA_DIR")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data_dir = arguments.data_dir
    if arguments.serve:
        serve(arguments.serve, data_dir)
        return
    rows = [row for name in CASES for row in measure(name, data_dir)]
    for row in rows:
        print({name: x for name, x in row.items() if "seconds" not in name})
    record.write(RESULTS / "branches.json", ("jax", "flax", "optax"), rows)


if __name__ == "__main__":
    main()
