"""What the tests of the networks share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util


class Small(nn.Module):
    """A perceptron with BatchNorm, which is compiled in a second."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(16)(images.reshape(len(images), -1))
        norm = nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name)
        return nn.Dense(10)(nn.relu(norm(x)))


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
