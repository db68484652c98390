"""A perceptron over the characters before the one to predict."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from hyperdyn_jax.models.common import check_common, check_images, he_normal_fan_in
from hyperdyn_jax.system.checks import check_whole


class CharacterMLP(nn.Module):
    """A perceptron over the characters before: Bengio et al. 2003, section 2.

    Each character's features, one dense layer of rectified units over those of the
    whole window (theirs are tanh), and a dense layer.

    Args:
      num_classes: characters that there are, as input and as logits.
      width: units of the hidden layer.
      features: of a character.
      dtype: of the hidden layer: float32 or bfloat16.
      axis_name: unused; there is no BatchNorm.

    Raises:
      ValueError: a setting is out of range.
    """

    num_classes: int
    width: int = 256
    features: int = 16
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_common(self)
        check_whole("features", self.features, 1)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps windows f32[n, w, 1, 1] of classes to f32[n, num_classes] logits."""
        del train  # nothing differs
        check_images(images)
        codes = images.reshape(len(images), -1).astype(jnp.int32)
        x = nn.Embed(self.num_classes, self.features, name="features")(codes)
        x = x.reshape(len(x), -1).astype(self.dtype)
        hidden = nn.Dense(
            self.width, kernel_init=he_normal_fan_in, dtype=self.dtype, name="hidden"
        )
        x = nn.relu(hidden(x)).astype(jnp.float32)
        return nn.Dense(self.num_classes, name="head")(x)
