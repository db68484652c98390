"""What is wrong with a config, in words: a line for each problem, with its setting."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hyperdyn_jax.run.config_schema import FIELDS, OPTIONAL
from hyperdyn_jax.run.verdicts import SHORT
from hyperdyn_jax.strategies.registry import STRATEGIES
from hyperdyn_jax.tuner import interface


class ConfigError(ValueError):
    """Everything that is wrong with what the user gave, a line each."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


LONG = {short: name for name, short in SHORT.items()}
# What the parts of a run raise where their settings are wrong.
WRONG = (ValueError, TypeError, OverflowError)


def lines_of(error: Exception) -> list[str]:
    """What an error says, a problem a line, and not of Python's arguments."""
    text = str(error) or type(error).__name__
    if found := re.search(r"unexpected keyword argument '(\w+)'", text):
        return [f"{found[1]} is an unknown setting"]
    if found := re.search(r"missing \d+ required .* arguments?: (.*)", text):
        return ["it lacks " + found[1].replace("'", "")]
    return text.splitlines()


def located(part: str, line: str) -> str:
    """A problem with the name of its setting before it, once."""
    found = re.match(r"(\w+)[\w.]*( must |: )", line)
    named = found and found[1] in (*FIELDS, *OPTIONAL, *STRATEGIES)
    return _of_config(line, line if named else f"{part}: {line}")


def _of_config(line: str, named: str) -> str:
    """A problem as it is `named`, if it has not the whole name of a setting already."""
    return line if line.startswith("config.") else f"config.{named}"


def suggest(name: str, known: Iterable[str], nested: Iterable[str] = ()) -> str:
    """What a name that is unknown may have been meant for.

    Args:
      name: it.
      known: the names that there are in its place.
      nested: full names of settings in other places, with dots.
    """
    known, bare = list(known), name.lstrip("-")
    bare = LONG.get(bare, bare)
    ends = {x.rpartition(".")[2]: x for x in reversed(list(nested))}
    close = [ends[bare]] if bare in ends else difflib.get_close_matches(name, known, 1)
    close = close or [ends[x] for x in difflib.get_close_matches(bare, ends, 1)]
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def choose(what: str, name: Any, choices: Mapping[str, Any]) -> Any:
    """The choice of a name; ValueError with all names where there is none."""
    if not isinstance(name, str) or name not in choices:
        known = ", ".join(sorted(choices))
        raise ValueError(f"{what} must be one of {known}, got {name!r}")
    return choices[name]


def wrong_settings(
    make: Callable[[dict[str, Any]], Any], settings: Mapping[str, Any]
) -> dict[str, str]:
    """What is wrong with the settings of a section: a line by the name of each.

    Settings that are right one by one, but not together, are told under the name of the
    last. The name is "" if not even the defaults are right.
    """

    def problem(given: dict[str, Any]) -> str:
        try:
            make(given)
        except interface.TooShortError:  # told where the run has its own length
            return ""
        except WRONG as error:
            return lines_of(error)[0]
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
    unknown = close and line == f"{name} is an unknown setting"
    return f"{line}; did you mean {close[0]}?" if unknown else line


def in_section(section: str, wrong: Mapping[str, str]) -> list[str]:
    """The same for what `wrong_settings` found in a section."""
    lines = []
    for name, line in wrong.items():
        if line.startswith(f"{section}."):
            named = line
        elif name and line.startswith(f"{name} "):
            named = f"{section}.{line}"
        else:
            named = f"{section}{'.' * bool(name)}{name}: {line}"
        lines.append(_of_config(line, named))
    return lines
