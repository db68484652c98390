"""What the tests of the networks share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes_of(model, image=(32, 32, 3)):
    images = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    init = partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), images)


def flat(tree):
    """The leaves of a tree of dicts by path, as NumPy arrays."""
    leaves = traverse_util.flatten_dict(tree, sep=".")
    return {path: np.asarray(leaf) for path, leaf in leaves.items()}


@jax.jit(static_argnums=0)
def predict(model, variables, images):
    return model.apply(variables, images, train=False)


@jax.jit(static_argnums=0)
def train_forward(model, variables, images):
    """-> logits, the new batch_stats."""
    logits, updates = model.apply(
        variables, images, train=True, mutable=["batch_stats"]
    )
    return logits, updates["batch_stats"]
