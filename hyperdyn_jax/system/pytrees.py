"""Pytrees of training state as NumPy arrays by name, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ARRAYS = (jax.Array, np.ndarray, np.generic)  # leaves that hold numbers, with a dtype
NUMBERS = (bool, int, float, complex)


def to_arrays(prefix: str, tree: Any) -> dict[str, np.ndarray]:
    """The numbers in a pytree by their place in it."""
    return {
        prefix + jax.tree_util.keystr(path): np.asarray(jax.device_get(_raw(leaf)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if isinstance(leaf, ARRAYS + NUMBERS)
    }


def from_arrays(prefix: str, like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A pytree like another, with the numbers of `arrays`; the rest is that of `like`.

    Raises:
      ValueError: they are of another shape.
    """

    def restored(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, ARRAYS + NUMBERS):
            return leaf
        name = prefix + jax.tree_util.keystr(path)
        raw, saved = _raw(leaf), arrays.get(name)
        if saved is None or saved.shape != np.shape(raw):
            found = "nothing" if saved is None else f"shape {saved.shape}"
            raise ValueError(
                f"another state: {found} for {name}, of shape {np.shape(raw)} here"
            )
        if isinstance(leaf, NUMBERS) and not isinstance(leaf, np.generic):
            return type(leaf)(saved[()])
        # NumPy's files do not know bfloat16 and the like, but keep their bytes.
        saved = saved.view(raw.dtype) if saved.dtype.kind == "V" else saved
        if not isinstance(leaf, jax.Array):
            return saved[()] if isinstance(leaf, np.generic) else saved
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                jnp.asarray(saved), impl=jax.random.key_impl(leaf)
            )
        return jax.device_put(saved, leaf.sharding)

    return jax.tree_util.tree_map_with_path(restored, like)


def read_only(tree: Any) -> Any:
    """The pytree with views of its NumPy arrays that cannot be written through."""

    def view(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        leaf = leaf.view()
        leaf.flags.writeable = False
        return leaf

    return jax.tree.map(view, tree)


def writeable(tree: Any) -> Any:
    """The pytree with copies of those of its NumPy arrays that cannot be written to."""

    def own(leaf: Any) -> Any:
        locked = isinstance(leaf, np.ndarray) and not leaf.flags.writeable
        return leaf.copy() if locked else leaf

    return jax.tree.map(own, tree)


def _raw(leaf: Any) -> Any:
    """A leaf, of a PRNG key its data."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
