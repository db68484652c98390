"""The transformer with a width of 64."""

import optax

from benchmarks.suite.workload import Workload
from benchmarks.suite.workloads import transformer


def workload(_: str, seed: int) -> Workload:
    return transformer.of(
        "transformer_wide",
        lambda learning_rate: optax.adam(learning_rate),
        seed,
        width=64,
    )
