"""What all networks share: an initialisation, and checks of settings and images."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperdyn_jax.system.checks import check_whole

DTYPES = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))  # equal to their names too

# He et al. 2015b: normal with variance 2 / fan, here that of the input, which preserves
# the scale of the activations.
he_normal_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def check_common(model: Any) -> None:
    """Raises ValueError where a setting that all networks have is out of range."""
    for name in ("num_classes", "width"):
        check_whole(name, getattr(model, name), 1)
    if model.dtype not in DTYPES:
        raise ValueError(f"dtype must be float32 or bfloat16, got {model.dtype!r}")
    axis_name = model.axis_name
    if axis_name is not None and not (isinstance(axis_name, str) and axis_name):
        raise ValueError(f"axis_name must be a name or None, got {axis_name!r}")


def check_images(images: jax.Array) -> None:
    """Raises ValueError unless it is a batch: Linen would take one image as well."""
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be floating point of shape [n, h, w, c], got "
            f"{images.dtype}{list(images.shape)}"
        )
