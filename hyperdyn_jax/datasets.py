"""Every data set by the name that `config.dataset` gives it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from hyperdyn_jax import characters, cifar, data, imagenet

Config = Mapping[str, Any]


def _resident(make: Callable[[Config], dict[str, Any]]) -> Callable[..., data.Dataset]:
    """A data set that is held on the device."""
    return lambda config, sharing: data.ArrayDataset(**make(config), **sharing)


def _imagenet(config: Config, sharing: Config) -> data.Dataset:
    arguments = imagenet.imagenet(config["data_dir"])
    size = config.get("image_size", 224)
    return imagenet.StreamedDataset(**arguments, **sharing, image_size=size)


# Decoded once for the many runs of a study.
_cifar10 = functools.lru_cache(maxsize=1)(cifar.cifar10)
_cifar10_twin = functools.lru_cache(maxsize=1)(cifar.cifar10_twin)

# From a config, and what all of them need: batch sizes, number of devices, seed.
DATASETS: dict[str, Callable[[Config, Config], data.Dataset]] = {
    "digits": _resident(lambda config: data.digits(config["pad"])),
    "characters": _resident(lambda _: characters.characters()),
    "cifar10": _resident(lambda c: _cifar10(c["data_dir"], c["pad"])),
    "cifar10_twin": _resident(lambda c: _cifar10_twin(c["data_dir"], c["pad"])),
    "imagenet": _imagenet,
}
