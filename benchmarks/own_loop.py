"""`tune` against the base that it is given, on digits; raw to results/own_loop.json.

    python benchmarks/own_loop.py

A perceptron under SGD with momentum 0.9; the space of its learning rate is four decades
wide. Every figure is of a test split that neither training nor tuning has seen, at equal
optimizer steps in all: of the tuned run with all its probes, of the base as it stands,
and of five constant rates, of which the best is the one that a sweep of five times the
steps would have found.
"""

import functools
import itertools
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import record
from sklearn.datasets import load_digits

from hyperdyn_jax import LogUniform, SearchSpace, tune

OUTPUT = Path(__file__).parent / "results" / "own_loop.json"
SPACE = SearchSpace(learning_rate=LogUniform(1e-4, 1.0))
RATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
BASES = (1e-3, 1e-2, 1e-1)
LENGTHS = {800: (20, 40), 4000: (20, 200)}  # steps: epochs, steps an epoch
SEEDS = range(3)
BATCH, TRAIN, VALIDATION = 32, 1000, 400
OPTIMIZER = optax.sgd  # of a rate and momentum


def split(mixed: bool) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Digits in the order they come in, by writer, or mixed."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    order = order if mixed else np.arange(len(images))
    images, labels = jnp.float32(images[order] / 16), jnp.int32(labels[order])
    ends = {"train": (0, TRAIN), "validation": (TRAIN, TRAIN + VALIDATION)}
    ends["test"] = TRAIN + VALIDATION, len(images)
    return {name: (images[a:b], labels[a:b]) for name, (a, b) in ends.items()}


def init(seed: int) -> tuple[list[jax.Array], optax.OptState]:
    """A perceptron of 64 hidden units, untrained."""
    keys = jax.random.split(jax.random.key(seed))
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
def steps_from(state, rate, data, seed, first, stop):  # noqa: ANN001, ANN201
    optimizer = OPTIMIZER(rate, 0.9)

    def step(i, state):  # noqa: ANN001, ANN202
        params, opt_state = state
        key = jax.random.fold_in(jax.random.key(seed), i)
        rows = jax.random.choice(key, TRAIN, (BATCH,))
        batch = jax.tree.map(lambda x: x[rows], data)
        updates, opt_state = optimizer.update(
            jax.grad(loss)(params, batch), opt_state
        )
        return optax.apply_updates(params, updates), opt_state

    return jax.lax.fori_loop(first, stop, step, state)


def main() -> None:
    rows = []
    for mixed, (steps, size), seed in itertools.product(
        (False, True), LENGTHS.items(), SEEDS
    ):
        data = split(mixed)

        def train(state, hparams, steps, data=data, seed=seed):  # noqa: ANN001, ANN202
            rate = jnp.float32(hparams["learning_rate"])
            return steps_from(
                state, rate, data["train"], seed, steps.start, steps.stop
            )

        def measure(state, data=data):  # noqa: ANN001, ANN202
            test = state[0], data["test"]
            return {"loss": float(loss(*test)), "accuracy": float(accuracy(*test))}

        def evaluate(state, data=data):  # noqa: ANN001, ANN202
            return -float(loss(state[0], data["validation"]))

        start = init(seed)
        constant = {
            rate: measure(train(start, {"learning_rate": rate}, range(steps)))
            for rate in RATES
        }
        for base in BASES:
            result = tune(
                train, evaluate, start, SPACE, base={"learning_rate": base},
                epochs=size[0], steps_per_epoch=size[1], key=jax.random.key(seed),
            )  # fmt: skip
            last = result.metrics[-1]
            rows.append(
                {
                    "mixed": mixed,
                    "steps": steps,
                    "seed": seed,
                    "base": base,
                    "tuned": measure(result.state),
                    "constant": {f"{rate:g}": x for rate, x in constant.items()},
                    "setting": last["hyperparams"]["learning_rate"],
                    "best_epoch": result.best_epoch,
                    "accepted_steps": last["step"],
                    "total_steps": last["total_steps"],
                    "validation_loss": [x["validation_loss"] for x in result.metrics],
                }
            )
            print(line(rows[-1]), flush=True)
    for row in summary(rows):
        print(row)
    record.write(OUTPUT, ("jax", "optax", "numpy"), rows)


def line(row: dict) -> str:
    least = min(x["loss"] for x in row["constant"].values())
    base = row["constant"][f"{row['base']:g}"]["loss"]
    return (
        f"{'mixed' if row['mixed'] else 'as is'} {row['steps']} seed {row['seed']} "
        f"base {row['base']:g}: tuned {row['tuned']['loss']:.3f}, base {base:.3f}, "
        f"best of five {least:.3f}; rate {row['setting']:.3g}, "
        f"epoch {row['best_epoch']}, {row['accepted_steps']}/{row['total_steps']}"
    )


def summary(rows: list[dict]) -> list[str]:
    """A line of means over the seeds for every problem and base."""
    kind = functools.partial(map, lambda row: (row["mixed"], row["steps"], row["base"]))
    lines = []
    for key in dict.fromkeys(kind(rows)):
        these = [row for row, its in zip(rows, kind(rows), strict=True) if its == key]
        figures = [
            (
                row["tuned"]["loss"],
                row["constant"][f"{row['base']:g}"]["loss"],
                min(x["loss"] for x in row["constant"].values()),
            )
            for row in these
        ]
        means = [statistics.mean(x) for x in zip(*figures, strict=True)]
        lines.append("{} {} {}: {:.3f} {:.3f} {:.3f}".format(*key, *means))
    return lines


if __name__ == "__main__":
    main()
