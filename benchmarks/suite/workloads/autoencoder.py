"""A variational autoencoder on digits with learned noise: its loss crosses zero."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.suite import sources
from benchmarks.suite.workload import Workload, make, mlp, mlp_init

LATENT = 8


def init(key: jax.Array) -> Any:
    k = jax.random.split(key)
    return {
        "encoder": mlp_init(k[0], [64, 128, 2 * LATENT]),
        "decoder": mlp_init(k[1], [LATENT, 128, 128]),
    }


def loss(params: Any, key: jax.Array, x: jax.Array) -> jax.Array:
    """Minus the evidence lower bound a pixel, in nats."""
    mean, log_scale = jnp.split(mlp(params["encoder"], x), 2, -1)
    log_scale = jnp.clip(log_scale, -8, 4)
    z = mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)
    kl = 0.5 * (mean**2 + jnp.exp(2 * log_scale) - 1) - log_scale
    centre, spread = jnp.split(mlp(params["decoder"], z), 2, -1)
    spread = jnp.clip(spread, -4, 4)
    error = 0.5 * ((x - centre) * jnp.exp(-spread)) ** 2 + spread
    return (error.sum(-1) + kl.sum(-1)).mean() / 64


def workload(_: str, seed: int) -> Workload:
    return make(
        "autoencoder", sources.digits(), init, loss,
        lambda learning_rate: optax.adam(learning_rate),
        batch=64, usual=1e-3, rates=(1e-5, 0.1), seed=seed,
    )  # fmt: skip
