"""Characters from few windows of text: the network overfits early."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.suite import sources
from benchmarks.suite.workload import Workload, cross_entropy, make, mlp, mlp_init

WINDOW, WIDTH = 16, 16


def init(key: jax.Array) -> Any:
    k = jax.random.split(key)
    return {
        "symbols": jax.random.normal(k[0], (sources.SYMBOLS, WIDTH)) * 0.3,
        "layers": mlp_init(k[1], [WINDOW * WIDTH, 128, sources.SYMBOLS]),
    }


def loss(params: Any, _: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    embedded = params["symbols"][x.astype(jnp.int32)].reshape(len(x), -1)
    return cross_entropy(mlp(params["layers"], embedded), y)


def workload(_: str, seed: int) -> Workload:
    return make(
        "characters", sources.manual(8192), init, loss,
        lambda learning_rate: optax.adam(learning_rate),
        batch=128, usual=1e-3, rates=(3e-5, 0.1), seed=seed,
    )  # fmt: skip
