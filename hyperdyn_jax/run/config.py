"""From a config to checked objects: every problem is found before anything runs."""

import dataclasses
import difflib
import functools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from hyperdyn_jax import models, optimizers, strategies
from hyperdyn_jax.data import dataset as data
from hyperdyn_jax.data.registry import DATASETS
from hyperdyn_jax.run import trackers
from hyperdyn_jax.strategies.registry import STRATEGIES, Context
from hyperdyn_jax.system import platforms
from hyperdyn_jax.training import train_step
from hyperdyn_jax.tuner import interface
from hyperdyn_jax.tuner import search_space as space

Config = Mapping[str, Any]

AXES: dict[str, Callable[..., space.Axis]] = {
    "uniform": space.Uniform,
    "log_uniform": space.LogUniform,
    "log_complement": space.LogComplement,
}

# What every config has: its type and, of numbers, the least that makes sense.
FIELDS: dict[str, tuple[type[Any], int]] = {
    "name": (str, 0),
    "seed": (int, 0),
    "epochs": (int, 1),
    "batch_size": (int, 1),
    "eval_batch_size": (int, 1),
    "dataset": (str, 0),
    "data_dir": (str, 0),
    "pad": (int, 0),
    "strategy": (str, 0),
    "model": (Mapping, 0),
    "optimizer": (Mapping, 0),
    "search_space": (Mapping, 0),
}


SAVE_MINUTES = 10.0

# Not every config has them. None is what the strategy needs, or what is usual.
OPTIONAL: dict[str, tuple[type[Any], int]] = {
    "image_size": (int, 1),
    "averaging": (float, 0),
    "backtracking": (bool, 0),
    "skip_bad_records": (int, 0),
    "save_minutes": (float, 0),
    "fork": (str, 0),
    "parallel": (bool, 0),
    "scan": (bool, 0),
    "trackers": (str, 0),
}


# The most that makes sense: JAX would cut off the rest of a seed, and what is far above
# one of the others is a slip that would fill the memory or take for ever.
MOST = {
    "seed": 2**32 - 1,
    "epochs": 10**6,
    "batch_size": 10**6,
    "eval_batch_size": 10**6,
    "pad": 1000,
    "image_size": 4096,
}

# Settings that are folders, of a run or of data.
FOLDERS = (("data_dir",), ("fork",), ("explore", "warm_start"), ("replay", "run"))

# How JSON, which has no such numbers, holds them in a config.json.
NOT_FINITE = {str(value): value for value in (math.inf, -math.inf, math.nan)}


class ConfigError(ValueError):
    """Everything that is wrong with what the user gave, a line each."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run, made from one config.

    epochs: of the accepted path, where the strategy takes none of them for trials.
    averaging: power of the average of the path that is evaluated; None without one.
    backtracking: whether the run ends at its best epoch's network, where that is better
      than the last one's by more than chance (`loop.finish`).
    save_minutes: after which the state is saved inside an epoch; it is after each.
    fork: directory of a run whose weights this one starts from; empty for fresh ones.
    parallel: whether branches are trained side by side on groups of devices, where that
      leaves none idle.
    scan: whether many steps are one program; None where that is fast.
    """

    epochs: int
    seed: int
    averaging: float | None
    backtracking: bool
    save_minutes: float
    fork: str
    parallel: bool
    scan: bool | None
    tuner: interface.Strategy
    model: nn.Module
    optimizer: optax.GradientTransformation
    dataset: data.Dataset

    def accepted_steps(self, tuner: Any) -> int:
        """Optimizer steps of the accepted path, in a state of the tuner: of all epochs,
        less what it has taken of them for trials."""
        steps = self.tuner.accepted_steps(tuner)
        return self.epochs * self.dataset.steps_per_epoch if steps is None else steps


def build(config: Config) -> Setup:
    """Makes the parts of a run; nothing is compiled and no file is written.

    Args:
      config: nested settings, as `configs/` and `--config.x=y` make them.

    Raises:
      ConfigError: with all problems at once.
    """
    if problem := platforms.problem():
        raise ConfigError([problem])
    config = with_folders(config, os.path.expanduser)
    names = [*FIELDS, *(name for name in OPTIONAL if name in config)]
    # By part of the config, the lines that are told of it.
    problems = {name: [line] for name in names if (line := _check_field(config, name))}

    def make(part: str, function: Callable[..., Any], *needs: str) -> Any:
        """A part of the run, or None where it or what it needs is wrong."""
        if any(need in problems for need in needs):
            return None
        try:
            return function(config)
        except _WRONG as error:
            problems[part] = [_located(part, line) for line in _lines(error)]
            return None

    for name in sorted(set(config) - set(FIELDS) - set(OPTIONAL) - set(STRATEGIES)):
        known = [*FIELDS, *OPTIONAL, *STRATEGIES]
        problems[name] = [f"config.{name} is no setting; {suggest(name, known)}"]
    axes = {
        name: make(
            f"search_space.{name}", functools.partial(_axis, name=name), "optimizer"
        )
        or space.Uniform(0, 1)  # stands in, so that the strategy can be checked too
        for name in _names(config)
    }
    if not axes and "search_space" not in problems:
        example = "learning_rate, with its kind, low and high"
        line = f"config.search_space needs at least one axis, for example {example}"
        problems["search_space"] = [line]
    devices = jax.device_count()  # of all processes
    sizes, lengths = _stand_ins(problems, devices)
    load = functools.partial(_dataset, sizes=sizes, devices=devices)
    dataset = make("dataset", load, "dataset", "data_dir")
    lengths["steps_per_epoch"] = dataset.steps_per_epoch if dataset else 1_000_000
    tuning = functools.partial(_strategy, axes=axes, lengths=lengths)
    strategy = make("strategy", tuning, "strategy", "search_space")
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
    _check_trials(strategy, dataset.steps_per_epoch)
    return Setup(
        config["epochs"],
        config["seed"],
        averaging,
        bool(backtracking),
        SAVE_MINUTES if config.get("save_minutes") is None else config["save_minutes"],
        config.get("fork", ""),
        config.get("parallel") is not False,
        config.get("scan"),
        strategy,
        model,
        optimizer,
        dataset,
    )


def with_folders(config: Config, change: Callable[[str], str]) -> dict[str, Any]:
    """A config with its folders written in another way."""
    config = dict(config)
    for *sections, name in FOLDERS:
        place: Any = config
        for section in sections:
            if isinstance(place.get(section), Mapping):
                place[section] = dict(place[section])
            place = place.get(section)
        if isinstance(place, dict) and isinstance(place.get(name), str) and place[name]:
            place[name] = change(place[name])
    return config


def _stand_ins(
    problems: Iterable[str], devices: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Instead of settings that are wrong, so that the others can be checked: batches
    that every device has a part of, and long enough a run for every strategy."""
    sizes = {"batch_size": devices, "eval_batch_size": devices} | {"pad": 0, "seed": 0}
    sizes |= {"image_size": 32, "skip_bad_records": 0}
    lengths = dict.fromkeys(("epochs", "batch_size"), 1_000)
    wrong = set(problems)
    return (
        {name: value for name, value in sizes.items() if name in wrong},
        {name: value for name, value in lengths.items() if name in wrong},
    )


def make_tuner(config: Config, steps_per_epoch: int) -> interface.Strategy:
    """The tuner of a config that was checked before, without the run's other parts.

    Raises:
      ValueError, TypeError, KeyError: it was not.
    """
    config = with_folders(config, os.path.expanduser)
    axes = {name: _axis(config, name=name) for name in _names(config)}
    config = {**config, "steps_per_epoch": steps_per_epoch}
    return _make_strategy(config, config["strategy"], axes)


# What the parts of a run raise where their settings are wrong.
_WRONG = (ValueError, TypeError, OverflowError)


def _lines(error: Exception) -> list[str]:
    """What an error says, a problem a line, and not of Python's arguments."""
    text = str(error) or type(error).__name__
    if found := re.search(r"unexpected keyword argument '(\w+)'", text):
        return [f"{found[1]} is no setting"]
    if found := re.search(r"missing \d+ required .* arguments?: (.*)", text):
        return ["it lacks " + found[1].replace("'", "")]
    return text.splitlines()


def _located(part: str, line: str) -> str:
    """A problem with the name of its setting before it, once."""
    if line.startswith("config."):
        return line
    found = re.match(r"(\w+)[\w.]*( must |: )", line)
    named = found and found[1] in (*FIELDS, *OPTIONAL, *STRATEGIES)
    return f"config.{line}" if named else f"config.{part}: {line}"


def suggest(name: str, known: Iterable[str]) -> str:
    """What a name that is unknown may have been meant for."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def _names(config: Config) -> list[str]:
    space = config.get("search_space")
    return list(space) if isinstance(space, Mapping) else []


def _check_field(config: Config, name: str) -> str | None:
    kind, least = (FIELDS | OPTIONAL)[name]
    if name not in config:
        return f"config.{name} is missing"
    value = config[name]
    if kind is float:
        return _check_number(name, value)
    if kind is bool:
        wrong = not (value is None or isinstance(value, bool))
        return f"config.{name} must be None, true or false, got {value!r}" * wrong
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {str: "text", int: "a whole number", Mapping: "a section"}[kind]
        return f"config.{name} must be {wanted}, got {value!r}"
    if kind is int and value < least:
        return f"config.{name} must be >= {least}, got {value}"
    if kind is int and value > MOST.get(name, math.inf):
        return f"config.{name} must be <= {MOST[name]:,}, got {value:,}"
    return None


def _check_number(name: str, value: Any) -> str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (number and 0 <= value < math.inf):
        return None
    return f"config.{name} must be None or a number >= 0, got {value!r}"


def _check_trials(strategy: interface.Strategy, steps_per_epoch: int) -> None:
    """The shortest trial of a strategy must not be rounded to no step."""
    shortest = strategy.shortest_trial * steps_per_epoch
    if shortest < 0.5:
        problem = f"its shortest trials would be of {shortest:.2g} steps"
        raise ConfigError(
            [f"config.strategy: {problem}; more epochs, or another share"]
        )


def _axis(config: Config, name: str) -> space.Axis:
    if not isinstance(config["search_space"][name], Mapping):
        found = config["search_space"][name]
        raise ValueError(f"it must be a section of kind, low and high, got {found!r}")
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


def _strategy(
    config: Config, axes: Mapping[str, space.Axis], lengths: Mapping[str, int]
) -> interface.Strategy:
    config = {**config, **lengths}  # what stands in for numbers that are wrong
    problems, config = _check_sections(config, axes)
    try:
        strategy = _make_strategy(config, config["strategy"], axes)
    except _WRONG as error:
        told = tuple(_lines(error))
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

    Not that of replay, nor where explore starts from: they are files, that only have to
    be there for the run that reads them.

    Returns:
      What is wrong with them, and the config without it.
    """
    problems, config = [], dict(config)
    # A section that others build on before them.
    order = ("explore", *(n for n in STRATEGIES if n != "explore"))[::-1]
    for name in (name for name in order if name in config and name != "replay"):
        if not isinstance(config[name], Mapping):
            problems.append(f"config.{name} must be a section, got {config[name]!r}")
            del config[name]
            continue
        settings = {k: v for k, v in config[name].items() if k != "warm_start"}
        make = functools.partial(_make_section, config, name, axes)
        wrong = _wrong_settings(make, settings)
        problems += _in_section(name, wrong)
        left = {k: v for k, v in config[name].items() if k not in wrong}
        config[name] = left if "" not in wrong else {}
    return problems, config


def _make_section(
    config: dict[str, Any],
    name: str,
    axes: Mapping[str, space.Axis],
    settings: Mapping[str, Any],
) -> interface.Strategy:
    return _make_strategy(config | {name: settings} | _LONG, name, axes)


def _wrong_settings(
    make: Callable[[dict[str, Any]], Any], settings: Mapping[str, Any]
) -> dict[str, str]:
    """What is wrong with each setting of a section beside the others, by its name.

    Where they are each right but not together, by the last of them, and by "" where not
    even the defaults are right.
    """

    def problem(given: dict[str, Any]) -> str:
        try:
            make(given)
        except interface.TooShortError:  # told where the run has its own length
            return ""
        except _WRONG as error:
            return _lines(error)[0]
        return ""

    if not problem(dict(settings)):
        return {}
    if line := problem({}):
        return {"": line}
    good: dict[str, Any] = {}
    wrong = dict.fromkeys(settings, "")
    while True:
        wrong = {name: problem({**good, name: settings[name]}) for name in wrong}
        right = next((name for name, line in wrong.items() if not line), None)
        if right is None:
            return {name: _with_hint(name, line, good) for name, line in wrong.items()}
        good[right] = settings[right]
        del wrong[right]


def _with_hint(name: str, line: str, others: Iterable[str]) -> str:
    """A line about a setting that there is not, with one that may have been meant."""
    close = difflib.get_close_matches(name, list(others), 1)
    unknown = close and line == f"{name} is no setting"
    return f"{line}; did you mean {close[0]}?" if unknown else line


def _in_section(section: str, wrong: Mapping[str, str]) -> list[str]:
    """Lines that name the setting, once."""
    lines = []
    for name, line in wrong.items():
        if line.startswith("config."):
            lines.append(line)
        elif line.startswith(f"{section}."):
            lines.append(f"config.{line}")
        elif name and line.startswith(f"{name} "):
            lines.append(f"config.{section}.{line}")
        else:
            lines.append(f"config.{section}{'.' * bool(name)}{name}: {line}")
    return lines


def _make_strategy(
    config: Config, name: str, axes: Mapping[str, space.Axis]
) -> interface.Strategy:
    make = _choose("strategy", name, STRATEGIES)
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
    """The optimizer's own value of a hyperparameter; where it is wrong, which is told
    of the optimizer, one that is not."""
    try:
        optimizers.check_hyperparameter(name, value)
    except _WRONG:
        return axis.low
    return value


def _optimizer(config: Config, averaging: float | None) -> optax.GradientTransformation:
    settings = dict(config["optimizer"])
    name, decay_all = settings.pop("name", None), settings.pop("decay_all", False)
    problems = []
    _choose("config.optimizer.name", name, optimizers.OPTIMIZERS)
    known = optimizers.HYPERPARAMETERS[name]
    problems += [f"{x} is missing" for x in known if x not in settings]
    for unknown in [x for x in settings if x not in known]:
        problems.append(f"{unknown} is no setting; {suggest(unknown, known)}")
        del settings[unknown]
    if not isinstance(decay_all, bool):
        problems.append(f"decay_all must be true or false, got {decay_all!r}")
    for hyperparameter, value in settings.items():
        try:
            optimizers.check_hyperparameter(hyperparameter, value)
        except _WRONG as error:
            problems += _lines(error)
    if problems:
        raise ValueError("\n".join(f"config.optimizer.{x}" for x in problems))
    return optimizers.create_optimizer(
        name, settings, decay_all=decay_all, averaging=averaging
    )


def _dataset(config: Config, sizes: Mapping[str, int], devices: int) -> data.Dataset:
    make = _choose("dataset", config["dataset"], DATASETS)
    config = {**config, **sizes}
    shared = {name: config[name] for name in ("batch_size", "eval_batch_size", "seed")}
    sharing = {"host": jax.process_index(), "hosts": jax.process_count()}
    return make(config, {**shared, **sharing, "devices": devices})


def _model(config: Config, dataset: data.Dataset | None) -> nn.Module:
    settings = dict(config["model"])
    make = _choose("config.model.name", settings.pop("name", None), models.MODELS)
    dtype = _choose("config.model.dtype", settings.pop("dtype", "float32"), DTYPES)
    together = settings.pop("sync_batch_norm", True)
    if not isinstance(together, bool):
        raise ValueError(
            f"config.model.sync_batch_norm must be true or false, got {together!r}"
        )
    classes = dataset.classes if dataset else 1  # its own problem is told already
    axis_name = train_step.AXIS if together else None
    create = functools.partial(make, classes, dtype=dtype, axis_name=axis_name)
    if wrong := _wrong_settings(lambda given: create(**given), settings):
        raise ValueError("\n".join(_in_section("model", wrong)))
    return create(**settings)


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _choose(what: str, name: Any, choices: Mapping[str, Any]) -> Any:
    if not isinstance(name, str) or name not in choices:
        raise ValueError(f"{what} {_among(choices)}, got {name!r}")
    return choices[name]


def _among(choices: Iterable[str]) -> str:
    return f"must be one of {', '.join(sorted(choices))}"


def read_json(file: Path) -> dict[str, Any]:
    """The settings in a JSON file, such as a run directory's config.json.

    Nothing in it is run. The texts inf, -inf and nan are numbers, except where a
    setting is text.

    Raises:
      OSError, ValueError: in a line, why it cannot be read.
    """
    try:
        settings = json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(settings, dict):
        raise ValueError(f"it must be an object of settings, got {str(settings)[:40]}")
    texts = {name for name, (kind, _) in (FIELDS | OPTIONAL).items() if kind is str}
    return {
        name: value if name in texts else _with_numbers(value)
        for name, value in settings.items()
    }


def _with_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_numbers(item) for name, item in value.items()}
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


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
