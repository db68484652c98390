"""From a config to checked objects: every problem is found before anything runs."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from hyperdyn_jax import models, optimizers
from hyperdyn_jax.data import blank
from hyperdyn_jax.data import dataset as data
from hyperdyn_jax.data.registry import DATASETS
from hyperdyn_jax.run import config_errors as errors
from hyperdyn_jax.run import config_strategy, trackers
from hyperdyn_jax.run.config_errors import ConfigError as ConfigError
from hyperdyn_jax.run.config_errors import choose
from hyperdyn_jax.run.config_schema import (
    FIELDS,
    OPTIONAL,
    SAVE_MINUTES,
    Config,
    check_field,
    with_folders,
)
from hyperdyn_jax.strategies.registry import STRATEGIES
from hyperdyn_jax.system import checks, platforms
from hyperdyn_jax.training import train_step
from hyperdyn_jax.tuner import interface
from hyperdyn_jax.tuner.search_space import Uniform


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run, made from one config.

    epochs: length of the accepted path, where the strategy takes none of it for trials.
    averaging: power of the average of the path that is evaluated; None without one.
    backtracking: as `Strategy.backtracking`.
    save_minutes: time after which the state is saved inside an epoch; it is after each.
    fork: directory of a run whose weights this one starts from; empty for fresh ones.
    """

    epochs: int
    seed: int
    averaging: float | None
    backtracking: bool
    save_minutes: float
    fork: str
    tuner: interface.Strategy
    model: nn.Module
    optimizer: optax.GradientTransformation
    dataset: data.Dataset


def build(config: Config, chips: int | None = None) -> Setup:
    """Makes the parts of a run; nothing is compiled and no file is written.

    Args:
      config: nested settings, as `configs/` and `--config.x=y` make them.
      chips: that are not here and the run is only described for; its data then are
        `blank`. None for a run on the devices that JAX finds.

    Raises:
      ConfigError: with all problems at once.
    """
    if problem := platforms.problem():
        raise ConfigError([problem])
    config = with_folders(config, os.path.expanduser)
    names = [*FIELDS, *(name for name in OPTIONAL if name in config)]
    # By part of the config, the lines that are told of it.
    problems = {name: [line] for name in names if (line := check_field(config, name))}

    def make(part: str, function: Callable[..., Any], *needs: str) -> Any:
        """A part of the run, or None where it or what it needs is wrong."""
        if any(need in problems for need in needs):
            return None
        try:
            return function(config)
        except errors.WRONG as error:
            problems[part] = [
                errors.located(part, line) for line in errors.lines_of(error)
            ]
            return None

    for name in sorted(set(config) - set(FIELDS) - set(OPTIONAL) - set(STRATEGIES)):
        known = [*FIELDS, *OPTIONAL, *STRATEGIES]
        mend = errors.suggest(name, known)
        problems[name] = [f"config.{name} is an unknown setting; {mend}"]
    axes = {}
    for name in config_strategy.axis_names(config):
        axis = functools.partial(config_strategy.make_axis, name=name)
        # Another stands in, so that the strategy can be checked too.
        axes[name] = make(f"search_space.{name}", axis, "optimizer") or Uniform(0, 1)
    if not axes and "search_space" not in problems:
        example = "learning_rate, with its kind, low and high"
        line = f"config.search_space needs at least one axis, for example {example}"
        problems["search_space"] = [line]
    devices = chips or jax.device_count()  # of all processes
    sets = blank.DATASETS if chips else DATASETS
    sizes, lengths = _stand_ins(problems, devices)
    load = functools.partial(_dataset, sets=sets, sizes=sizes, devices=devices)
    dataset = make("dataset", load, "dataset", "data_dir")
    lengths["steps_per_epoch"] = dataset.steps_per_epoch if dataset else 1_000_000
    chosen = functools.partial(config_strategy.checked, axes=axes, lengths=lengths)
    strategy = make("strategy", chosen, "strategy", "search_space")
    averaging, backtracking = config.get("averaging"), config.get("backtracking")
    if strategy is not None and averaging is None:
        averaging = strategy.averaging
    if strategy is not None and backtracking is None:
        backtracking = strategy.backtracking
    create = functools.partial(_optimizer, averaging=averaging)
    optimizer = make("optimizer", create, "optimizer", "averaging")
    make("trackers", lambda c: trackers.parse(c.get("trackers", "")), "trackers")
    model = make("model", functools.partial(_model, dataset=dataset), "model")
    if problems:
        lines = (line for part in problems.values() for line in part)
        raise ConfigError(list(dict.fromkeys(lines)))
    config_strategy.check_trials(strategy, dataset.steps_per_epoch)
    return Setup(
        config["epochs"],
        config["seed"],
        averaging,
        bool(backtracking),
        SAVE_MINUTES if config.get("save_minutes") is None else config["save_minutes"],
        config.get("fork", ""),
        strategy,
        model,
        optimizer,
        dataset,
    )


def _stand_ins(
    problems: Iterable[str], devices: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Values that replace wrong settings so that the rest can be checked: batches that
    every device has a part of, and long enough a run for every strategy."""
    sizes = {"batch_size": devices, "eval_batch_size": devices} | {"pad": 0, "seed": 0}
    sizes |= {"image_size": 32, "skip_bad_records": 0}
    lengths = dict.fromkeys(("epochs", "batch_size"), 1_000)
    wrong = set(problems)
    return (
        {name: value for name, value in sizes.items() if name in wrong},
        {name: value for name, value in lengths.items() if name in wrong},
    )


def _optimizer(config: Config, averaging: float | None) -> optax.GradientTransformation:
    settings = dict(config["optimizer"])
    name, problems = settings.pop("name", None), []
    choose("config.optimizer.name", name, optimizers.OPTIMIZERS)
    known = optimizers.HYPERPARAMETERS[name]
    problems += [f"{x} is missing" for x in known if x not in settings]
    for unknown in [x for x in settings if x not in known]:
        mend = errors.suggest(unknown, known)
        problems.append(f"{unknown} is an unknown setting; {mend}")
        del settings[unknown]
    for hyperparameter, value in settings.items():
        try:
            optimizers.check_hyperparameter(hyperparameter, value)
        except errors.WRONG as error:
            problems += errors.lines_of(error)
    if problems:
        raise ValueError("\n".join(f"config.optimizer.{x}" for x in problems))
    return optimizers.create_optimizer(name, settings, averaging=averaging)


def _dataset(
    config: Config, sets: Mapping[str, Any], sizes: Mapping[str, int], devices: int
) -> data.Dataset:
    make = choose("dataset", config["dataset"], sets)
    config = {**config, **sizes}
    shared = {name: config[name] for name in ("batch_size", "eval_batch_size", "seed")}
    sharing = {"host": jax.process_index(), "hosts": jax.process_count()}
    return make(config, {**shared, **sharing, "devices": devices})


def _model(config: Config, dataset: data.Dataset | None) -> nn.Module:
    settings = dict(config["model"])
    make = choose("config.model.name", settings.pop("name", None), models.MODELS)
    dtype = choose("config.model.dtype", settings.pop("dtype", "float32"), DTYPES)
    together = settings.pop("sync_batch_norm", True)
    checks.check_switch("config.model.sync_batch_norm", together)
    classes = dataset.classes if dataset else 1  # its own problem is told already
    axis_name = train_step.AXIS if together else None
    create = functools.partial(make, classes, dtype=dtype, axis_name=axis_name)
    if wrong := errors.wrong_settings(lambda given: create(**given), settings):
        raise ValueError("\n".join(errors.in_section("model", wrong)))
    return create(**settings)


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
