"""A GRU on the text of Python's standard library, with SGD and clipped gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.suite import sources
from benchmarks.suite.workload import Workload, apply, cross_entropy, dense, make

LENGTH, WIDTH, BATCH = 24, 64, 32


def init(key: jax.Array, inputs: int = sources.SYMBOLS, outputs: int = sources.SYMBOLS):
    k = jax.random.split(key, 4)
    return {
        "in": jax.random.normal(k[0], (inputs, 3 * WIDTH)) * 0.3,
        "gates": dense(k[1], WIDTH, 2 * WIDTH),
        "new": dense(k[2], WIDTH, WIDTH),
        "head": dense(k[3], WIDTH, outputs),
    }


def hidden(params: Any, inputs: jax.Array) -> jax.Array:
    """Hidden states after every symbol: f32[time, batch, width]."""

    def cell(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        reset_update, new = x[:, : 2 * WIDTH], x[:, 2 * WIDTH :]
        gates = jax.nn.sigmoid(reset_update + apply(params["gates"], h))
        r, z = jnp.split(gates, 2, -1)
        h = (1 - z) * jnp.tanh(new + apply(params["new"], r * h)) + z * h
        return h, h

    start = jnp.zeros((inputs.shape[0], WIDTH))
    rows = params["in"][inputs.T]
    return jax.lax.scan(cell, start, rows)[1]


def loss(params: Any, _: jax.Array, text: jax.Array) -> jax.Array:
    text = text.astype(jnp.int32)
    logits = apply(params["head"], hidden(params, text[:, :-1]))
    return cross_entropy(logits, text[:, 1:].T)


def clipped(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optimizer)


def workload(_: str, seed: int) -> Workload:
    return make(
        "gru", sources.library_text(LENGTH), init, loss,
        lambda learning_rate: optax.sgd(learning_rate, 0.9), around=clipped,
        batch=BATCH, usual=0.3, rates=(3e-3, 10.0), seed=seed, family="sgd",
    )  # fmt: skip
