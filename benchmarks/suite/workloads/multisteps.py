"""An MLP on CIFAR-10 at 16x16 whose gradients accumulate over eight small batches."""

from typing import Any

import jax
import optax

from benchmarks.suite import sources
from benchmarks.suite.workload import Workload, cross_entropy, make, mlp, mlp_init

MICRO_STEPS = 8


def loss(params: Any, _: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    return cross_entropy(mlp(params, x.reshape(len(x), -1)), y)


def accumulated(optimizer: optax.GradientTransformation) -> Any:
    steps = optax.MultiSteps(optimizer, MICRO_STEPS)
    return optax.GradientTransformationExtraArgs(steps.init, steps.update)


def workload(data_dir: str, seed: int) -> Workload:
    return make(
        "multisteps", sources.cifar16(data_dir),
        lambda key: mlp_init(key, [768, 128, 128, 10]), loss,
        lambda learning_rate: optax.sgd(learning_rate, 0.9), around=accumulated,
        batch=32, usual=0.1, rates=(2e-3, 6.0), seed=seed, family="sgd",
    )  # fmt: skip
