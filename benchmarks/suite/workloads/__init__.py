"""The workloads by name; each file has a function `workload(data_dir, seed)`."""

import importlib

from benchmarks.suite.workload import Workload

NAMES = (
    "transformer",
    "transformer_warmup",
    "transformer_wide",
    "multisteps",
    "gru",
    "mlp",
    "flights",
    "autoencoder",
    "plateau",
    "characters",
    "vit",
    "resnet",
)


def load(name: str, data_dir: str = "", seed: int = 0) -> Workload:
    """A workload by name.

    Args:
      name: one of `NAMES`.
      data_dir: of TFDS, with CIFAR-10 in it; only the workloads on CIFAR-10 use it.
      seed: of the batches.
    """
    if name not in NAMES:
        raise ValueError(f"unknown workload {name!r}; known are {', '.join(NAMES)}")
    module = importlib.import_module(f"benchmarks.suite.workloads.{name}")
    made: Workload = module.workload(data_dir, seed)
    return made
