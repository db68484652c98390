"""The networks: Linen modules from images to logits::

    logits = model.apply(variables, images, train=False)
    logits, updates = model.apply(
        variables, images, train=True, mutable=["batch_stats"]
    )

`images` are f32[n, h, w, c] of any height and width, `logits` f32[n, num_classes].
`variables` holds two collections, both float32 whatever `dtype` computes in: `params`,
and `batch_stats` with the running mean and variance of every BatchNorm.
"""

from functools import partial

from flax import linen as nn

from hyperdyn_jax.models.mlp import CharacterMLP as CharacterMLP
from hyperdyn_jax.models.resnet import CifarResNet as CifarResNet
from hyperdyn_jax.models.resnet import ConvNorm as ConvNorm
from hyperdyn_jax.models.resnet import ResNet as ResNet

# The networks of the paper, and what a config may name.
ResNet20 = partial(CifarResNet, depth=20)
ResNet50 = partial(ResNet, depth=50)
MODELS: dict[str, type[nn.Module]] = {
    "cifar_resnet": CifarResNet,
    "resnet": ResNet,
    "character_mlp": CharacterMLP,
}
