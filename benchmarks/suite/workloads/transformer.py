"""A two-layer transformer on the text of Python's standard library, with Adam."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.suite import attention, sources
from benchmarks.suite.workload import (
    Workload,
    apply,
    cross_entropy,
    dense,
    make,
    normalized,
)

LENGTH, WIDTH, LAYERS, HEADS, BATCH = 32, 48, 2, 4, 16


def init(key: jax.Array, width: int) -> Any:
    k = jax.random.split(key, 4)
    return {
        "symbols": jax.random.normal(k[0], (sources.SYMBOLS, width)) * 0.02,
        "places": jax.random.normal(k[1], (LENGTH, width)) * 0.02,
        "blocks": attention.init_blocks(k[2], LAYERS, width),
        "head": dense(k[3], width, sources.SYMBOLS),
    }


def loss(params: Any, _: jax.Array, text: jax.Array) -> jax.Array:
    text = text.astype(jnp.int32)
    x = params["symbols"][text[:, :-1]] + params["places"]
    x = attention.blocks(params["blocks"], x, HEADS, causal=True)
    return cross_entropy(apply(params["head"], normalized(x)), text[:, 1:])


def of(
    name: str,
    optimizer: Callable[..., optax.GradientTransformation],
    seed: int,
    warmup: int = 0,
    width: int = WIDTH,
) -> Workload:
    data, begin = sources.library_text(LENGTH), functools.partial(init, width=width)
    return make(
        name, data, begin, loss, optimizer,
        batch=BATCH, usual=3e-3, rates=(1e-4, 0.3), seed=seed, warmup=warmup,
    )  # fmt: skip


def workload(_: str, seed: int) -> Workload:
    return of("transformer", lambda learning_rate: optax.adam(learning_rate), seed)
