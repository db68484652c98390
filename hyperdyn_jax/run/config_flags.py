"""The settings that a command line changes in a config: --config.x=y."""

import ast
import math
import types
from typing import Any

from ml_collections import ConfigDict

from hyperdyn_jax.run import jsonl
from hyperdyn_jax.run.config_errors import suggest
from hyperdyn_jax.run.config_schema import FIELDS, OPTIONAL
from hyperdyn_jax.strategies.registry import STRATEGIES

KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
BOOLS = {"true": True, "t": True, "yes": True, "1": True}
BOOLS |= {"false": False, "f": False, "no": False, "0": False}
NONE = ("none", "null")


class _Opened(ConfigDict):  # type: ignore[misc]  # which has no types
    """The section of a strategy that the config file has none of: it takes any setting,
    which is checked with the others when the strategy is made."""


def change(config: ConfigDict, word: str) -> None:
    """Makes the change of --config.x=y.

    Raises:
      ValueError: in a line, why it cannot be made and what could be.
    """
    flag, equals, text = word.partition("=")
    section: Any = config
    *sections, last = name = flag.split(".")[1:]
    if len(sections) == 1 and sections[0] in STRATEGIES and sections[0] not in config:
        with config.unlocked():
            config[sections[0]] = _Opened()
    leaves = list(jsonl.flat(config.to_dict()))
    for part in sections:
        section = _inside(section, part, flag, leaves)
    known = last in section or not isinstance(section, _Opened)
    old = _inside(section, last, flag, leaves) if known else None
    if isinstance(old, ConfigDict):
        raise ValueError(f"{flag} is a section; it has {', '.join(old)}")
    kind = _kind(name, old)
    if not equals and kind is bool:
        text = "true"
    elif not equals:
        raise ValueError(f"{flag} needs a value; it must be {KINDS.get(kind, 'text')}")
    nullable = old is None or (len(name) == 1 and last in OPTIONAL)
    try:
        none = nullable and kind is not str and text.lower() in NONE
        value = None if none else _value(text, kind)
    except (ValueError, SyntaxError):
        wanted = KINDS.get(kind, f"a {kind.__name__}")
        raise ValueError(f"{flag} must be {wanted}, got {text!r}") from None
    with section.unlocked(), section.ignore_type():
        section[last] = value


def _inside(section: Any, part: str, flag: str, leaves: list[str]) -> Any:
    names = list(section) if isinstance(section, ConfigDict) else []
    if part not in names:
        raise ValueError(
            f"{flag} is an unknown setting; {suggest(part, names, leaves)}"
        )
    return section[part]


def _kind(name: list[str], old: Any) -> type[Any]:
    """The type that a setting is to have; NoneType where nothing tells.

    A number in a section may be whole by chance, as 1 for a rate in JSON, so any number
    is taken in its place: `config.build` knows which must be whole.
    """
    known = FIELDS | OPTIONAL
    if len(name) == 1 and name[0] in known:
        return known[name[0]][0]
    return float if type(old) is int else type(old)


def _value(text: str, kind: type[Any]) -> Any:
    """What a text stands for; ValueError or SyntaxError if it is not of that type."""
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in BOOLS:
            raise ValueError
        return BOOLS[text.lower()]
    if kind in (int, float):
        number = _number(text)
        if kind is int and isinstance(number, float):
            raise ValueError
        return number
    if kind is types.NoneType:
        return _guess(text)
    value = ast.literal_eval(text)
    return kind(value if isinstance(value, list | tuple) else [value])


def _number(text: str) -> int | float:
    """A number, whole if it can be: 1e3 is 1000."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
    return int(number) if math.isfinite(number) and number.is_integer() else number


def _guess(text: str) -> Any:
    try:
        return _number(text)
    except ValueError:
        named = {"true": True, "false": False}
        return named.get(text.lower(), text)
