"""The optimizers by name, made with hyperparameters that can be set."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from hyperdyn_jax.optimizers import salera as salera_lib
from hyperdyn_jax.optimizers.averaging import averaged
from hyperdyn_jax.optimizers.unbiased import unbiased

AVERAGING = 0.9  # schedule-free's interpolation, its authors' default


def sgd(
    learning_rate: float, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD with heavy-ball momentum and coupled weight decay (He et al. 2015)."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, weight_matrices),
        optax.sgd(learning_rate, momentum),
    )


def plain_sgd(
    learning_rate: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD without momentum, with coupled weight decay."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, weight_matrices),
        optax.sgd(learning_rate),
    )


def adam(
    learning_rate: float, b1: float, b2: float, weight_decay: float
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2014) with decoupled weight decay, as in AdamW."""
    return optax.chain(
        unbiased(lambda rate: optax.adam(rate, b1, b2), learning_rate, b1, b2),
        optax.add_decayed_weights(-learning_rate * weight_decay, weight_matrices),
    )


def lars(
    learning_rate: float, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """LARS (You et al. 2017, 1708.03888): the step of every array of parameters is in
    proportion to its norm."""
    return optax.lars(
        learning_rate,
        weight_decay,
        weight_decay_mask=weight_matrices,
        momentum=momentum,
    )


def prodigy(
    learning_rate: float, b1: float, b2: float, weight_decay: float
) -> optax.GradientTransformation:
    """Prodigy (Mishchenko and Defazio 2023, 2306.06101): Adam that estimates its own
    rate, which `learning_rate` multiplies; coupled weight decay."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, weight_matrices),
        unbiased(lambda rate: contrib.prodigy(rate, (b1, b2)), learning_rate, b1, b2),
    )


def schedule_free(
    learning_rate: float, weight_decay: float
) -> optax.GradientTransformation:
    """Schedule-free SGD (Defazio et al. 2024, 2405.15682): evaluate `eval_params`."""
    return contrib.schedule_free(
        plain_sgd(learning_rate, weight_decay), learning_rate, b1=AVERAGING
    )


def salera(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """SALeRA, with coupled weight decay; `learning_rate` is that of the start."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, weight_matrices),
        salera_lib.salera(learning_rate),
    )


def weight_matrices(params: Any) -> Any:
    """Which parameters are weight matrices: BatchNorm's and biases are vectors."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "plain_sgd": plain_sgd,
    "adam": adam,
    "lars": lars,
    "prodigy": prodigy,
    "schedule_free": schedule_free,
    "salera": salera,
}
# Of each, in the order of its arguments.
HYPERPARAMETERS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(make).parameters) for name, make in OPTIMIZERS.items()
}


def create_optimizer(
    name: str,
    hparams: Mapping[str, float],
    *,
    averaging: float | None = None,
) -> optax.GradientTransformation:
    """An optimizer with all its hyperparameters exposed in its state.

    Weight decay leaves BatchNorm and biases alone.

    Args:
      name: one of `OPTIMIZERS`.
      hparams: the value each of its hyperparameters starts from.
      averaging: power of the average of the path that is evaluated (`averaged`); None
        to evaluate what is trained.

    Returns:
      A gradient transformation; its state is read and set by `get_hyperparams` and
      `set_hyperparams`.

    Raises:
      ValueError: the optimizer is unknown, or lacks or is not given a hyperparameter.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {sorted(OPTIMIZERS)}, got {name!r}")
    if set(hparams) != set(HYPERPARAMETERS[name]):
        raise ValueError(
            f"optimizer {name!r} needs {list(HYPERPARAMETERS[name])}, "
            f"got {sorted(hparams)}"
        )
    make = OPTIMIZERS[name]
    if averaging is not None:

        @functools.wraps(make)  # its arguments are those that can be set
        def averaging_make(*args: Any, **kwargs: Any) -> optax.GradientTransformation:
            return averaged(OPTIMIZERS[name](*args, **kwargs), averaging)

        make = averaging_make
    injected = optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)
    optimizer = injected(**hparams)

    def update(*args: Any, **kwargs: Any) -> Any:
        # Optax mixes integer steps with floats, which strict callers forbid.
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(*args, **kwargs)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
