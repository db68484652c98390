"""A ResNet-8 with BatchNorm on CIFAR-10 at 16x16, with SGD and momentum."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.suite import sources
from benchmarks.suite.workload import Workload, cross_entropy, make
from hyperdyn_jax.models.resnet import BN_MOMENTUM, CifarResNet

NETWORK = CifarResNet(num_classes=10, depth=8, width=8)


def init(key: jax.Array) -> Any:
    return NETWORK.init(key, jnp.zeros((1, 16, 16, 3)), train=False)


def loss(
    variables: Any, _: jax.Array, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, Any]:
    """The loss, and the running statistics that go with the new weights."""
    logits, kept = NETWORK.apply(variables, x, train=True, mutable=["batch_stats"])
    return cross_entropy(logits, y), kept


def scored_with(measured: jax.Array) -> Callable[..., jax.Array]:
    """A loss under the statistics of some training images: running ones are of other
    weights where weights are averaged."""

    def scored(variables: Any, _: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        running = variables["batch_stats"]
        _, found = NETWORK.apply(
            variables, measured, train=True, mutable=["batch_stats"]
        )
        statistics = jax.tree.map(
            lambda new, old: (new - BN_MOMENTUM * old) / (1 - BN_MOMENTUM),
            found["batch_stats"],
            running,
        )
        sound = variables | {"batch_stats": statistics}
        return cross_entropy(NETWORK.apply(sound, x, train=False), y)

    return scored


def workload(data_dir: str, seed: int) -> Workload:
    data = sources.cifar16(data_dir)
    return make(
        "resnet", data, init, loss,
        lambda learning_rate: optax.sgd(learning_rate, 0.9),
        scored=scored_with(jnp.asarray(data.train[0][:1024])), convolves=True,
        batch=64, usual=0.1, rates=(2e-3, 6.0), seed=seed, family="sgd",
    )  # fmt: skip
