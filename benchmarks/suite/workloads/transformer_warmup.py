"""The transformer with a warm-up in its optimizer, where the tuner cannot see it."""

import jax.numpy as jnp
import optax

from benchmarks.suite.workload import Workload
from benchmarks.suite.workloads import transformer

WARMUP = 80  # steps


def optimizer(learning_rate: float) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_adam(),
        optax.scale_by_schedule(lambda step: jnp.minimum(1.0, (step + 1) / WARMUP)),
        optax.scale_by_learning_rate(learning_rate),
    )


def workload(_: str, seed: int) -> Workload:
    return transformer.of("transformer_warmup", optimizer, seed, WARMUP)
