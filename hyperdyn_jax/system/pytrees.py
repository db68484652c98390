"""Pytrees of training state as NumPy arrays by name, and back."""

import dataclasses
import functools
import json
import re
import types
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ARRAYS = (jax.Array, np.ndarray, np.generic)  # leaves that hold numbers, with a dtype
NUMBERS = (bool, int, float, complex)
TEXT = (str, bytes)
SAVED = ARRAYS + NUMBERS + TEXT
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
            if raw(leaf).dtype.kind in "OUSMm":
                return f"an array of {leaf.dtype} at state{where}, which is no number"
        elif not isinstance(leaf, SAVED + FUNCTIONS):
            library = type(leaf).__module__.partition(".")[0]
            if library not in LIBRARIES:
                return f"a {kind} at state{where}, which is neither numbers nor text"
    return None


def to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The numbers and texts in a pytree by their place in it.

    "kinds" has a letter for each leaf, so that all come back as what they were: a step
    may turn a number of Python's into an array.
    """
    leaves = dict(zip(_names(tree), jax.tree.leaves(tree), strict=True))
    saved = {name: x for name, x in leaves.items() if isinstance(x, SAVED)}
    kinds = "".join(map(_kind, saved.values()))
    arrays = {name: _array(leaf) for name, leaf in saved.items()}
    return arrays | {"kinds": np.frombuffer(kinds.encode(), np.uint8)}


def digest(array: Any) -> int:
    """CRC-32 of dtype, shape and bytes; one changed bit always changes it."""
    array = np.asarray(array)
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    kind = f"{array.dtype}{list(array.shape)}"
    return zlib.crc32(content.data, zlib.crc32(kind.encode()))


def digest_of_tree(tree: Any) -> int:
    """CRC-32 of all numbers and texts in a pytree, and of their places."""
    each = {name: digest(array) for name, array in to_arrays(tree).items()}
    return zlib.crc32(json.dumps(each).encode())


def shapes(tree: Any) -> dict[str, Shaped]:
    """What the arrays of a pytree have to be like: those of arrays keep their shape."""
    leaves = dict(zip(_names(tree), jax.tree.leaves(tree), strict=True))
    found = {
        name: Shaped(array.shape if isinstance(leaves.get(name), ARRAYS) else None)
        for name, array in to_arrays(tree).items()
    }
    return found | {"kinds": Shaped((len(found) - 1,))}


def from_arrays(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A pytree like another, with the numbers of `arrays`; the rest is that of `like`.

    Args:
      like: a pytree of the same structure.
      arrays: as `to_arrays` makes them.
    """
    kinds = iter(arrays["kinds"].tobytes().decode())
    leaves = [
        _leaf(next(kinds), arrays[name], leaf) if name in arrays else leaf
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


def _kind(leaf: Any) -> str:
    """What a leaf is, in a letter: a PRNG key, an array of JAX's, one of NumPy's, a
    NumPy scalar, text, or a number of Python's.

    Python's integers are text, as they have any size, for one in the state of NumPy's
    generators.
    """
    if isinstance(leaf, jax.Array):
        return "k" if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else "j"
    if isinstance(leaf, np.ndarray | np.generic):
        return "n" if isinstance(leaf, np.ndarray) else "s"
    whole = isinstance(leaf, int) and not isinstance(leaf, bool)
    return "t" if whole or isinstance(leaf, TEXT) else "p"


def _array(leaf: Any) -> np.ndarray:
    """A leaf as an array of numbers; of text its bytes."""
    if _kind(leaf) != "t":
        return np.asarray(jax.device_get(raw(leaf)))
    text = {"hex": leaf.hex()} if isinstance(leaf, bytes) else leaf
    return np.frombuffer(json.dumps(text).encode(), np.uint8)


def _leaf(kind: str, saved: np.ndarray, like: Any) -> Any:
    """A leaf of a kind from its array, placed as the one before it was."""
    if kind == "t":
        text = json.loads(saved.tobytes())
        return bytes.fromhex(text["hex"]) if isinstance(text, dict) else text
    if kind == "p":
        return saved.item()
    if kind == "k":
        impl = jax.random.key_impl(like) if _kind(like) == "k" else None
        return jax.random.wrap_key_data(jnp.asarray(saved), impl=impl)
    if kind == "j":
        sharding = like.sharding if isinstance(like, jax.Array) else None
        return jax.device_put(saved, sharding)
    return saved[()] if kind == "s" else saved


def raw(leaf: Any) -> Any:
    """A leaf, of a PRNG key its data."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
