"""How branches lie on the devices: in turn on all of them, or side by side on groups.

A *wave* is what one program trains: a branch on all devices, or as many branches as
there are groups of devices, each on its own group, with the whole batch shared inside
it. Both layouts take and return the branches as they are held elsewhere, replicated
over all devices, and both train copies, whose memory every step gives to the next.
"""

import functools
import itertools
import math
import os
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hyperdyn_jax.system import compiler
from hyperdyn_jax.training.train_step import AXIS, TrainState

BRANCH = "branch"  # axis of the groups


class Layout(Protocol):
    """Programs for branches, `width` of them a wave.

    step: (wave, resident, batch, key) -> (wave, loss), one optimizer step; f32[] or
      f32[width]. The wave that went in is gone.
    block: the same over the leading axis of the batch; f32[steps] or f32[width, steps].
    """

    width: int
    step: jax.stages.Wrapped
    block: jax.stages.Wrapped

    def pack(self, states: Sequence[TrainState]) -> list[Any]:
        """Copies of branches as waves."""
        ...

    def unpack(self, waves: Sequence[Any]) -> list[TrainState]:
        """The branches of waves, replicated over all devices."""
        ...

    def hold(self, tree: Any) -> Any:
        """What is replicated over all devices, as the programs take it."""
        ...

    def put(self, batch: Any, steps: int = 0) -> Any:
        """This process's part of a batch, or of a block of `steps`, on its devices."""
        ...

    def shapes(self, state: Any, held: Any, batch: Any, steps: int = 0) -> Any:
        """What `pack`, `hold` and `put` make, without the numbers: a wave, what is
        held, and the batch of all processes.

        Args:
          state: shapes of a branch.
          held: shapes of what `hold` takes.
          batch: shapes of a batch, or of a block of `steps`.
        """
        ...


class InTurn:
    """One branch after the other, each on all devices.

    Args:
      devices: of all processes, those of one beside each other.
      step, block: `train_step` and `train_block` of `train_step.py`, without their
        first arguments.
    """

    width = 1

    def __init__(self, devices: Sequence[jax.Device], step: Any, block: Any):
        program = functools.partial(pmap, devices=devices, donate_argnums=(0,))
        self.step = program(step, in_axes=(None, None, 0, None))
        self.block = program(block, in_axes=(None, None, 1, None))
        self._mesh = Mesh(np.array(devices), (AXIS,))
        self._local = len(local(devices))
        self._copy = jax.jit(functools.partial(jax.tree.map, jnp.copy))

    def pack(self, states: Sequence[TrainState]) -> list[TrainState]:
        return [self._copy(state) for state in states]

    def unpack(self, waves: Sequence[TrainState]) -> list[TrainState]:
        return list(waves)

    def hold(self, tree: Any) -> Any:
        return tree

    def put(self, batch: Any, steps: int = 0) -> Any:
        # [b, ...] -> [devices, b / devices, ...], as pmap takes it.
        lead, spec = ((steps,), P(None, AXIS)) if steps else ((), P(AXIS))
        split = functools.partial(_split, lead, self._local)
        return _put(jax.tree.map(split, batch), NamedSharding(self._mesh, spec))

    def shapes(self, state: Any, held: Any, batch: Any, steps: int = 0) -> Any:
        lead, count = ((steps,) if steps else ()), self._mesh.size

        def split(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            each, *rest = x.shape[len(lead) :]
            return jax.ShapeDtypeStruct((*lead, count, each // count, *rest), x.dtype)

        everywhere = NamedSharding(self._mesh, P())
        parts = NamedSharding(self._mesh, _whole(steps))
        state, held = _shapes_as(everywhere, (state, held))
        return state, held, _shapes_as(parts, jax.tree.map(split, batch))


class SideBySide:
    """As many branches at once as there are groups, which share the devices evenly.

    Every group has as many of each process's devices as the others: so each process
    serves one part of a batch, whatever the groups, and holds a copy of every branch.

    Args:
      devices: of all processes, those of one beside each other.
      step, block: `train_step` and `train_block` of `train_step.py`, without their
        first arguments.
      groups: divides the number of devices of each process.
    """

    def __init__(
        self, devices: Sequence[jax.Device], step: Any, block: Any, groups: int
    ):
        self.width = groups
        shares = np.array(devices).reshape(-1, groups, len(local(devices)) // groups)
        self._mesh = Mesh(shares.swapaxes(0, 1).reshape(groups, -1), (BRANCH, AXIS))
        self.step = self._program(step, P(AXIS))
        self.block = self._program(block, P(None, AXIS))
        self._everywhere = NamedSharding(Mesh(np.array(devices), (AXIS,)), P())
        self._stack = jax.jit(_stack, out_shardings=self._sharding(P(BRANCH)))
        self._unstack = jax.jit(_unstack, out_shardings=self._sharding(P()))

    def _sharding(self, spec: P) -> NamedSharding:
        return NamedSharding(self._mesh, spec)

    def _program(self, function: Any, batches: P) -> Any:
        @functools.wraps(function)
        def branch(wave: Any, *others: Any) -> Any:
            state, loss = function(jax.tree.map(lambda x: x[0], wave), *others)
            return jax.tree.map(lambda x: x[None], (state, loss))

        program = jax.shard_map(
            branch,
            mesh=self._mesh,
            in_specs=(P(BRANCH), P(), batches, P()),
            out_specs=P(BRANCH),
            check_vma=False,
        )
        return compiled(program, list(self._mesh.devices.flat), (0,))

    def pack(self, states: Sequence[TrainState]) -> list[Any]:
        states = [self.hold(state) for state in states]
        return [
            self._stack(states[i : i + self.width])
            for i in range(0, len(states), self.width)
        ]

    def unpack(self, waves: Sequence[Any]) -> list[TrainState]:
        states = itertools.chain.from_iterable(map(self._unstack, waves))
        return [_copies_as(self._everywhere, state) for state in states]

    def hold(self, tree: Any) -> Any:
        return _copies_as(self._sharding(P()), tree)

    def put(self, batch: Any, steps: int = 0) -> Any:
        return _put(batch, self._sharding(_whole(steps)))

    def shapes(self, state: Any, held: Any, batch: Any, steps: int = 0) -> Any:
        wave = jax.eval_shape(_stack, [state] * self.width)
        specs = (P(BRANCH), P(), _whole(steps))
        return tuple(
            _shapes_as(self._sharding(spec), tree)
            for spec, tree in zip(specs, (wave, held, batch), strict=True)
        )


def pmap(
    function: Any,
    devices: Sequence[jax.Device],
    in_axes: tuple[int | None, ...],
    donate_argnums: tuple[int, ...] = (),
) -> jax.stages.Wrapped:
    """`jax.pmap` over `AXIS` with one result, and options for the compiler.

    Those only `jax.jit` around it takes, which of several processes cannot be told that
    each gives its own part of the batch: there XLA's own choice stays.
    """
    inside = jax.process_count() == 1 and bool(compiler_options(devices[0].platform))
    program = jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=in_axes,
        out_axes=None,
        devices=list(devices),
        donate_argnums=() if inside else donate_argnums,
    )
    if not inside:
        return program

    # Not the program itself: jit would take over its `lower`, which has no options.
    def call(*args: Any) -> Any:
        return program(*args)

    return compiled(call, devices, donate_argnums)


def compiled(
    function: Any, devices: Sequence[jax.Device], donate_argnums: tuple[int, ...] = ()
) -> jax.stages.Wrapped:
    """`jax.jit` of a program of networks, with `compiler_options`."""
    options = compiler_options(devices[0].platform)
    return jax.jit(function, donate_argnums=donate_argnums, compiler_options=options)


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
    """Of XLA's for networks: none for accelerators, or where it does not know them.

    On CPUs it gives convolutions to YNNPACK, whose gradients of filters take 2.5 times
    as long as Eigen's, and fuses the arithmetic between them itself, which YNNPACK does
    better: with the options a step of a ResNet-20 takes 0.75 to 0.93 of the time
    (`benchmarks/step.py`, with memory mapped anew).
    """
    asked = _YNN in os.environ.get("XLA_FLAGS", "")  # the user knows better
    if platform != "cpu" or asked:
        return {}
    kinds = ("DOT", "INDIVIDUAL_DOT", "REDUCE", "ELTWISE")
    value = ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in kinds)
    return compiler.options(**{_YNN: value})


_YNN = "xla_cpu_experimental_ynn_fusion_type"


def groups(
    branches: int, devices: Sequence[jax.Device], most: int | None = None
) -> int:
    """Into how many groups devices are best shared by some branches.

    Into as many as leave none of them idle: the greatest number up to `most` that
    divides both the branches and the devices of each process.
    """
    common = math.gcd(branches, len(local(devices)))
    return max(n for n in range(1, (most or common) + 1) if common % n == 0)


def local(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Those of this process."""
    return [d for d in devices if d.process_index == jax.process_index()]


def fetch(losses: Any) -> np.ndarray:
    """Losses of a wave, of which each process has all parts and not all copies."""
    if not isinstance(losses, jax.Array):
        return np.asarray(losses, np.float32)
    host = np.empty(losses.shape, np.float32)
    for shard in losses.addressable_shards:
        host[shard.index] = jax.device_get(shard.data)
    return host


def _whole(steps: int) -> P:
    """How a batch lies on the devices of a group, or a block of `steps`."""
    return P(None, AXIS) if steps else P(AXIS)


def _shapes_as(sharding: NamedSharding, tree: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def _split(lead: tuple[int, ...], parts: int, x: np.ndarray) -> np.ndarray:
    return x.reshape(*lead, parts, -1, *x.shape[len(lead) + 1 :])


def _put(batch: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x), batch
    )


def _copies_as(sharding: NamedSharding, tree: Any) -> Any:
    """What is replicated over all devices, for programs that number them otherwise.

    Nothing moves: every device keeps its copy.
    """

    def relabel(x: jax.Array) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(relabel(jax.random.key_data(x)))
        copies = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, copies)

    return jax.tree.map(relabel, tree)


def _stack(states: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def _unstack(wave: Any) -> list[Any]:
    count = len(jax.tree.leaves(wave)[0])
    return [jax.tree.map(lambda x, i=i: x[i], wave) for i in range(count)]
