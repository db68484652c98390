"""An epoch: branches trained over the same batches, and networks evaluated."""

import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from hyperdyn_jax import optimizers
from hyperdyn_jax.data.dataset import Batch, Dataset
from hyperdyn_jax.distributed import collectives
from hyperdyn_jax.system import compiler, signals
from hyperdyn_jax.training import branch_parallel
from hyperdyn_jax.training import train_step as step_lib
from hyperdyn_jax.training.branch_parallel import Layout
from hyperdyn_jax.training.progress import Evaluation, Progress
from hyperdyn_jax.training.train_step import TrainState
from hyperdyn_jax.tuner.interface import Leaf

MEASURED = 1024  # training images, at least, that BatchNorm is measured anew over
SPIKE = 1000.0  # times the loss of a guess: from there no branch comes back
BLOCK = 16  # steps whose losses are read together, while the next so many are computed
SLOW = 10.0  # seconds without a word, after which losses that are there are told


class Trainer:
    """A network, an optimizer and data, compiled for a group of devices.

    The state is replicated and the batch is sharded: each device takes an equal part
    of it, and gradients and BatchNorm statistics are averaged over all.

    Args:
      model: a Linen module; `apply(variables, images, train=...)` gives logits, and
        its BatchNorm layers average over the axis `AXIS`.
      optimizer: as `optimizers.create_optimizer` makes them.
      dataset: the data.
      devices: that share a batch; all of all processes by default.
      parallel: whether branches are trained side by side on groups of devices, where
        that leaves none idle (`branch_parallel.groups`) and they fit into the memory.
      say: is told when branches do not fit side by side.
      watch: is given the step and the losses of the branches there, f32[branches],
        every `BLOCK` steps, when they are known.
      scan: whether `BLOCK` steps are one program, where the data are on the devices; by
        default everywhere but on CPUs, where a loop makes convolutions slow.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        dataset: Dataset,
        devices: Sequence[jax.Device] | None = None,
        *,
        parallel: bool = True,
        say: Callable[[str], Any] = lambda _: None,
        watch: Callable[[int, np.ndarray], Any] = lambda *_: None,
        scan: bool | None = None,
    ):
        self._devices = list(devices or collectives.devices())
        self._local = len(branch_parallel.local(self._devices))
        self._say, self._watch = say, watch
        self._most = self._local if parallel else 1  # groups of devices
        optimizer = optax.with_extra_args_support(optimizer)
        self._model, self._optimizer, self.dataset = model, optimizer, dataset
        step = functools.partial(
            step_lib.train_step, model, optimizer, dataset.load, dataset.batch_size
        )
        self._programs = step, functools.partial(step_lib.train_block, step)
        self._layout = functools.cache(self._make_layout)
        pmap = functools.partial(branch_parallel.pmap, devices=self._devices)
        # A program of its own that only copies: a state that came from elsewhere then
        # looks to the other steps as if one of them had made it.
        self._replicate = pmap(lambda tree, _: tree, in_axes=(None, 0))
        self._numbers: jax.Array | None = None  # of the devices: pmap needs an axis
        self._eval_step, self._measure_step = (
            pmap(
                functools.partial(function, model, dataset.load),
                in_axes=(None, None, 0),
            )
            for function in (step_lib.eval_step, step_lib.measure_step)
        )
        host = self._devices[0].platform == "cpu"
        # Several CPU devices share one pool of threads, where programs in flight can
        # wait for each other until XLA aborts (jaxlib 0.10.2).
        together = host and self._local > 1
        self._one_by_one: Callable[[Any], Any] = (
            jax.block_until_ready if together else lambda result: result
        )
        self._resident: dict[str, Any] = {}
        # XLA:CPU convolves far slower inside a loop; elsewhere a loop saves launches.
        # Batches that the host sends are too large to send many of at once.
        held = bool(jax.tree.leaves(dataset.resident("train")))
        self._scans = held and (not host if scan is None else scan)
        init = functools.partial(step_lib.init_state, model, optimizer)
        self._init = jax.jit(
            functools.partial(init, dataset.image_shape),
            compiler_options=compiler.options(**compiler.RUNS_ONCE) if host else None,
        )
        self._is_finite = jax.jit(step_lib.all_finite)

    def shapes(self) -> TrainState:
        """The shapes and dtypes of a network's state; nothing is computed."""
        shape = self.dataset.image_shape
        return step_lib.state_shapes(self._model, self._optimizer, shape)

    def programs(
        self, branches: Iterable[int] = ()
    ) -> Iterator[tuple[str, jax.stages.Lowered]]:
        """The programs of a run by their names, lowered from shapes.

        A first batch of the data is read and nothing is run, so the devices need not be
        here (`slices.devices`).

        Args:
          branches: how many of them decisions train. Those that share the devices have
            programs of their own.
        """
        data, state = self.dataset, self.shapes()
        key = jax.eval_shape(lambda: jax.random.key(0))
        held = _shapes(data.resident("train")), key
        batch = _shapes(data.train_batch(0))
        block = jax.tree.map(lambda x: _shape((BLOCK, *x.shape), x.dtype), batch)
        for width in sorted({1, *map(self.groups, branches)}):
            place, beside = self._layout(width), f", {width} side by side" * (width > 1)
            wave, (resident, rest), sent = place.shapes(state, held, batch)
            step = place.step.lower(wave, resident, sent, rest)
            yield f"training step{beside}", step
            if self._scans:
                *_, sent = place.shapes(state, held, block, BLOCK)
                lowered = place.block.lower(wave, resident, sent, rest)
                yield f"{BLOCK} training steps{beside}", lowered
        place = self._layout(1)
        if jax.tree.leaves(state.batch_stats):
            wave, (resident, _), sent = place.shapes(state, held, batch)
            measure = self._measure_step.lower(wave, resident, sent)
            yield "BatchNorm statistics", measure
        held = _shapes(data.resident("validation"))
        batch = _shapes(next(data.eval_batches("validation")))
        shapes = place.shapes(state, held, batch)
        yield "evaluation", self._eval_step.lower(*shapes)

    def init(self, key: jax.Array) -> TrainState:
        """A network with fresh weights, replicated over the devices."""
        return self.replicate(collectives.share_tree(self._init(key)))

    def replicate(self, tree: Any) -> Any:
        """Copies a pytree of arrays to every device."""
        if not jax.tree.leaves(tree):  # which pmap refuses where processes are several
            return tree
        if self._numbers is None:
            self._numbers = self._layout(1).put(np.arange(self._local, dtype=np.int32))
        return self._replicate(tree, self._numbers)

    def begin(
        self,
        states: Sequence[TrainState],
        settings: Sequence[Mapping[str, Leaf]],
    ) -> Progress:
        """Branches that are about to be trained side by side.

        Args:
          states: one a branch, all at the same step; they stay as they are.
          settings: hyperparameters of each branch.

        Raises:
          ValueError: the branches are at different steps.
        """
        first, *others = (int(state.step) for state in states)
        if any(step != first for step in others):
            raise ValueError(f"branches must be at one step, got {[first, *others]}")
        branches = [
            state._replace(
                opt_state=optimizers.set_hyperparams(state.opt_state, setting)
            )
            for state, setting in zip(states, settings, strict=True)
        ]
        return Progress(first, branches, np.zeros((len(branches), 0), np.float32))

    def train(
        self,
        progress: Progress,
        steps: int,
        key: jax.Array,
        pause: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Trains branches side by side: each step's batch is fetched once for all.

        A branch whose loss leaves the bounds of `diverged` ends early, and always at
        the same step: losses are read in blocks of `BLOCK`, when those of the next
        block are on their way. So the host is never far ahead of the devices either,
        and never waits for them to be idle.

        Args:
          progress: of branches from `begin` on; it stays as it is.
          steps: to train in all.
          key: PRNG key of the augmentation, the same for the whole run.
          pause: asked after every step, or block; the branches are left there if it
            says so.

        Returns:
          The branches as far as they came.
        """
        groups = self.groups(len(progress.states))
        try:
            return self._train(progress, steps, key, pause, self._layout(groups))
        except jax.errors.JaxRuntimeError as error:
            if groups == 1 or "RESOURCE_EXHAUSTED" not in str(error):
                raise
        # Out of the handler: the error holds on to what it was raised over.
        count = len(progress.states)
        self.share_less(groups)
        self._say(f"note: {unfit(count, groups, self.groups(count))}")
        return self.train(progress, steps, key, pause)

    def _train(
        self,
        progress: Progress,
        steps: int,
        key: jax.Array,
        pause: Callable[[], bool],
        place: Layout,
    ) -> Progress:
        count = len(progress.states)
        waves, resident = place.pack(progress.states), place.hold(self._hold("train"))
        key = place.hold(self.replicate(key))
        known, done = progress.losses, progress.steps
        flying: deque[_Flight] = deque()
        live = self._live(known, done)
        told, since = done, time.monotonic()
        while done < steps and live.any():
            if done > progress.steps and pause():
                break
            program, size, batch = self._next(place, progress.start, done, steps)
            losses: list[Any] = [np.full((place.width, size), np.nan)] * len(waves)
            for i, trained in enumerate(np.any(live.reshape(-1, place.width), 1)):
                if trained:
                    result = program(waves[i], resident, batch, key)
                    waves[i], losses[i] = self._one_by_one(result)
            flying.append(_Flight(size, live, losses))
            done += size
            if done % BLOCK == 0:
                known = _land(known, flying, done - BLOCK)
                live = self._live(known, done)
            elif time.monotonic() > since + SLOW:
                known = _land(known, flying, known.shape[1] + _there(flying))
            if known.shape[1] > told:
                told, since = known.shape[1], time.monotonic()
                self._watch(progress.start + told, known[:, -1])
        known = _land(known, flying, done)
        if not live.any():
            rest = np.full((count, steps - done), np.nan, np.float32)
            known = np.concatenate([known, rest], axis=1)
        return Progress(progress.start, place.unpack(waves), known)

    def groups(self, branches: int) -> int:
        """How many of so many branches are trained at once, on groups of devices."""
        return branch_parallel.groups(branches, self._devices, self._most)

    def share_less(self, groups: int) -> None:
        """From now on fewer groups than these share the devices: a chip has too little
        memory for so many branches at once."""
        self._most = groups - 1

    def join(
        self,
        ahead: Progress,
        others: Progress,
        key: jax.Array,
        pause: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Branches that started together, once the others are as far as the first.

        Args:
          ahead: the first, on its way.
          others: all of them, none of which has been trained yet.
          key, pause: as for `train`. After a pause on the way none has been trained.
        """
        rest = others._replace(states=others.states[1:], losses=others.losses[1:])
        rest = self.train(rest, ahead.steps, key, pause)
        if rest.steps < ahead.steps:
            return others
        return Progress(
            ahead.start,
            [*ahead.states, *rest.states],
            np.concatenate([ahead.losses, rest.losses]),
        )

    def _next(
        self, place: Layout, start: int, done: int, steps: int
    ) -> tuple[Any, int, Any]:
        """A program, the steps that it takes, and the batch or batches of them."""
        fetch = self.dataset.train_batch
        if self._scans and done % BLOCK == 0 and steps - done >= BLOCK:
            batches = [fetch(start + done + i) for i in range(BLOCK)]
            if len({len(batch.weights) for batch in batches}) == 1:
                block = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
                return place.block, BLOCK, self._send(place, block, BLOCK)
        return place.step, 1, self._send(place, fetch(start + done))

    def diverged(self, losses: np.ndarray) -> np.ndarray:
        """Which training losses no sound branch has.

        Those that are not finite, or `SPIKE` times as large as that of a guess, the
        logarithm of the number of classes.

        Args:
          losses: f32[...] in nats.
        """
        return ~(losses <= SPIKE * np.log(self.dataset.classes))

    def steps_taken(self, losses: np.ndarray) -> np.ndarray:
        """After how many steps each branch ended.

        Args:
          losses: f32[branches, steps] in nats.
        """
        bad = self.diverged(losses)
        first = np.where(bad.any(1), bad.argmax(1), losses.shape[1])
        return np.minimum((first // BLOCK + 2) * BLOCK, losses.shape[1])

    def _live(self, losses: np.ndarray, done: int) -> np.ndarray:
        """Which branches are trained on after some steps: bool[branches].

        By the losses of all but their last whole block, which are not read yet on the
        way. One that was out of bounds is so for good, also where the next are not.
        """
        read = max(0, (done // BLOCK - 1) * BLOCK)
        return ~np.any(self.diverged(losses[:, :read]), 1)

    def evaluate(
        self, state: TrainState, split: str, *, measure: bool = False
    ) -> Evaluation:
        """Scores a network, that of `optimizers.eval_params`, on a whole split.

        Running BatchNorm statistics are those of the last 20 or so steps. They lag
        behind weights that change fast, and those of a short trial are mostly of the
        network that it started from.

        Args:
          state: of the network.
          split: of the data set.
          measure: whether BatchNorm is measured anew, over the last training batches.
            It always is where other weights are evaluated than are trained.
        """
        state = self._to_score(state, measure)
        resident = self._hold(split)
        place, sums, stop = self._layout(1), [], collectives.agreed(signals.asked)
        for batch in self.dataset.eval_batches(split):
            if stop():
                raise KeyboardInterrupt
            step = self._eval_step(state, resident, self._send(place, batch))
            sums.append(self._one_by_one(step))
        total: Any = np.sum(jax.device_get(sums), axis=0, dtype=np.float64)
        correct, loss, count = total
        return Evaluation(100.0 * correct / count, loss / count, int(count))

    def without_average(self, state: TrainState) -> TrainState:
        """The state, evaluated at the end of its path; itself if it was already."""
        opt_state = optimizers.without_average(state.opt_state, state.params)
        same = opt_state is state.opt_state
        return state if same else state._replace(opt_state=opt_state)

    def is_finite(self, state: TrainState) -> bool:
        """Whether every number of a state is finite."""
        return bool(self._is_finite(state))

    def scores_anew(self, steps: int) -> bool:
        """Whether a trial of so many steps is scored with BatchNorm measured anew:
        where it is shorter than an epoch."""
        return steps < self.dataset.steps_per_epoch

    def _to_score(self, state: TrainState, measure: bool) -> TrainState:
        """The network to score, where an optimizer evaluates others than it trains with
        the average's statistics (Izmailov et al. 2018, 1803.05407, section 3.2)."""
        params = optimizers.eval_params(state.opt_state, state.params)
        if params is state.params and not measure:
            return state
        state, last = state._replace(params=params), int(state.step)
        if not jax.tree.leaves(state.batch_stats) or not last:  # before the first step
            return state
        resident, place = self._hold("train"), self._layout(1)
        count = min(last, -(-MEASURED // self.dataset.batch_size))
        batches = map(self.dataset.train_batch, range(last - count, last))
        sent = (self._send(place, batch) for batch in batches)
        measured = [
            jax.device_get(self._measure_step(state, resident, batch)) for batch in sent
        ]
        mean = jax.tree.map(lambda *leaves: sum(leaves) / count, *measured)
        return state._replace(batch_stats=self.replicate(mean))

    def _hold(self, split: str) -> Any:
        if split not in self._resident:
            self._resident[split] = self.replicate(self.dataset.resident(split))
        return self._resident[split]

    def _make_layout(self, groups: int) -> Layout:
        if groups == 1:
            return branch_parallel.InTurn(self._devices, *self._programs)
        return branch_parallel.SideBySide(self._devices, *self._programs, groups)

    def _send(self, place: Layout, batch: Batch, steps: int = 0) -> Batch:
        return place.put(batch, steps)


def unfit(branches: int, groups: int, fewer: int) -> str:
    """That a device's memory is too small for branches on so many groups."""
    instead = f"{fewer} at once" if fewer > 1 else "one after the other"
    return (
        f"{branches} branches, {groups} at once, do not fit into a device's memory; "
        f"they are trained {instead}"
    )


_shape = jax.ShapeDtypeStruct


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: _shape(x.shape, x.dtype), tree)


class _Flight(NamedTuple):
    """Losses on their way from the devices.

    steps: how many of each branch. live: bool[branches], whose they are. losses: of
      each wave, as the programs of its layout give them.
    """

    steps: int
    live: np.ndarray
    losses: list[Any]


def _there(flying: Iterable[_Flight]) -> int:
    """Steps of the first flights whose losses can be read without waiting."""
    there = itertools.takewhile(lambda flight: all(map(_ready, flight.losses)), flying)
    return sum(flight.steps for flight in there)


def _ready(losses: Any) -> bool:
    """Whether they are computed; False where JAX does not say so: `is_ready` is none of
    the methods that it declares."""
    if not isinstance(losses, jax.Array):
        return True
    is_ready = getattr(losses, "is_ready", None)
    return is_ready is not None and is_ready()


def _land(known: np.ndarray, flying: deque[_Flight], until: int) -> np.ndarray:
    """Fetches the losses of the first so many steps: f32[branches, until]."""
    parts, count = [known], known.shape[1]
    while count < until:
        flight = flying.popleft()
        waves = [
            branch_parallel.fetch(x).reshape(-1, flight.steps) for x in flight.losses
        ]
        losses = np.concatenate(waves)
        # Beside another branch one that has ended is still computed, for nothing.
        parts.append(np.where(flight.live[:, None], losses, np.float32(np.nan)))
        count += flight.steps
    return np.concatenate(parts, axis=1)
