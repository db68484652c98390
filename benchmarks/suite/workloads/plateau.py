"""A GRU that has to remember the first of many bits: nothing is gained at first."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.suite.workload import Data, Workload, apply, cross_entropy, make
from benchmarks.suite.workloads import gru

LENGTH = 20


def loss(params: Any, _: jax.Array, bits: jax.Array) -> jax.Array:
    bits = bits.astype(jnp.int32)
    last = gru.hidden(params, bits)[-1]
    return cross_entropy(apply(params["head"], last), bits[:, 0])


def workload(_: str, seed: int) -> Workload:
    bits = np.random.RandomState(0).randint(0, 2, (12_288, LENGTH)).astype(np.uint8)
    data = Data((bits[:8192],), (bits[8192:10240],), (bits[10240:],))
    return make(
        "plateau", data, lambda key: gru.init(key, 2, 2), loss,
        lambda learning_rate: optax.adam(learning_rate),
        batch=64, usual=3e-3, rates=(1e-4, 0.3), seed=seed,
    )  # fmt: skip
