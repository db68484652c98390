"""A perceptron on CIFAR-10 at 16x16, with SGD and momentum and no normalisation."""

import optax

from benchmarks.suite import sources
from benchmarks.suite.workload import Workload, make, mlp_init
from benchmarks.suite.workloads.multisteps import loss


def workload(data_dir: str, seed: int) -> Workload:
    return make(
        "mlp", sources.cifar16(data_dir),
        lambda key: mlp_init(key, [768, 256, 256, 10]), loss,
        lambda learning_rate: optax.sgd(learning_rate, 0.9),
        batch=128, usual=0.03, rates=(1e-3, 3.0), seed=seed, family="sgd",
    )  # fmt: skip
