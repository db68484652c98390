"""Config files: Python that is run, and JSON that is only read."""

import json
import math
import os
import sys
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hyperdyn_jax.run.config_schema import FIELDS, OPTIONAL, current

# How JSON, which has no such numbers, holds them in a config.json.
NOT_FINITE = {str(value): value for value in (math.inf, -math.inf, math.nan)}


def load(source: str, more: str = "") -> ConfigDict:
    """The config of FILE or FILE:ARGUMENT.

    A file in JSON is read, and nothing in it is run; any other is Python code, whose
    get_config is called.

    Args:
      source: the file, or the name of one that comes with the package, such as digits.
      more: more of the argument, after what source has.

    Raises:
      ValueError: the file is not there, or is no config.
      Exception: whatever the code in it raises.
    """
    file, argument = _split(source)
    if more:
        argument = f"{argument},{more}" if argument else more
    if file.suffix != ".json":
        return _run(file, argument)
    if argument is not None:
        raise ValueError(f"a JSON file takes no argument, got {argument!r}")
    try:
        settings = read_json(file)
    except OSError as error:
        raise ValueError(error.strerror) from None
    return ConfigDict(settings).lock()


def read_json(file: Path) -> dict[str, Any]:
    """The settings in a JSON file, such as a run directory's config.json.

    Nothing in it is run. The texts inf, -inf and nan are numbers, except where a
    setting is text. Settings of earlier versions are dropped if they have no effect
    now.

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
    return current(
        {
            name: value if name in texts else _with_numbers(value)
            for name, value in settings.items()
        }
    )


def _with_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_numbers(item) for name, item in value.items()}
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _split(source: str) -> tuple[Path, str | None]:
    """The file and the argument, None without one.

    Folders may have colons in their names, so the longest part that exists is the file.
    """
    ends = [i for i, letter in enumerate(source) if letter == ":"]
    for end in (len(source), *reversed(ends)):
        name = os.path.expanduser(source[:end])
        file = Path(name) if os.path.exists(name) else _shipped(name)
        if file is not None:
            return file, source[end + 1 :] if end < len(source) else None
    return Path(source), None


def _shipped(name: str) -> Path | None:
    """The config file of a name such as digits."""
    return _all_shipped().get(name)


def _all_shipped() -> dict[str, Path]:
    """The config files that come with the package, by their names."""
    package = Path(__file__).parents[1]  # in a wheel configs/ is in it, else beside it
    folders = [package.parent / "configs", package / "configs"]
    files = sorted(file for folder in folders for file in folder.glob("*.py"))
    return {file.stem: file for file in files}


def _run(file: Path, argument: str | None) -> ConfigDict:
    try:
        file.open().close()
    except OSError as error:
        names = ", ".join(_all_shipped())
        meant = f"; the package has {names}" if str(file).isidentifier() else ""
        raise ValueError(f"{error.strerror}{meant}") from None
    name = f"{file.stem}_config"
    module = types.ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # where dataclasses and the like look for it
    SourceFileLoader(name, str(file)).exec_module(module)
    make = getattr(module, "get_config", None)
    if make is None:
        raise ValueError("it has no get_config()")
    config = make() if argument is None else make(argument)
    if not isinstance(config, ConfigDict):
        found = str(config)[:40]
        raise ValueError(f"get_config() must return a ConfigDict, got {found}")
    return ConfigDict(config)  # a frozen one too can be changed
