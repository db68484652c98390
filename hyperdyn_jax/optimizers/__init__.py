"""Optax optimizers whose hyperparameters can be read and set between two steps.

`optax.inject_hyperparams` keeps them as f32 scalars in the optimizer state. They are
arguments of the compiled training step, not constants in it, so a new value costs
nothing and a checkpoint holds the values in force.
"""

from hyperdyn_jax.optimizers.averaging import AveragedState as AveragedState
from hyperdyn_jax.optimizers.averaging import averaged as averaged
from hyperdyn_jax.optimizers.averaging import eval_params as eval_params
from hyperdyn_jax.optimizers.averaging import without_average as without_average
from hyperdyn_jax.optimizers.factory import HYPERPARAMETERS as HYPERPARAMETERS
from hyperdyn_jax.optimizers.factory import OPTIMIZERS as OPTIMIZERS
from hyperdyn_jax.optimizers.factory import create_optimizer as create_optimizer
from hyperdyn_jax.optimizers.hyperparams import LIMITS as LIMITS
from hyperdyn_jax.optimizers.hyperparams import (
    check_hyperparameter as check_hyperparameter,
)
from hyperdyn_jax.optimizers.hyperparams import get_hyperparams as get_hyperparams
from hyperdyn_jax.optimizers.hyperparams import set_hyperparams as set_hyperparams
