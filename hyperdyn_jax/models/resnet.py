"""Residual networks: the CIFAR and the ImageNet family of He et al. 2015.

Both families pad by half the kernel on each side, as the original code does; XLA's
"SAME" pads a strided convolution of an even image on the far side only.

References:
  He et al. 2015a, Deep Residual Learning, https://arxiv.org/abs/1512.03385
  He et al. 2015b, Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852
  Goyal et al. 2017, Accurate, Large Minibatch SGD, https://arxiv.org/abs/1706.02677
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hyperdyn_jax.models.common import check_common, check_images, he_normal_fan_in
from hyperdyn_jax.system.checks import is_whole

ModuleDef = Callable[..., nn.Module]

BN_MOMENTUM = 0.9  # of the running statistics: a tenth of every batch goes in
BN_EPSILON = 1e-5
HEAD_STDDEV = 0.01  # Goyal et al. 2017, section 5.1

# He et al. 2015b: normal with variance 2 / fan. The convolutions preserve the scale of
# the gradient; the head, which has few outputs, that of the activations (fan in).
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvNorm(nn.Module):
    """A square convolution without bias, then BatchNorm: [n, h, w, c] -> dtype[...].

    With stride s the image shrinks to ceil(h / s) by ceil(w / s).
    """

    filters: int
    size: int
    stride: int = 1
    scale_init: Initializer = nn.initializers.ones
    train: bool = False
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(
            self.filters,
            kernel_size=(self.size, self.size),
            strides=self.stride,
            padding=self.size // 2,
            use_bias=False,
            kernel_init=he_normal_fan_out,
            dtype=self.dtype,
            name="conv",
        )(x)
        norm = nn.BatchNorm(
            use_running_average=not self.train,
            momentum=BN_MOMENTUM,
            epsilon=BN_EPSILON,
            scale_init=self.scale_init,
            axis_name=self.axis_name,
            name="norm",
        )
        # Normalized in float32, as the statistics are, and rounded to dtype once.
        return norm(x.astype(jnp.float32)).astype(self.dtype)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut: He et al. 2015a, figure 5 left.

    Maps [n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), filters].
    """

    filters: int
    stride: int
    conv_norm: ModuleDef
    shortcut: str = "B"
    last_scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv_norm(self.filters, 3, self.stride, name="conv1")(x)
        y = nn.relu(y)
        y = self.conv_norm(self.filters, 3, 1, self.last_scale_init, name="conv2")(y)
        if x.shape[-1] == self.filters:
            return nn.relu(y + x)
        if self.shortcut == "A":
            return nn.relu(y + zero_padded(x, self.filters, self.stride))
        x = self.conv_norm(self.filters, 1, self.stride, name="projection")(x)
        return nn.relu(y + x)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut: figure 5 right, version 1.5.

    The stride is in the 3x3 convolution ("v1.5", the ResNet-50 that Goyal et al. and
    all since report), not in the first 1x1, which would never see three of four pixels.

    Maps [n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), 4 filters].
    """

    filters: int
    stride: int
    conv_norm: ModuleDef
    last_scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = 4 * self.filters
        y = nn.relu(self.conv_norm(self.filters, 1, name="conv1")(x))
        y = nn.relu(self.conv_norm(self.filters, 3, self.stride, name="conv2")(y))
        y = self.conv_norm(wide, 1, 1, self.last_scale_init, name="conv3")(y)
        if x.shape[-1] != wide:
            x = self.conv_norm(wide, 1, self.stride, name="projection")(x)
        return nn.relu(y + x)


def zero_padded(x: jax.Array, filters: int, stride: int) -> jax.Array:
    """Shortcut A, free of parameters: every stride-th pixel, channels of 0 appended."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, filters - x.shape[-1])))


class CifarResNet(nn.Module):
    """The CIFAR family: He et al. 2015a, section 4.2; depth 20 has 0.27 M parameters.

    A 3x3 convolution, three stages of n = (depth - 2) / 6 basic blocks with width,
    2 width and 4 width channels, the second and third of stride 2; mean over the image;
    a dense layer. Every weight has He's initialisation.

    Args:
      num_classes: logits an image.
      depth: weighted layers, 6 n + 2: 8, 14, 20, 32, 44, 56, 110.
      width: channels of the first stage.
      shortcut: where channels double, "A" pads with zeros (the paper's choice) and "B"
        projects with a 1x1 convolution and BatchNorm.
      dtype: of the computation up to the mean over the image: float32 or bfloat16.
      axis_name: the pmap axis over which BatchNorm averages batch statistics, or None
        for each device's own.

    Raises:
      ValueError: a setting is out of range.

    Example:
      >>> model = CifarResNet(num_classes=10)
      >>> init = partial(model.init, train=False)
      >>> shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
      269722
    """

    num_classes: int
    depth: int = 20
    width: int = 16
    shortcut: str = "A"
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_common(self)
        if not is_whole(self.depth) or self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(
                f"depth must be 6 n + 2 (8, 14, 20, 32, 44, 56, 110), got "
                f"{self.depth!r}"
            )
        if self.shortcut not in ("A", "B"):
            raise ValueError(f"shortcut must be 'A' or 'B', got {self.shortcut!r}")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps f32[n, h, w, c] to f32[n, num_classes] logits."""
        check_images(images)
        conv_norm = partial(
            ConvNorm, train=train, dtype=self.dtype, axis_name=self.axis_name
        )
        block = partial(BasicBlock, conv_norm=conv_norm, shortcut=self.shortcut)
        x = nn.relu(conv_norm(self.width, 3, name="stem")(images))
        x = _stages(x, block, [(self.depth - 2) // 6] * 3, self.width)
        return _head(x, self.num_classes, he_normal_fan_in)


# Blocks in each stage, He et al. 2015a, table 1.
STAGES: dict[int, tuple[type[nn.Module], Sequence[int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (BottleneckBlock, (3, 4, 6, 3)),
    101: (BottleneckBlock, (3, 4, 23, 3)),
    152: (BottleneckBlock, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """The ImageNet family: He et al. 2015a, table 1; depth 50 has 25.6 M parameters.

    A 7x7 convolution and a 3x3 max pool, both of stride 2; four stages of blocks with
    width, 2 width, 4 width and 8 width filters, all but the first of stride 2; mean
    over the image; a dense layer. Projections ("B") where channels change.

    As Goyal et al. 2017 train it: the stride of a bottleneck is in its 3x3 convolution,
    the last BatchNorm scale of a block starts at 0, so that every block starts as its
    shortcut, and the dense layer starts at standard deviation 0.01.

    Args:
      num_classes: logits an image.
      depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks).
      width: filters of the first stage.
      dtype: of the computation up to the mean over the image: float32 or bfloat16.
      axis_name: the pmap axis over which BatchNorm averages batch statistics, or None
        for each device's own, as in the paper.

    Raises:
      ValueError: a setting is out of range.
    """

    num_classes: int
    depth: int = 50
    width: int = 64
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_common(self)
        if not is_whole(self.depth) or self.depth not in STAGES:
            raise ValueError(
                f"depth must be one of {', '.join(map(str, STAGES))}, got "
                f"{self.depth!r}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps f32[n, h, w, c] to f32[n, num_classes] logits."""
        check_images(images)
        conv_norm = partial(
            ConvNorm, train=train, dtype=self.dtype, axis_name=self.axis_name
        )
        block_class, blocks = STAGES[self.depth]
        block = partial(
            block_class, conv_norm=conv_norm, last_scale_init=nn.initializers.zeros
        )
        x = nn.relu(conv_norm(self.width, 7, 2, name="stem")(images))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        x = _stages(x, block, blocks, self.width)
        return _head(x, self.num_classes, nn.initializers.normal(HEAD_STDDEV))


def _stages(
    x: jax.Array, block: ModuleDef, blocks: Sequence[int], width: int
) -> jax.Array:
    """Applies blocks[i] blocks of 2^i width filters, halving the image between."""
    for i, count in enumerate(blocks):
        for j in range(count):
            stride = 2 if i > 0 and j == 0 else 1
            name = f"stage{i + 1}_block{j + 1}"
            x = block(width * 2**i, stride, name=name)(x)
    return x


def _head(x: jax.Array, num_classes: int, kernel_init: Initializer) -> jax.Array:
    """Mean over the image and dense layer, in float32: [n, h, w, c] -> f32[n, k]."""
    x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    return nn.Dense(num_classes, kernel_init=kernel_init, name="head")(x)
