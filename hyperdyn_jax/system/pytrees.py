"""Pytrees of training state as NumPy arrays by name, and back."""

import dataclasses
import functools
import json
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ARRAYS = (jax.Array, np.ndarray, np.generic)  # leaves that hold numbers, with a dtype
NUMBERS = (bool, int, float, complex)
TEXT = (str, bytes)
# Leaves that say what is done, and never change: they are not saved.
FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
    np.ufunc,
    np.dtype,
    type,
)
LIBRARIES = ("jax", "jaxlib")  # whose objects, such as jitted functions, never change


@dataclasses.dataclass(frozen=True)
class Shaped:
    """An array of this shape and of any dtype; of any shape if that is None."""

    shape: tuple[int, ...] | None


def problem(tree: Any) -> str | None:
    """What is wrong with a training state that branches start from; None if nothing.

    Every leaf has to be numbers, text or a function. Branches would share anything
    else, as a loader of data, and change it for each other; and it cannot be saved.
    """
    leaves = jax.tree_util.tree_leaves_with_path(
        tree,
        is_leaf=lambda x: isinstance(x, Iterator),  # of which JAX warns
    )
    for path, leaf in leaves:
        where, kind = jax.tree_util.keystr(path), type(leaf).__name__
        if isinstance(leaf, ARRAYS):
            if _raw(leaf).dtype.kind in "OUSMm":
                return f"an array of {leaf.dtype} at state{where}, which is no number"
        elif not isinstance(leaf, NUMBERS + TEXT + FUNCTIONS):
            library = type(leaf).__module__.partition(".")[0]
            if library not in LIBRARIES:
                return f"a {kind} at state{where}, which is neither numbers nor text"
    return None


def to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The numbers and texts in a pytree by their place in it."""
    return {
        name: _array(leaf)
        for name, leaf in zip(_names(tree), jax.tree.leaves(tree), strict=True)
        if isinstance(leaf, ARRAYS + NUMBERS + TEXT)
    }


def shapes(tree: Any) -> dict[str, Shaped]:
    """What the arrays of a pytree have to be like. A dtype may change in a step, as of
    Python's numbers, and a text may have any length."""
    leaves = dict(zip(_names(tree), jax.tree.leaves(tree), strict=True))
    return {
        name: Shaped(None if _is_text(leaves[name]) else array.shape)
        for name, array in to_arrays(tree).items()
    }


def from_arrays(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A pytree like another, with the numbers of `arrays`; the rest is that of `like`.

    Args:
      like: a pytree of the same structure.
      arrays: as `to_arrays` makes them.
    """
    leaves = [
        _leaf(leaf, arrays[name]) if name in arrays else leaf
        for name, leaf in zip(_names(like), jax.tree.leaves(like), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


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


def _names(tree: Any) -> list[str]:
    """A name for every leaf that a file can have, with its number before it."""
    paths = (
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    )
    return [
        f"{i:04}.{re.sub(r'[^A-Za-z0-9_.-]', '_', path)}".rstrip(".")
        for i, path in enumerate(paths)
    ]


def _array(leaf: Any) -> np.ndarray:
    """A leaf as an array of numbers; of text its bytes."""
    if not _is_text(leaf):
        return np.asarray(jax.device_get(_raw(leaf)))
    text = leaf.hex() if isinstance(leaf, bytes) else leaf
    return np.frombuffer(json.dumps(text).encode(), np.uint8)


def _leaf(like: Any, saved: np.ndarray) -> Any:
    """A leaf from its array, of the type of the one that it takes the place of."""
    if _is_text(like):
        text = json.loads(saved.tobytes())
        return bytes.fromhex(text) if isinstance(like, bytes) else text
    if isinstance(like, NUMBERS) and not isinstance(like, np.generic):
        return type(like)(saved[()])
    if not isinstance(like, jax.Array):
        return saved[()] if isinstance(like, np.generic) else saved
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            jnp.asarray(saved), impl=jax.random.key_impl(like)
        )
    return jax.device_put(saved, like.sharding)


def _is_text(leaf: Any) -> bool:
    """Whether a leaf is saved as text: Python's integers are, as they have any size,
    for one in the state of NumPy's generators."""
    whole = isinstance(leaf, int) and not isinstance(leaf, bool | np.generic)
    return whole or isinstance(leaf, TEXT)


def _raw(leaf: Any) -> Any:
    """A leaf, of a PRNG key its data."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
