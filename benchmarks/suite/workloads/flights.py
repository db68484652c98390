"""Which flights arrive late: embeddings and a perceptron on 327,000 rows, with Adam."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.suite import sources
from benchmarks.suite.workload import Workload, make, mlp, mlp_init

WIDTH = 8  # of an embedding
SIZES = (16, 3, 107, 12, 24)  # carriers, origins, destinations, months, hours
NUMBERS = 3


def init(key: jax.Array) -> Any:
    keys = jax.random.split(key, len(SIZES) + 1)
    rows = [
        jax.random.normal(k, (n, WIDTH)) * 0.1
        for k, n in zip(keys[:-1], SIZES, strict=True)
    ]
    inputs = WIDTH * len(SIZES) + NUMBERS
    return {"rows": rows, "layers": mlp_init(keys[-1], [inputs, 128, 128, 1])}


def loss(
    params: Any, _: jax.Array, kinds: jax.Array, numbers: jax.Array, late: jax.Array
) -> jax.Array:
    embedded = [rows[kinds[:, i]] for i, rows in enumerate(params["rows"])]
    logits = mlp(params["layers"], jnp.concatenate([*embedded, numbers], -1))
    return optax.sigmoid_binary_cross_entropy(logits[:, 0], late).mean()


def workload(_: str, seed: int) -> Workload:
    return make(
        "flights", sources.flights(SIZES), init, loss,
        lambda learning_rate: optax.adam(learning_rate),
        batch=256, usual=1e-3, rates=(1e-5, 0.3), seed=seed,
    )  # fmt: skip
