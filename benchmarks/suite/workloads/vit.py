"""A tiny vision transformer on CIFAR-10 at 16x16, with AdamW."""

from typing import Any

import jax
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

PATCH, WIDTH, LAYERS, HEADS = 4, 48, 2, 4
DECAY = 0.05
TOKENS = (16 // PATCH) ** 2


def init(key: jax.Array) -> Any:
    k = jax.random.split(key, 4)
    return {
        "patches": dense(k[0], PATCH * PATCH * 3, WIDTH),
        "places": jax.random.normal(k[1], (TOKENS, WIDTH)) * 0.02,
        "blocks": attention.init_blocks(k[2], LAYERS, WIDTH),
        "head": dense(k[3], WIDTH, 10),
    }


def loss(params: Any, _: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    side = 16 // PATCH
    x = x.reshape(len(x), side, PATCH, side, PATCH, 3).swapaxes(2, 3)
    x = apply(params["patches"], x.reshape(len(x), TOKENS, -1)) + params["places"]
    x = attention.blocks(params["blocks"], x, HEADS, causal=False)
    return cross_entropy(apply(params["head"], normalized(x).mean(1)), y)


def workload(data_dir: str, seed: int) -> Workload:
    return make(
        "vit", sources.cifar16(data_dir), init, loss,
        lambda learning_rate: optax.adamw(learning_rate, weight_decay=DECAY),
        batch=32, usual=1e-3, rates=(3e-5, 0.1), seed=seed, decay=DECAY,
    )  # fmt: skip
