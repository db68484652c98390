"""The settings that a config may have, and those that it no longer has."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from hyperdyn_jax.system import checks

Config = Mapping[str, Any]

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
FOLDERS = (("data_dir",), ("fork",), ("replay", "run"))

# Settings of earlier versions, with the values that say what every run does now.
REMOVED: dict[tuple[str, ...], tuple[Any, ...]] = {
    ("parallel",): (None, True),
    ("scan",): (None,),
    ("optimizer", "decay_all"): (False,),
    ("hyperdyn", "cooling"): (0.0,),
    ("hyperdyn", "fit_steps"): (4, 5),
    ("hyperdyn", "candidates"): (1024, 2048),
    ("hyperdyn", "starts"): (4,),
    ("hyperdyn", "ascent_steps"): (20,),
}
# Settings that earlier versions did not have, with the values that say what they did.
ADDED: dict[tuple[str, str], Any] = {("race", "warmup"): 0}


def current(config: Config, finished: bool = False) -> dict[str, Any]:
    """The config of an earlier version's run, in the settings of this one.

    Args:
      config: the settings in a config.json.
      finished: the run will only be looked at or played again, so that it does not
        matter any more how it was searched and on which devices.
    """
    new: dict[str, Any] = {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
    }
    for (*section, name), usual in REMOVED.items():
        place: Any = new.get(section[0]) if section else new
        there = isinstance(place, dict) and name in place
        if there and (place[name] in usual or (finished and name != "decay_all")):
            del place[name]
    for (part, name), usual in ADDED.items():
        if isinstance(new.get(part), dict):
            new[part].setdefault(name, usual)
    explored = new.get("strategy") == "explore"  # of earlier versions
    explore = {} if explored and not finished else new.pop("explore", {})
    if finished and explored:
        own = {"averaging": 5.0, "backtracking": True, **explore}
        for key in ("averaging", "backtracking"):
            new[key] = own[key] if new.get(key) is None else new[key]
        new["strategy"] = "constant"
    narrow = new.pop("autolrs_95", {})  # a strategy of its own once
    if new.get("strategy") == "autolrs_95":
        new |= {"strategy": "autolrs", "autolrs": {"kappa": 1.96, **narrow}}
    return new


def check_field(config: Config, name: str) -> str | None:
    """What is wrong with one of `FIELDS` or `OPTIONAL`, in a line."""
    kind, least = (FIELDS | OPTIONAL)[name]
    if name not in config:
        return f"config.{name} is missing"
    value = config[name]
    if kind in (float, bool) and value is None:
        return None
    if kind is bool and not isinstance(value, bool):
        return f"config.{name} must be None, true or false, got {value!r}"
    if kind is float and not (checks.is_number(value) and 0 <= value < math.inf):
        return f"config.{name} must be None or a number >= 0, got {value!r}"
    if kind in (float, bool):
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {str: "text", int: "a whole number", Mapping: "a section"}[kind]
        return f"config.{name} must be {wanted}, got {value!r}"
    if kind is int and value < least:
        return f"config.{name} must be >= {least}, got {value}"
    if kind is int and value > MOST.get(name, math.inf):
        return f"config.{name} must be <= {MOST[name]:,}, got {value:,}"
    return None


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
