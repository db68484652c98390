"""One step of training and of evaluation on one device's part of a batch.

Pure functions, made to be run on every device of an axis at once (`training`).
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from hyperdyn_jax.data.dataset import Batch

AXIS = (
    "batch"  # of the devices: gradients and BatchNorm statistics are averaged over it
)


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


def state_shapes(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """The shapes and dtypes of `init_state`'s; nothing is computed or compiled."""
    make = functools.partial(init_state, model, optimizer, image_shape)
    shapes: TrainState = jax.eval_shape(lambda: make(jax.random.key(0)))
    return shapes


def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    load: Any,
    batch_size: int,
    state: TrainState,
    resident: Any,
    batch: Batch,
    key: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """One optimizer step on one device's part of a batch; inside pmap.

    The gradient is the sum over the batch divided by `batch_size`: in the short batch
    at the end of an epoch an example counts as much as in any other.

    Args:
      model, optimizer: as `Trainer` holds them.
      load: `Dataset.load`.
      batch_size: of a full batch, over all devices.
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
    batch_stats = updates.get("batch_stats", {})
    if _normalises_alone(model):  # each device, by its own statistics
        loss, grads, batch_stats = _mean((loss, grads, batch_stats))
    else:
        loss, grads = _mean((loss, grads))
    if (whole := count * jax.lax.axis_size(AXIS)) < batch_size:
        grads = jax.tree.map(lambda g: g * jnp.float32(whole / batch_size), grads)
    changes, opt_state = optimizer.update(
        grads, state.opt_state, state.params, value=loss
    )
    params = optax.apply_updates(state.params, changes)
    return TrainState(state.step + 1, params, batch_stats, opt_state), loss


def _mean(tree: Any) -> Any:
    """The mean over the devices, in one all-reduce of one vector.

    Of a tree XLA makes one too, but between processes on CPUs Gloo then takes the
    arrays one by one, and waits for the others at each.
    """
    if jax.lax.axis_size(AXIS) == 1:
        return tree
    vector, restore = ravel_pytree(tree)
    return restore(jax.lax.pmean(vector, AXIS))


def train_block(
    step: Any, state: TrainState, resident: Any, batches: Batch, key: jax.Array
) -> tuple[TrainState, jax.Array]:
    """Several steps of `train_step` as one program.

    Args:
      step: `train_step` without its first arguments.
      state, resident, key: as there.
      batches: this device's parts of n batches, n first.

    Returns:
      The new state and the mean loss of each batch, f32[n], nats.
    """
    return jax.lax.scan(
        lambda state, batch: step(state, resident, batch, key), state, batches
    )


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
    measured = jax.tree.map(
        lambda zeros, ones: zeros / (1 - (ones - zeros)), with_zeros, with_ones
    )
    return jax.lax.pmean(measured, AXIS) if _normalises_alone(model) else measured


def eval_step(
    model: nn.Module, load: Any, state: TrainState, resident: Any, batch: Batch
) -> jax.Array:
    """Sums over a whole batch: f32[3], correct, loss in nats, number of examples."""
    images, labels = load(resident, batch.examples, None)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits: Any = model.apply(variables, images, train=False)
    correct = (jnp.argmax(logits, -1) == labels).astype(jnp.float32)
    each = jnp.stack([correct, cross_entropy(logits, labels), jnp.ones_like(correct)])
    # Not a product: a padded example's loss may be infinite, and 0 x inf is NaN.
    counted = jnp.where(batch.weights[None] > 0, each, 0.0)
    return jax.lax.psum(counted.sum(1), AXIS)


def _normalises_alone(model: nn.Module) -> bool:
    """Whether a device's BatchNorm goes by its own part of a batch."""
    return getattr(model, "axis_name", None) is None


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
