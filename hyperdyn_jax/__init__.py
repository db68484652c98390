"""Tune optimizer hyperparameters while a network trains."""

from hyperdyn_jax import strategies
from hyperdyn_jax import strategies as baselines  # the name it had before
from hyperdyn_jax.data.by_step import ByStep
from hyperdyn_jax.strategies import Schedule
from hyperdyn_jax.strategies.hyperdyn import Hyperdyn, HyperdynState
from hyperdyn_jax.strategies.learned_schedule import load_schedule
from hyperdyn_jax.strategies.race import CannotTellError, Race
from hyperdyn_jax.strategies.wait_and_watch import keep_probability
from hyperdyn_jax.tuner.acquisition import (
    expected_improvement,
    log_expected_improvement,
)
from hyperdyn_jax.tuner.interface import Decision, DivergedError, TooShortError, Trials
from hyperdyn_jax.tuner.kernels import TimeKernel
from hyperdyn_jax.tuner.search_space import (
    LogComplement,
    LogUniform,
    SearchSpace,
    Uniform,
)
from hyperdyn_jax.tuning import TuneResult, tune

__version__ = "0.1.0"

__all__ = [
    "ByStep",
    "CannotTellError",
    "Decision",
    "DivergedError",
    "Hyperdyn",
    "HyperdynState",
    "LogComplement",
    "LogUniform",
    "Race",
    "Schedule",
    "SearchSpace",
    "TimeKernel",
    "TooShortError",
    "Trials",
    "TuneResult",
    "Uniform",
    "baselines",
    "expected_improvement",
    "keep_probability",
    "load_schedule",
    "log_expected_improvement",
    "strategies",
    "tune",
]
