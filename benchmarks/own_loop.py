"""`tune` against the base that it is given, on digits; raw to results/own_loop.json.

    python benchmarks/own_loop.py

A perceptron under SGD with momentum 0.9; the space of its learning rate is four decades
wide. Every printed figure is the loss on a test split that neither training nor tuning
has seen, at equal optimizer steps in all: of the tuned run with every probe, of the
base as it stands, and of the best of five constant rates, which takes five runs to
find. The digits come as they are, so that other people wrote those of each split, or
mixed. The record is older than the race that `tune` has by now.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import record

from hyperdyn_jax import LogUniform, SearchSpace, tune
from hyperdyn_jax.data.dataset import load_digits
from hyperdyn_jax.system import streams

OUTPUT = Path(__file__).parent / "results" / "own_loop.json"
SPACE = SearchSpace(learning_rate=LogUniform(1e-4, 1.0))
RATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
BASES = (1e-3, 1e-2, 1e-1)
LENGTHS = {800: (20, 40), 4000: (20, 200)}  # steps: epochs, steps an epoch
SEEDS = range(8)
CHOSEN_ON = 3  # the first seeds
BATCH, TRAIN, VALIDATION = 32, 1000, 400
OPTIMIZER = optax.sgd  # of a rate and momentum


def split(mixed: bool) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Digits in the order they come in, by writer, or mixed."""
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))
    order = order if mixed else np.arange(len(images))
    images, labels = jnp.float32(images[order] / 16), jnp.int32(labels[order])
    ends = {"train": (0, TRAIN), "validation": (TRAIN, TRAIN + VALIDATION)}
    ends["test"] = TRAIN + VALIDATION, len(images)
    return {name: (images[a:b], labels[a:b]) for name, (a, b) in ends.items()}


def init(seed: int) -> tuple[list[jax.Array], optax.OptState]:
    """A perceptron of 64 hidden units, untrained."""
    keys = jax.random.split(streams.of_seed(seed, "weights"))
    scale = jax.nn.initializers.lecun_normal()
    params = [scale(keys[0], (64, 64)), jnp.zeros(64)]
    params += [scale(keys[1], (64, 10)), jnp.zeros(10)]
    return params, OPTIMIZER(1.0, 0.9).init(params)


def logits(params: list[jax.Array], images: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(images @ params[0] + params[1][None])
    return hidden @ params[2] + params[3][None]


@jax.jit
def loss(params: list[jax.Array], data: tuple[jax.Array, jax.Array]) -> jax.Array:
    found = logits(params, data[0])
    return optax.softmax_cross_entropy_with_integer_labels(found, data[1]).mean()


@jax.jit
def accuracy(params: list[jax.Array], data: tuple[jax.Array, jax.Array]) -> jax.Array:
    return 100 * (jnp.argmax(logits(params, data[0]), axis=1) == data[1]).mean()


@jax.jit
def steps_from(state, rate, data, seed, first, stop):
    optimizer = OPTIMIZER(rate, 0.9)

    def step(i, state):
        params, opt_state = state
        key = jax.random.fold_in(streams.of_seed(seed, "batches"), i)
        rows = jax.random.choice(key, TRAIN, (BATCH,))
        batch = jax.tree.map(lambda x: x[rows], data)
        updates, opt_state = optimizer.update(jax.grad(loss)(params, batch), opt_state)
        return optax.apply_updates(params, updates), opt_state

    return jax.lax.fori_loop(first, stop, step, state)


class Problem(NamedTuple):
    """Splits of the digits, and a seed for weights and batches."""

    data: dict[str, tuple[jax.Array, jax.Array]]
    seed: int

    def train(self, state, hparams, steps):
        rate = jnp.float32(hparams["learning_rate"])
        batches = self.data["train"], self.seed
        return steps_from(state, rate, *batches, steps.start, steps.stop)

    def evaluate(self, state):
        return -float(loss(state[0], self.data["validation"]))

    def measure(self, state):
        params, test = state[0], self.data["test"]
        return {
            "loss": float(loss(params, test)),
            "accuracy": float(accuracy(params, test)),
            "validation_loss": -self.evaluate(state),
        }

    def constant(self, rate, steps):
        trained = self.train(init(self.seed), {"learning_rate": rate}, range(steps))
        return self.measure(trained)

    def tuned(self, base, epochs, steps_per_epoch):
        result = tune(
            self.train, self.evaluate, init(self.seed), SPACE, epochs=epochs,
            steps_per_epoch=steps_per_epoch, base={"learning_rate": base},
            key=streams.of_seed(self.seed, "tuner"),
        )  # fmt: skip
        last = result.metrics[-1]
        return {
            "base": base,
            "tuned": self.measure(result.state),
            "setting": last["hyperparams"]["learning_rate"],
            "best_epoch": result.best_epoch,
            "accepted_steps": last["step"],
            "total_steps": last["total_steps"],
        }


def main() -> None:
    rows = []
    every = itertools.product((False, True), LENGTHS.items(), SEEDS)
    for mixed, (steps, size), seed in every:
        problem = Problem(split(mixed), seed)
        constant = {f"{rate:g}": problem.constant(rate, steps) for rate in RATES}
        where = {"mixed": mixed, "steps": steps, "seed": seed, "constant": constant}
        rows += [where | problem.tuned(base, *size) for base in BASES]
    record.write(OUTPUT, ("jax", "optax", "numpy"), rows)
    for mixed, steps, base in itertools.product((False, True), LENGTHS, BASES):
        kind = {"mixed": mixed, "steps": steps, "base": base}
        these = [row for row in rows if kind.items() <= row.items()]
        print(*kind.values(), "chosen on:", summary(these[:CHOSEN_ON]))
        print(*kind.values(), "fresh:", summary(these[CHOSEN_ON:]))


def summary(rows: list[dict]) -> str:
    """Mean and standard error over the seeds."""
    columns = {
        "tuned": [row["tuned"]["loss"] for row in rows],
        "base": [row["constant"][f"{row['base']:g}"]["loss"] for row in rows],
        "best": [min(x["loss"] for x in row["constant"].values()) for row in rows],
    }
    columns["tuned - base"] = np.subtract(columns["tuned"], columns["base"])
    error = len(rows) ** 0.5
    return ", ".join(
        f"{name} {np.mean(x):.3f} +- {np.std(x, ddof=1) / error:.3f}"
        for name, x in columns.items()
    )


if __name__ == "__main__":
    main()
