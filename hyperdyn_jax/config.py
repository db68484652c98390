"""From a config to checked objects: every problem is found before anything runs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from hyperdyn_jax import data, models, optimizers, space, training, types
from hyperdyn_jax.hyperdyn import Hyperdyn

Config = Mapping[str, Any]

AXES: dict[str, Callable[..., space.Axis]] = {
    "uniform": space.Uniform,
    "log_uniform": space.LogUniform,
    "log_complement": space.LogComplement,
}

# The config's section of a strategy's own name holds its settings.
STRATEGIES: dict[str, Callable[..., types.Strategy]] = {
    "hyperdyn": Hyperdyn,
}

# What every config has: its type and, of numbers, the least that makes sense.
FIELDS: dict[str, tuple[type, int]] = {
    "name": (str, 0),
    "seed": (int, 0),
    "epochs": (int, 1),
    "batch_size": (int, 1),
    "eval_batch_size": (int, 1),
    "dataset": (str, 0),
    "shift": (int, 0),
    "strategy": (str, 0),
    "model": (Mapping, 0),
    "optimizer": (Mapping, 0),
    "search_space": (Mapping, 0),
}


class ConfigError(ValueError):
    """Everything that is wrong with what the user gave, a line each."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run, made from one config."""

    epochs: int
    seed: int
    tuner: types.Strategy
    model: nn.Module
    optimizer: optax.GradientTransformation
    dataset: data.Dataset


def build(config: Config) -> Setup:
    """Makes the parts of a run; nothing is compiled and no file is written.

    Args:
      config: nested settings, as `configs/` and `--config.x=y` make them.

    Raises:
      ConfigError: with all problems at once.
    """
    problems = [problem for name in FIELDS for problem in _check_field(config, name)]
    if problems:
        raise ConfigError(problems)

    def attempt(where: str, make: Callable[..., Any], *args: Any) -> Any:
        try:
            return make(*args)
        except (ValueError, TypeError) as error:
            problems.append(f"config.{where}: {error}")
            return None

    axes = {
        name: attempt(f"search_space.{name}", _axis, config, name)
        for name in config["search_space"]
    }
    # Without its axes a strategy has nothing to say; they have said what is wrong.
    tuner = None
    if None not in axes.values():
        tuner = attempt("strategy", _strategy, config, axes)
    optimizer = attempt("optimizer", _optimizer, config["optimizer"])
    dataset = attempt("dataset", _dataset, config)
    model = attempt("model", _model, config["model"], getattr(dataset, "classes", 1))
    if problems:
        raise ConfigError(problems)
    return Setup(config["epochs"], config["seed"], tuner, model, optimizer, dataset)


def _check_field(config: Config, name: str) -> list[str]:
    kind, least = FIELDS[name]
    if name not in config:
        return [f"config.{name} is missing"]
    value = config[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {str: "text", int: "a whole number", Mapping: "a section"}[kind]
        return [f"config.{name} must be {wanted}, got {value!r}"]
    if kind is int and value < least:
        return [f"config.{name} must be >= {least}, got {value}"]
    return []


def _axis(config: Config, name: str) -> space.Axis:
    settings = dict(config["search_space"][name])
    kind = settings.pop("kind", None)
    axis = _choose("kind", kind, AXES)(**settings)
    optimizer = config["optimizer"].get("name")
    known = optimizers.HYPERPARAMETERS.get(optimizer, optimizers.LIMITS)
    if name not in known:
        raise ValueError(
            f"optimizer {optimizer!r} has no such hyperparameter; it has "
            f"{', '.join(known)}"
        )
    for bound in (axis.low, axis.high):
        optimizers.check_hyperparameter(name, bound)
    return axis


def _strategy(config: Config, axes: Mapping[str, space.Axis]) -> types.Strategy:
    name = config["strategy"]
    make = _choose("strategy", name, STRATEGIES)
    return make(space.SearchSpace(**axes), **config.get(name, {}))


def _optimizer(section: Config) -> optax.GradientTransformation:
    settings = dict(section)
    name, decay_all = settings.pop("name", None), settings.pop("decay_all", False)
    for hyperparameter, value in settings.items():
        optimizers.check_hyperparameter(hyperparameter, value)
    return optimizers.create_optimizer(name, settings, decay_all=decay_all)


def _dataset(config: Config) -> data.Dataset:
    make = _choose("dataset", config["dataset"], data.DATASETS)
    devices, sizes = jax.local_device_count(), ("batch_size", "eval_batch_size")
    augment = data.Shift(config["shift"]) if config["shift"] else None
    return data.ArrayDataset(
        **make(),
        **{size: config[size] for size in sizes},
        devices=devices,
        seed=config["seed"],
        augment=augment,
    )


def _model(section: Config, classes: int) -> nn.Module:
    settings = dict(section)
    make = _choose("name", settings.pop("name", None), models.MODELS)
    dtype = _choose("dtype", settings.pop("dtype", "float32"), DTYPES)
    return make(classes, dtype=dtype, axis_name=training.AXIS, **settings)


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _choose(what: str, name: Any, choices: Mapping[str, Any]) -> Any:
    if name not in choices:
        raise ValueError(f"{what} must be one of {sorted(choices)}, got {name!r}")
    return choices[name]


def differences(old: Config, new: Config, prefix: str = "config") -> list[str]:
    """What two configs do not share, a line each."""
    lines = []
    for name in sorted({*old, *new}):
        where, a, b = f"{prefix}.{name}", old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, where)
        elif a != b:
            lines.append(f"{where} is {b!r} here, {a!r} there")
    return lines
