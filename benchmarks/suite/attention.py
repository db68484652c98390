"""A small transformer's blocks, for the workloads that need them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.suite.workload import apply, dense, normalized


def init_blocks(key: jax.Array, layers: int, width: int) -> list[Any]:
    def block(key: jax.Array) -> Any:
        k = jax.random.split(key, 4)
        return {
            "qkv": dense(k[0], width, 3 * width),
            "out": dense(k[1], width, width, 0.5),
            "up": dense(k[2], width, 4 * width),
            "down": dense(k[3], 4 * width, width, 0.5),
        }

    return [block(k) for k in jax.random.split(key, layers)]


def blocks(layers: list[Any], x: jax.Array, heads: int, causal: bool) -> jax.Array:
    """Pre-norm attention and GELU layers: f32[batch, time, width]."""
    length, width = x.shape[1:]
    mask = jnp.tril(jnp.ones((length, length), bool)) if causal else True
    scale = np.float32(1 / np.sqrt(width // heads))

    def split(z: jax.Array) -> jax.Array:
        return z.reshape(*z.shape[:2], heads, -1).swapaxes(1, 2)

    for layer in layers:
        q, k, v = map(split, jnp.split(apply(layer["qkv"], normalized(x)), 3, -1))
        weights = jnp.where(mask, q @ k.swapaxes(-1, -2) * scale, -1e9)
        mixed = (jax.nn.softmax(weights) @ v).swapaxes(1, 2).reshape(x.shape)
        x = x + apply(layer["out"], mixed)
        hidden = jax.nn.gelu(apply(layer["up"], normalized(x)))
        x = x + apply(layer["down"], hidden)
    return x
