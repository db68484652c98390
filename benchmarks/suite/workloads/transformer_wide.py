"""The transformer with a width of 64."""

from benchmarks.suite.workload import Workload
from benchmarks.suite.workloads import transformer


def workload(_: str, seed: int) -> Workload:
    return transformer.of("transformer_wide", seed, width=64)
