"""Every data set by the name that `config.dataset` gives it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from hyperdyn_jax.data import characters, cifar10, dataset, imagenet

Config = Mapping[str, Any]


def _resident(
    make: Callable[[Config], dict[str, Any]],
) -> Callable[..., dataset.Dataset]:
    """A data set that is held on the device."""
    return lambda config, sharing: dataset.ArrayDataset(**make(config), **sharing)


def _imagenet(config: Config, sharing: Config) -> dataset.Dataset:
    arguments = imagenet.imagenet(config["data_dir"])
    size = config.get("image_size", 224)
    skip = _skip(config)
    return imagenet.StreamedDataset(**arguments, **sharing, image_size=size, skip=skip)


def _cifar(make: Callable[..., dict[str, Any]]) -> Callable[[Config], dict[str, Any]]:
    make = functools.lru_cache(maxsize=1)(make)  # once for the many runs of a study
    return lambda config: make(config["data_dir"], config["pad"], _skip(config))


def _skip(config: Config) -> int:
    return config.get("skip_bad_records", 0)


# From a config, and what all of them need: batch sizes, number of devices, seed.
DATASETS: dict[str, Callable[[Config, Config], dataset.Dataset]] = {
    "digits": _resident(lambda config: dataset.digits(config["pad"])),
    "characters": _resident(lambda _: characters.characters()),
    "cifar10": _resident(_cifar(cifar10.cifar10)),
    "cifar10_twin": _resident(_cifar(cifar10.cifar10_twin)),
    "imagenet": _imagenet,
}
