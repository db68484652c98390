"""From a config to its strategy; the sections of all strategies are checked."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from hyperdyn_jax import optimizers, strategies
from hyperdyn_jax.run import config_errors as errors
from hyperdyn_jax.run.config_errors import ConfigError, choose
from hyperdyn_jax.run.config_schema import Config, current, with_folders
from hyperdyn_jax.strategies.registry import AS_HYPERDYN, STRATEGIES, Context
from hyperdyn_jax.tuner import interface
from hyperdyn_jax.tuner import search_space as space

AXES: dict[str, Callable[..., space.Axis]] = {
    "uniform": space.Uniform,
    "log_uniform": space.LogUniform,
    "log_complement": space.LogComplement,
}


def make_tuner(config: Config, steps_per_epoch: int) -> interface.Strategy:
    """The tuner of a run's config, perhaps an earlier version's, without other parts.

    Raises:
      ValueError, TypeError, KeyError: it was not checked before.
    """
    config = with_folders(current(config, finished=True), os.path.expanduser)
    axes = {name: make_axis(config, name=name) for name in axis_names(config)}
    config = {**config, "steps_per_epoch": steps_per_epoch}
    return make_strategy(config, config["strategy"], axes)


def axis_names(config: Config) -> list[str]:
    """The hyperparameters that are searched."""
    section = config.get("search_space")
    return list(section) if isinstance(section, Mapping) else []


def make_axis(config: Config, name: str) -> space.Axis:
    """An axis of the search space, of a hyperparameter that the optimizer has."""
    if not isinstance(config["search_space"][name], Mapping):
        found = config["search_space"][name]
        raise ValueError(f"it must be a section of kind, low and high, got {found!r}")
    settings = dict(config["search_space"][name])
    kind = settings.pop("kind", None)
    axis = choose("kind", kind, AXES)(**settings)
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


def checked(
    config: Config, axes: Mapping[str, space.Axis], lengths: Mapping[str, int]
) -> interface.Strategy:
    """The strategy, if it and the sections of all others are right."""
    config = {**config, **lengths}  # what stands in for numbers that are wrong
    problems, config = _check_sections(config, axes)
    try:
        strategy = make_strategy(config, config["strategy"], axes)
    except errors.WRONG as error:
        told = tuple(errors.lines_of(error))
        problems += [x for x in told if not any(p.endswith(x) for p in problems)]
    if problems:
        raise ValueError("\n".join(problems))
    return strategy


# A run so long that a warm-up or a stage fits into it.
_LONG = {"epochs": 1_000, "steps_per_epoch": 1_000_000}


def _check_sections(
    config: Config, axes: Mapping[str, space.Axis]
) -> tuple[list[str], dict[str, Any]]:
    """The sections of strategies, also of those that are not chosen.

    The section of replay is left out: it names a run, which only has to be there for
    the run that plays it.

    Returns:
      A line for each problem, and the config without the wrong settings.
    """
    problems, config = [], dict(config)
    # Schedules first, then those that build on them.
    chosen = config.get("strategy")
    order = sorted(STRATEGIES, key=lambda n: (n == "race", n != chosen))
    for name in (name for name in order if name in config and name != "replay"):
        if not isinstance(config[name], Mapping):
            problems.append(f"config.{name} must be a section, got {config[name]!r}")
            del config[name]
            continue
        if config[name] and name in AS_HYPERDYN:
            mend = " and ".join(f"config.hyperdyn.{x}" for x in config[name])
            problems.append(f"config.{name} has no effect; give {mend}")
            del config[name]
            continue
        make = functools.partial(_make_section, config, name, axes)
        wrong = errors.wrong_settings(make, dict(config[name]))
        # What a schedule cannot be started from is told once, not of each section.
        told = {line.partition(": ")[2] for line in problems} - {""}
        found = errors.in_section(name, wrong)
        problems += [line for line in found if line.partition(": ")[2] not in told]
        left = {k: v for k, v in config[name].items() if k not in wrong}
        config[name] = left if "" not in wrong else {}
    return problems, config


def _make_section(
    config: dict[str, Any],
    name: str,
    axes: Mapping[str, space.Axis],
    settings: Mapping[str, Any],
) -> interface.Strategy:
    return make_strategy(config | {name: settings} | _LONG, name, axes)


def make_strategy(
    config: Config, name: str, axes: Mapping[str, space.Axis]
) -> interface.Strategy:
    """The strategy of a name, from a config with the length of an epoch in it."""
    if name == "explore":
        raise ValueError("strategy 'explore' is gone; 'race' has taken its place")
    make = choose("strategy", name, STRATEGIES)
    optimizer = config.get("optimizer", {})  # its own problems are told elsewhere
    optimizer = optimizer if isinstance(optimizer, Mapping) else {}
    base = {
        name: _start(optimizer.get(name), name, axis) for name, axis in axes.items()
    }
    strategy = make(
        Context(
            space=space.SearchSpace(**axes),
            base=base,
            epochs=config["epochs"],
            batch_size=config["batch_size"],
            steps_per_epoch=config["steps_per_epoch"],
            sections={n: s for n, s in config.items() if n in STRATEGIES},
        )
    )
    # A schedule takes any name; the optimizer does not.
    known = optimizers.HYPERPARAMETERS.get(optimizer.get("name", ""), optimizers.LIMITS)
    scheduled = isinstance(strategy, strategies.Schedule | strategies.ReduceOnPlateau)
    if scheduled and (unknown := sorted(set(strategy.hparams) - set(known))):
        raise ValueError(
            f"config.{name} sets {', '.join(unknown)}, which the optimizer lacks; it "
            f"has {', '.join(known)}"
        )
    return strategy


def _start(value: Any, name: str, axis: space.Axis) -> float:
    """The optimizer's own value of a hyperparameter, or a valid stand-in if it is
    wrong; the optimizer's check reports that."""
    try:
        optimizers.check_hyperparameter(name, value)
    except errors.WRONG:
        return axis.low
    return value


def check_trials(strategy: interface.Strategy, steps_per_epoch: int) -> None:
    """Raises ConfigError if a strategy's shortest trial would have no step."""
    if problem := interface.too_short(strategy, steps_per_epoch):
        raise ConfigError(
            [f"config.strategy: {problem}; more epochs, or another share"]
        )
