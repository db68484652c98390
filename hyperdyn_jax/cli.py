"""The command line: flags to a config, and everything that can be wrong with them."""

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from hyperdyn_jax import config as config_lib
from hyperdyn_jax import loop

OK, BAD_INPUT, DIVERGED = 0, 2, 3  # exit codes


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines --config, with --config.x=y for every setting in it, and --workdir."""
    config_flags.DEFINE_config_file(
        "config", None, "Config file, such as configs/digits.py.", flag_values=values
    )
    flags.DEFINE_string(
        "workdir", None, "Run directory; runs/<config.name> if not given.",
        flag_values=values,
    )  # fmt: skip


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line, or prints every problem with it and exits with 2."""
    try:
        rest = flags.FLAGS(argv)
        config = flags.FLAGS.config
    except (flags.Error, AttributeError, LookupError, OSError, SyntaxError) as error:
        _exit(_problems(argv, error))
    if rest[1:]:
        _exit([f"unexpected argument {word!r}; settings are --config.x=y"
               for word in rest[1:]])  # fmt: skip
    if config is None:
        _exit(["--config is missing, for example --config=configs/digits.py"])
    return rest


def run(config: ConfigDict, workdir: str | None) -> int:
    """Trains; returns the exit code."""
    path = Path(workdir or Path("runs", str(config.get("name", "unnamed"))))
    try:
        loop.train_and_evaluate(config.to_dict(), path)
    except config_lib.ConfigError as error:
        _print_problems(error.problems)
        return BAD_INPUT
    except loop.DivergedError as error:
        _print_problems([str(error)])
        return DIVERGED
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from {path}", file=sys.stderr)
    return OK


def _exit(problems: Sequence[str]) -> None:
    _print_problems(problems)
    raise SystemExit(BAD_INPUT)


def _print_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)


def _problems(argv: Sequence[str], error: Exception) -> list[str]:
    """Every problem, where a parser stops at the first: each flag is tried alone."""
    words = _join_values(argv[1:])
    sources = [word for word in words if word.startswith("--config=")]
    settings = [word for word in words if word.startswith("--config.")]
    if not sources:
        return ["--config is missing, for example --config=configs/digits.py"]
    try:
        config = _parse([argv[0], sources[-1]])
    except Exception as broken:  # noqa: BLE001 (the config file is the user's program)
        return [f"{sources[-1]} cannot be loaded: {str(broken).splitlines()[-1]}"]

    problems, good = [], [argv[0], sources[-1]]
    for word in settings:
        try:
            _parse([*good, word])
            good.append(word)
        except (flags.Error, AttributeError, LookupError, TypeError):
            problems.append(_explain(word, config))
    others = [word for word in words if word not in sources + settings]
    known = ("--workdir=", "--help")
    problems += [
        f"unknown flag or argument {word!r}; there are --config, --config.x=y, "
        f"--workdir and --help"
        for word in others
        if not word.startswith(known)
    ]
    try:
        config_lib.build(_parse(good).to_dict())
    except config_lib.ConfigError as more:
        problems += more.problems
    return problems or [str(error).splitlines()[-1]]


def _join_values(words: Sequence[str]) -> list[str]:
    """--name value as --name=value."""
    joined: list[str] = []
    for word in words:
        if joined and not word.startswith("-") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _parse(argv: Sequence[str]) -> ConfigDict:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=list(argv))
    values(argv)
    return values.config


def _explain(word: str, config: ConfigDict) -> str:
    """Why a --config.x=y cannot be taken, and what could be."""
    name, _, value = word.partition("=")
    section: Any = config
    for part in name.split(".")[1:]:
        names = list(section) if isinstance(section, ConfigDict) else []
        if part not in names:
            close = difflib.get_close_matches(part, names, 1) or names
            return f"{name} is no setting; did you mean {' or '.join(close)}?"
        section = section[part]
    if isinstance(section, ConfigDict):
        return f"{name} is a section; it has {', '.join(section)}"
    kind = {bool: "true or false", int: "a whole number", float: "a number"}
    return f"{name} must be {kind.get(type(section), 'text')}, got {value!r}"
