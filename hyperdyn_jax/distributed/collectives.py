"""What the processes of a run agree on and share, by sums over their devices.

Where they must do the same thing, such as to stop at a step, they ask each other with
the collectives that the steps use, so no clock decides.
"""

import functools
import io
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

EVERY = 4  # calls of what `agreed` returns, between two questions to the others
WORDS = 2**16  # of 32 bits, that travel at once


def first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def devices() -> list[jax.Device]:
    """Of all processes, those of one beside each other."""
    return in_order(jax.devices())


def in_order(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Devices with those of a process beside each other."""
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def any_of(value: bool) -> bool:
    """Whether it is so in any process; all have to ask, and wait for each other."""
    if jax.process_count() == 1:
        return value
    return bool(_total(np.array([value], np.uint32))[0])


def agreed(ask: Callable[[], bool]) -> Callable[[], bool]:
    """A question whose answer is the same in all processes, call by call.

    It becomes true some calls after it did so in one of them. None waits for steps that
    it has dispatched since: an answer is fetched `EVERY` calls after it was asked for.
    """
    if jax.process_count() == 1:
        return ask
    calls, asked_for = itertools.count(), None
    # They would run this beside a step, and both might wait for ever (`Trainer`).
    several_cpus = jax.local_device_count() > 1 and devices()[0].platform == "cpu"

    def answer() -> bool:
        nonlocal asked_for
        if next(calls) % EVERY:
            return False
        earlier, asked_for = asked_for, _total(np.array([ask()], np.uint32))
        if several_cpus:
            jax.block_until_ready(asked_for)
        return earlier is not None and bool(np.asarray(earlier)[0])

    return answer


def share_json(value: Any, source: int = 0) -> Any:
    """One process's value in every process; what JSON can hold."""
    if jax.process_count() == 1:
        return value
    return json.loads(_share(json.dumps(value).encode(), source))


def union(lines: Sequence[str]) -> list[str]:
    """The lines of all processes, each once; all have to ask."""
    processes = range(jax.process_count())
    shared = (share_json(list(lines), source) for source in processes)
    return list(dict.fromkeys(itertools.chain.from_iterable(shared)))


def share_tree(tree: Any) -> Any:
    """Process 0's numbers in every process, to the bit.

    Args:
      tree: a pytree of arrays and numbers; the same shapes and dtypes everywhere.

    Returns:
      NumPy arrays and numbers in place of what was there.
    """
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(jax.device_get(leaf)) for leaf in leaves]
    content = io.BytesIO(_share(b"".join(map(np.ndarray.tobytes, arrays))))
    shared = []
    for leaf, mine in zip(leaves, arrays, strict=True):
        words = np.frombuffer(content.read(mine.nbytes), mine.dtype)
        array: Any = words.reshape(mine.shape)
        number = isinstance(leaf, bool | int | float)
        shared.append(type(leaf)(array) if number else array)
    return _in_order_of(tree, jax.tree.unflatten(structure, shared))


def _in_order_of(like: Any, tree: Any) -> Any:
    """The tree with its dicts in the order of another; JAX sorts them."""
    if isinstance(like, dict):
        return {name: _in_order_of(x, tree[name]) for name, x in like.items()}
    if isinstance(like, list | tuple):
        items = [_in_order_of(*pair) for pair in zip(like, tree, strict=True)]
        return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)
    return tree


def shared(tuner: Any) -> Any:
    """A tuner that proposes and decides alike in all processes."""
    return tuner if jax.process_count() == 1 else _SharedTuner(tuner)


class _SharedTuner:
    """Every process computes the same, but machines of two kinds may round differently.

    Args:
      tuner: what it is otherwise.
    """

    def __init__(self, tuner: Any):
        self._tuner = tuner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._tuner, name)
        if name not in ("init", "ask"):
            return value
        return lambda *args: share_tree(value(*args))

    def tell(self, *args: Any) -> tuple[Any, Any]:
        """The state and the decision of process 0, each with a verdict of its own."""
        state, decision = self._tuner.tell(*args)
        shared = share_tree((state, decision._replace(verdict=None)))
        return shared[0], shared[1]._replace(verdict=decision.verdict)


def _share(content: bytes, source: int = 0) -> bytes:
    """One process's bytes in every process."""
    sizes = np.array(divmod(len(content), 2**32), np.uint32)
    high, low = _from(source, sizes).tolist()
    length = high * 2**32 + low
    parts = []
    for start in range(0, length, 4 * WORDS):
        part = content[start : start + 4 * WORDS].ljust(4 * WORDS, b"\0")
        parts.append(_from(source, np.frombuffer(part, np.uint32)))
    return b"".join(part.tobytes() for part in parts)[:length]


def _from(source: int, words: np.ndarray) -> np.ndarray:
    """A process's words, u32[n]: sums with nothing from all others change no bit."""
    mine = jax.process_index() == source
    return np.asarray(_total(words if mine else np.zeros_like(words)))


def _total(words: np.ndarray) -> jax.Array:
    """The sum over processes, u32[n], on its way."""
    parts = np.zeros((jax.local_device_count(), len(words)), np.uint32)
    parts[0] = words
    return _sum()(parts)


@functools.cache
def _sum() -> Callable[[np.ndarray], jax.Array]:
    return jax.pmap(
        lambda words: jax.lax.psum(words, "all"),
        axis_name="all",
        out_axes=None,
        devices=devices(),
    )
