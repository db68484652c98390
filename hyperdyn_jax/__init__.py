"""Tune optimizer hyperparameters while a network trains."""

from hyperdyn_jax import strategies as baselines  # noqa: F401 (the name it had before)
from hyperdyn_jax import strategies as strategies
from hyperdyn_jax.data.by_step import ByStep as ByStep
from hyperdyn_jax.strategies import Schedule as Schedule
from hyperdyn_jax.strategies.hyperdyn import Hyperdyn as Hyperdyn
from hyperdyn_jax.strategies.hyperdyn import HyperdynState as HyperdynState
from hyperdyn_jax.strategies.learned_schedule import load_schedule as load_schedule
from hyperdyn_jax.strategies.race import CannotTellError as CannotTellError
from hyperdyn_jax.strategies.race import Race as Race
from hyperdyn_jax.strategies.wait_and_watch import keep_probability as keep_probability
from hyperdyn_jax.tuner.acquisition import expected_improvement as expected_improvement
from hyperdyn_jax.tuner.acquisition import (
    log_expected_improvement as log_expected_improvement,
)
from hyperdyn_jax.tuner.interface import Decision as Decision
from hyperdyn_jax.tuner.interface import DivergedError as DivergedError
from hyperdyn_jax.tuner.interface import Trials as Trials
from hyperdyn_jax.tuner.kernels import TimeKernel as TimeKernel
from hyperdyn_jax.tuner.search_space import LogComplement as LogComplement
from hyperdyn_jax.tuner.search_space import LogUniform as LogUniform
from hyperdyn_jax.tuner.search_space import SearchSpace as SearchSpace
from hyperdyn_jax.tuner.search_space import Uniform as Uniform
from hyperdyn_jax.tuning import TuneResult as TuneResult
from hyperdyn_jax.tuning import tune as tune

__version__ = "0.1.0"
