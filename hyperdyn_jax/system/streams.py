"""Random streams of a run, by name: none of them can meet another.

JAX's `split(key, n)[i]` is `fold_in(key, i)`, so keys that are split from a seed are
also those of its first epochs or steps. Here a name takes a number in the upper half of
what `fold_in` takes, and whatever is counted, such as epochs, steps and examples, takes
one in the lower half.
"""

import zlib

import jax
import numpy as np

RUN = ("weights", "tuner", "augmentation")  # the streams that `of_run` gives


def stream(key: jax.Array, name: str) -> jax.Array:
    """The key of a stream, apart from every `fold_in(key, count)` and every split.

    Args:
      key: a typed PRNG key.
      name: of the stream; other names have other keys.
    """
    return jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode()) | 2**31))


def of_seed(seed: int, name: str) -> jax.Array:
    """The key of one stream of a seed."""
    return stream(jax.random.key(seed), name)


def of_run(seed: int) -> tuple[jax.Array, ...]:
    """Keys of the weights, the tuner and the augmentation of a run."""
    return tuple(of_seed(seed, name) for name in RUN)
