"""Training and evaluation steps, sharded over the devices, and one epoch of them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperdyn_jax import hosts, optimizers, signals
from hyperdyn_jax.data import Batch, Dataset

AXIS = (
    "batch"  # of the devices: gradients and BatchNorm statistics are averaged over it
)


MEASURED = 1024  # training images, at least, that BatchNorm is measured anew over
SPIKE = 1000.0  # times the loss of a guess: from there no branch comes back
BLOCK = 16  # steps whose losses are read together, while the next so many are computed


class TrainState(NamedTuple):
    """Everything that a trial changes and its continuation needs.

    step: i32[], optimizer steps taken.
    params, batch_stats: of the network, float32.
    opt_state: of the optimizer, with its hyperparameters in it.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any


class Progress(NamedTuple):
    """Branches on their way through the same batches.

    start: the step that all of them started from.
    states: one a branch.
    losses: of each branch, its training loss at every step so far in nats: numbers, or
      f32[] still on the device; NaN where a diverged branch was no longer trained.
    """

    start: int
    states: list[TrainState]
    losses: list[list[Any]]

    @property
    def steps(self) -> int:
        """How far they are."""
        return len(self.losses[0])

    def host_losses(self) -> np.ndarray:
        """The losses as f32[branches, steps]; waits for the devices."""
        losses = np.array(jax.device_get(self.losses), np.float32)
        return losses.reshape(len(self.states), -1)


class Evaluation(NamedTuple):
    """Mean over every example of a split, each counted once.

    accuracy: top-1, percentage points. loss: cross-entropy, nats. count: examples.
    """

    accuracy: float
    loss: float
    count: int


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
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        dataset: Dataset,
        devices: Sequence[jax.Device] | None = None,
    ):
        self._devices = list(devices or hosts.devices())
        here = [d for d in self._devices if d.process_index == jax.process_index()]
        self._local = len(here)
        optimizer = optax.with_extra_args_support(optimizer)
        self._model, self._optimizer, self.dataset = model, optimizer, dataset
        pmap = functools.partial(
            jax.pmap, axis_name=AXIS, out_axes=None, devices=self._devices
        )
        # A program of its own that only copies: a state that came from elsewhere then
        # looks to the other steps as if one of them had made it.
        self._replicate = pmap(lambda tree, _: tree, in_axes=(None, 0))
        self._train_step = pmap(
            functools.partial(train_step, model, optimizer, dataset.load),
            in_axes=(None, None, 0, None),
        )
        self._eval_step = pmap(
            functools.partial(eval_step, model, dataset.load), in_axes=(None, None, 0)
        )
        self._measure_step = pmap(
            functools.partial(measure_step, model, dataset.load),
            in_axes=(None, None, 0),
        )
        host = self._devices[0].platform == "cpu"
        # Several CPU devices share one pool of threads, where programs in flight can
        # wait for each other until XLA aborts (jaxlib 0.10.2).
        together = host and self._local > 1
        self._one_by_one = jax.block_until_ready if together else lambda result: result
        # Runs once, so it is compiled fast and not to be fast: that saves 5 to 15 s.
        self._init = jax.jit(
            functools.partial(init_state, model, optimizer, dataset.image_shape),
            compiler_options={"xla_backend_optimization_level": 0} if host else None,
        )
        self._is_finite = jax.jit(all_finite)
        self._resident: dict[str, Any] = {}

    def init(self, key: jax.Array) -> TrainState:
        """A network with fresh weights, replicated over the devices."""
        return self.replicate(hosts.share_tree(self._init(key)))

    def replicate(self, tree: Any) -> Any:
        """Copies a pytree of arrays to every device."""
        if not jax.tree.leaves(tree):  # which pmap refuses where processes are several
            return tree
        return self._replicate(tree, np.arange(self._local))

    def skip(self, state: TrainState, steps: int) -> TrainState:
        """The same network, as many steps further along the data."""
        if steps == 0:
            return state
        return state._replace(step=self.replicate(state.step + np.int32(steps)))

    def begin(
        self,
        states: Sequence[TrainState],
        settings: Sequence[Mapping[str, np.ndarray]],
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
        return Progress(first, branches, [[] for _ in branches])

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
          pause: asked after every step; the branches are left there if it says so.

        Returns:
          The branches as far as they came.
        """
        branches, resident = list(progress.states), self._hold("train")
        losses = [list(each) for each in progress.losses]
        live = [not self._has_diverged(each) for each in losses]
        for count in range(progress.steps, steps):
            if not any(live):
                for each in losses:
                    each += [np.nan] * (steps - count)
                break
            if count > progress.steps and pause():
                break
            batch = self._shard(self.dataset.train_batch(progress.start + count))
            for i, state in enumerate(branches):
                loss = np.nan
                if live[i]:
                    step = self._train_step(state, resident, batch, key)
                    branches[i], loss = self._one_by_one(step)
                losses[i].append(loss)
            if (count + 1) % BLOCK == 0:
                last = max(0, count + 1 - 2 * BLOCK)
                for i, each in enumerate(losses):
                    # Once is for good, also where the loss comes down again.
                    live[i] = live[i] and not self._has_diverged(each, last)
        return Progress(progress.start, branches, losses)

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

    def _has_diverged(self, losses: list[Any], since: int = 0) -> bool:
        """By the losses from a step on, but for those that are not to be read yet;
        fetches them in place."""
        end = max(0, (len(losses) // BLOCK - 1) * BLOCK)
        losses[since:end] = jax.device_get(losses[since:end])
        return bool(self.diverged(np.array(losses[since:end], np.float32)).any())

    def evaluate(self, state: TrainState, split: str) -> Evaluation:
        """Scores a network on a whole split, with running BatchNorm statistics.

        The network is that of `optimizers.eval_params`.
        """
        state = self._averaged(state)
        resident = self._hold(split)
        sums, stop = [], hosts.together(signals.asked)
        for batch in self.dataset.eval_batches(split):
            if stop():
                raise KeyboardInterrupt
            step = self._eval_step(state, resident, self._shard(batch))
            sums.append(self._one_by_one(step))
        correct, loss, count = np.sum(jax.device_get(sums), axis=0, dtype=np.float64)
        return Evaluation(100.0 * correct / count, loss / count, int(count))

    def without_average(self, state: TrainState) -> TrainState:
        """The state, evaluated at the end of its path; itself if it was already."""
        opt_state = optimizers.without_average(state.opt_state, state.params)
        same = opt_state is state.opt_state
        return state if same else state._replace(opt_state=opt_state)

    def is_finite(self, state: TrainState) -> bool:
        """Whether every number of a state is finite."""
        return bool(self._is_finite(state))

    def _averaged(self, state: TrainState) -> TrainState:
        """The network to score, where an optimizer evaluates others than it trains.

        The running statistics are those of the trained one, so they are measured anew
        over the last batches (Izmailov et al. 2018, 1803.05407, section 3.2).
        """
        params = optimizers.eval_params(state.opt_state, state.params)
        if params is state.params:
            return state
        state, resident = state._replace(params=params), self._hold("train")
        last = int(state.step)
        count = min(last, -(-MEASURED // self.dataset.batch_size))
        batches = map(self.dataset.train_batch, range(last - count, last))
        measured = [
            jax.device_get(self._measure_step(state, resident, self._shard(batch)))
            for batch in batches
        ]
        if not measured:  # before the first step
            return state
        mean = jax.tree.map(lambda *leaves: sum(leaves) / count, *measured)
        return state._replace(batch_stats=self.replicate(mean))

    def _hold(self, split: str) -> Any:
        if split not in self._resident:
            self._resident[split] = self.replicate(self.dataset.resident(split))
        return self._resident[split]

    def _shard(self, batch: Batch) -> Batch:
        """Splits the leading axis: [b, ...] -> [devices, b / devices, ...].

        Of the devices and of the part of the batch that are this process's.
        """
        return jax.tree.map(lambda x: x.reshape(self._local, -1, *x.shape[1:]), batch)


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    key: jax.Array,
) -> TrainState:
    """Fresh weights and a fresh optimizer."""
    variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(jnp.int32(0), params, batch_stats, optimizer.init(params))


def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    load: Any,
    state: TrainState,
    resident: Any,
    batch: Batch,
    key: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """One optimizer step on one device's part of a batch; inside pmap.

    Args:
      model, optimizer: as `Trainer` holds them.
      load: `Dataset.load`.
      state: replicated.
      resident: replicated, what the data set keeps on the device.
      batch: this device's part, b examples.
      key: replicated, the run's augmentation key.

    Returns:
      The new state and the mean loss over the whole batch, f32[], nats.
    """
    # A key for each example by its place in the whole batch: however many devices
    # share it, every example is augmented alike.
    count = batch.weights.shape[0]
    places = jax.lax.axis_index(AXIS) * count + jnp.arange(count)
    key = jax.random.fold_in(key, state.step)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(places)
    images, labels = load(resident, batch.examples, keys)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = model.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        return cross_entropy(logits, labels).mean(), updates

    (loss, updates), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    loss, grads = jax.lax.pmean((loss, grads), AXIS)
    changes, opt_state = optimizer.update(
        grads, state.opt_state, state.params, value=loss
    )
    params = optax.apply_updates(state.params, changes)
    batch_stats = updates.get("batch_stats", {})
    return TrainState(state.step + 1, params, batch_stats, opt_state), loss


def measure_step(
    model: nn.Module, load: Any, state: TrainState, resident: Any, batch: Batch
) -> Any:
    """BatchNorm statistics of a batch alone, without training on it.

    What a network returns is a running mean: a share of the old statistics and the
    rest of the batch's. The share is what ones leave over zeros.
    """
    images, _ = load(resident, batch.examples, None)

    def mixed(old: Any) -> Any:
        variables = {"params": state.params, "batch_stats": old}
        _, new = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return new.get("batch_stats", {})

    with_zeros = mixed(jax.tree.map(jnp.zeros_like, state.batch_stats))
    with_ones = mixed(jax.tree.map(jnp.ones_like, state.batch_stats))
    return jax.tree.map(
        lambda zeros, ones: zeros / (1 - (ones - zeros)), with_zeros, with_ones
    )


def eval_step(
    model: nn.Module, load: Any, state: TrainState, resident: Any, batch: Batch
) -> jax.Array:
    """Sums over a whole batch: f32[3], correct, loss in nats, number of examples."""
    images, labels = load(resident, batch.examples, None)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = model.apply(variables, images, train=False)
    correct = (jnp.argmax(logits, -1) == labels).astype(jnp.float32)
    each = jnp.stack([correct, cross_entropy(logits, labels), jnp.ones_like(correct)])
    # Not a product: a padded example's loss may be infinite, and 0 x inf is NaN.
    counted = jnp.where(batch.weights[None] > 0, each, 0.0)
    return jax.lax.psum(counted.sum(1), AXIS)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy, nats: f32[n]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def all_finite(tree: Any) -> jax.Array:
    """Whether every floating-point number in a pytree is finite: bool[]."""
    leaves = [
        jnp.all(jnp.isfinite(leaf))
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    ]
    return jnp.stack(leaves).all()
