"""P12: what `tune` adds to a loop of 800 small steps; raw to results/tune_cost.json.

    python benchmarks/tune_cost.py

Processor time, of all threads, of a tuned run less that of the bare loop: the same
number of steps of a perceptron on digits, scored after each of 20 epochs. Every repeat
is a process of its own, in which both take turns once the loop's own programs are
compiled; its first tuned run compiles and imports what `tune` needs. Then what an
epoch of a tiny loop with a workdir costs at the start and at the end of 1,000 epochs.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import record

from hyperdyn_jax import LogComplement, LogUniform, SearchSpace, optimizers, tune
from hyperdyn_jax.data.dataset import load_digits

OUTPUT = Path(__file__).parent / "results" / "tune_cost.json"
EPOCHS, STEPS_PER_EPOCH, BATCH = 20, 40, 32
REPEATS, TURNS = 5, 3
RATE = {"learning_rate": LogUniform(1e-4, 1.0)}
SPACES = {
    "rate": SearchSpace(**RATE),
    "rate and momentum": SearchSpace(**RATE, momentum=LogComplement(0.0, 0.99)),
    "rate, with a workdir": SearchSpace(**RATE),
}
LONG, ENDS = "1,000 epochs", 100  # epochs at each end that are compared


class Loop:
    """A perceptron, whose training is a call a step."""

    def __init__(self) -> None:
        images, labels = load_digits()
        data = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
        self.data = tuple(x[:1280] for x in data)
        self.held_out = tuple(x[1280:] for x in data)
        self.optimizer = optimizers.create_optimizer(
            "sgd", {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0}
        )
        self.step, self.loss = jax.jit(self._step), jax.jit(self._loss)

    def init(self) -> Any:
        keys, scale = jax.random.split(jax.random.key(0)), 0.1
        params = [
            scale * jax.random.normal(keys[0], (64, 64)),
            scale * jax.random.normal(keys[1], (64, 10)),
        ]
        return params, self.optimizer.init(params)

    def _loss(self, params, data):
        logits = jax.nn.relu(data[0] @ params[0]) @ params[1]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, data[1])
        return loss.mean()

    def _step(self, params, opt_state, number):
        key = jax.random.fold_in(jax.random.key(1), number)
        rows = jax.random.choice(key, len(self.data[0]), (BATCH,))
        batch = tuple(x[rows] for x in self.data)
        grads = jax.grad(self._loss)(params, batch)
        updates, opt_state = self.optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def train(self, state, hparams, steps):
        params, opt_state = state
        opt_state = optimizers.set_hyperparams(opt_state, hparams)
        for number in steps:
            params, opt_state = self.step(params, opt_state, number)
        return params, opt_state

    def evaluate(self, state):
        return -float(self.loss(state[0], self.held_out))

    def bare(self) -> None:
        state, rate = self.init(), {"learning_rate": np.float32(0.1)}
        for epoch in range(EPOCHS):
            begin = epoch * STEPS_PER_EPOCH
            state = self.train(state, rate, range(begin, begin + STEPS_PER_EPOCH))
            self.evaluate(state)

    def tuned(self, case: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            tune(
                self.train, self.evaluate, self.init(), SPACES[case], epochs=EPOCHS,
                steps_per_epoch=STEPS_PER_EPOCH, key=jax.random.key(2),
                workdir=folder if "workdir" in case else None,
            )  # fmt: skip


def seconds(function: Callable[[], None]) -> float:
    """Processor time of a call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def one(case: str) -> dict[str, list[float]]:
    """One process: the bare loop and the tuned one in turn."""
    if case == LONG:
        return {"milliseconds": long_run()}
    loop, found = Loop(), {"bare": [], "tuned": []}
    loop.bare()
    for _ in range(TURNS):
        found["bare"].append(seconds(loop.bare))
        found["tuned"].append(seconds(lambda: loop.tuned(case)))
    return found


def long_run() -> list[float]:
    """Processor time of each stretch of a long run, which is an epoch after the race,
    in milliseconds; a state of four numbers."""
    ended = []
    with tempfile.TemporaryDirectory() as folder:
        tune(
            lambda w, hparams, _: w * (1 - hparams["learning_rate"]) + 1e-3,
            lambda w: -float((w**2).sum()),
            np.full(4, 10, np.float32),
            SPACES["rate"],
            epochs=1000, steps_per_epoch=4, key=jax.random.key(0), workdir=folder,
            callback=lambda *_: ended.append(time.process_time()),
        )  # fmt: skip
    return [round(1000 * x, 3) for x in np.diff(ended)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", help="measure this case in this process alone")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one)))
        return
    rows = []
    for repeat in range(REPEATS):
        for case in [*SPACES, LONG]:
            command = [sys.executable, __file__, "--one", case]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append({"case": case, "repeat": repeat} | found)
    record.write(OUTPUT, ("jax", "optax", "numpy", "orbax-checkpoint"), rows)
    for line in summary(rows):
        print(line)


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Medians over the processes, with the least and the most."""
    lines = []
    for case in SPACES:
        these = [row for row in rows if row["case"] == case]
        bare = [statistics.median(row["bare"]) for row in these]
        tuned = {
            "first": [row["tuned"][0] for row in these],
            "later": [statistics.median(row["tuned"][1:]) for row in these],
        }
        for when, values in tuned.items():
            added = np.subtract(values, bare)
            lines.append(f"{case}, {when} call: {_spread(added)} s")
    ends = [row["milliseconds"] for row in rows if row["case"] == LONG]
    for where, part in {"first": slice(ENDS), "last": slice(-ENDS, None)}.items():
        means = [statistics.mean(each[part]) for each in ends]
        lines.append(f"{LONG}, {where} {ENDS} stretches: {_spread(means)} ms each")
    return lines


def _spread(values: Any) -> str:
    return f"{np.median(values):.2f} ({np.min(values):.2f} to {np.max(values):.2f})"


if __name__ == "__main__":
    main()
