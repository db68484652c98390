"""Tune optimizer hyperparameters while a network trains."""

from hyperdyn_jax.acquisition import expected_improvement as expected_improvement
from hyperdyn_jax.acquisition import (
    log_expected_improvement as log_expected_improvement,
)
from hyperdyn_jax.baselines import Schedule as Schedule
from hyperdyn_jax.explore import ExploreThenCommit as ExploreThenCommit
from hyperdyn_jax.gp import TimeKernel as TimeKernel
from hyperdyn_jax.hyperdyn import Hyperdyn as Hyperdyn
from hyperdyn_jax.hyperdyn import HyperdynState as HyperdynState
from hyperdyn_jax.schedule import load_schedule as load_schedule
from hyperdyn_jax.space import LogComplement as LogComplement
from hyperdyn_jax.space import LogUniform as LogUniform
from hyperdyn_jax.space import SearchSpace as SearchSpace
from hyperdyn_jax.space import Uniform as Uniform
from hyperdyn_jax.trend import keep_probability as keep_probability
from hyperdyn_jax.tuning import TuneResult as TuneResult
from hyperdyn_jax.tuning import tune as tune
from hyperdyn_jax.types import Decision as Decision
from hyperdyn_jax.types import DivergedError as DivergedError
from hyperdyn_jax.types import Trials as Trials

__version__ = "0.1.0"
