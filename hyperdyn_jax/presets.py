"""What config files share: their argument, and the usual axes of each optimizer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ml_collections import config_dict

from hyperdyn_jax.strategies.hyperdyn import Hyperdyn
from hyperdyn_jax.strategies.race import Race

AXES: dict[str, dict[str, Any]] = {
    "momentum": {"kind": "log_complement", "low": 0.0, "high": 0.99},
    "b1": {"kind": "log_complement", "low": 0.0, "high": 0.99},
    "b2": {"kind": "log_complement", "low": 0.9, "high": 0.9999},
}
OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {"learning_rate": 0.1, "momentum": 0.9},
    "plain_sgd": {"learning_rate": 0.1},
    "adam": {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999},
    "lars": {"learning_rate": 5.0, "momentum": 0.9},
    "prodigy": {"learning_rate": 1.0, "b1": 0.9, "b2": 0.999},
    "schedule_free": {"learning_rate": 1.0},
    "salera": {"learning_rate": 0.5},
}
# What an optimizer is run with unless config.strategy says otherwise. Those that adapt
# their own rates leave nothing to tune but, for Prodigy, an anneal its authors advise.
STRATEGY = {
    "lars": "cosine",
    "prodigy": "cosine",
    "schedule_free": "constant",
    "salera": "constant",
}
BATCH_SIZES = ("128", "1000", "2000", "4000")  # the paper's, section 4.1


def _defaults(kind: Any, *without: str) -> dict[str, Any]:
    """The defaults of a strategy's settings, but for some of them."""
    fields = [x for x in dataclasses.fields(kind) if x.name not in without]
    missing = dataclasses.MISSING
    return {x.name: x.default for x in fields if x.default is not missing}


HYPERDYN = _defaults(Hyperdyn)  # the paper's values, section 4
RACE = {
    "base": "constant",
    "tune": "learning_rate",
    **_defaults(Race, "base"),
}


def tuning(
    optimizer: str, strategy: str | None = None, weight_decay: float = 1e-4
) -> dict[str, Any]:
    """Sections of a config: the optimizer, what is tuned of it, and by what."""
    hparams = OPTIMIZERS[optimizer]
    return {
        "optimizer": {
            "name": optimizer,
            "weight_decay": weight_decay,
            **hparams,
        },
        "search_space": {name: _axis(name, value) for name, value in hparams.items()},
        "averaging": config_dict.placeholder(float),
        "backtracking": config_dict.placeholder(bool),
        "save_minutes": config_dict.placeholder(float),
        "trackers": "",  # beside TensorBoard: wandb, mlflow
        "strategy": strategy or STRATEGY.get(optimizer, "race"),
        "hyperdyn": dict(HYPERDYN),
        "race": dict(RACE),
    }


def _axis(name: str, usual: float) -> dict[str, Any]:
    """A learning rate may be from a hundredth to ten times of what is usual."""
    if name == "learning_rate":
        return {"kind": "log_uniform", "low": usual / 100, "high": usual * 10}
    return dict(AXES[name])


def parse(argument: str, **choices: Sequence[str]) -> dict[str, str]:
    """The argument after a config file's colon, as name=value pairs.

    Args:
      argument: pairs separated by commas; a value alone stands for the first name that
        has it among its choices.
      **choices: the values that each name may have, the default first.

    Returns:
      A value for every name.

    Raises:
      ValueError: saying what there is.
    """
    chosen = {name: values[0] for name, values in choices.items()}
    for word in filter(None, argument.split(",")):
        name, equals, value = word.partition("=")
        if not equals:
            value = name
            name = next((n for n, v in choices.items() if value in v), "")
        if value not in choices.get(name, ()):
            known = "; ".join(f"{n}={'|'.join(v)}" for n, v in choices.items())
            raise ValueError(f"after the colon may be {known}, got {word!r}")
        chosen[name] = value
    return chosen
