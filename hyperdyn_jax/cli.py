"""The command line: from flags to a run, and every way in which they can be wrong."""

import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from hyperdyn_jax import config as config_lib
from hyperdyn_jax import dry_run, hosts, loop, signals
from hyperdyn_jax.arguments import BAD_INPUT as BAD_INPUT
from hyperdyn_jax.checkpoints import FULL, SaveError
from hyperdyn_jax.records import DataError, reason
from hyperdyn_jax.types import DivergedError

flags.disclaim_key_flags()  # --help shows them as those of the program
LONGEST = 1000  # characters of a line that is told; beyond it is what was given
DONE, DIVERGED, TRY_AGAIN = 0, 3, 75  # exit codes, beside BAD_INPUT
PLACE = ("coordinator", "processes", "process", "heartbeat")  # flags of many processes
HELP = ("help", "h", "helpshort")
# What stands for the value of a flag in --help; those without it are switches.
VALUES = {
    "config": "FILE",
    "coordinator": "HOST:PORT",
    "fork": "RUN",
    "heartbeat": "SECONDS",
    "output": "DIR",
    "process": "NUMBER",
    "processes": "NUMBER",
    "seeds": "0,1,2",
    "strategies": "A,B",
    "workdir": "DIR",
}
SWITCHES = ("dry_run",)


def define_config(
    values: flags.FlagValues = flags.FLAGS, argv: Sequence[str] | None = None
) -> flags.FlagHolder[Any]:
    """Defines --config=FILE and with it every --config.x=y.

    Args:
      values: where.
      argv: the command line, sys.argv by default.
    """
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, Python or JSON; --config.x=y changes a setting in it.",
        flag_values=values,
        sys_argv=argv and list(argv),
    )
    values["config"].parser = _ConfigParser(values["config"].parser)
    return holder


class _ConfigParser(flags.ArgumentParser[Any]):
    """Config files: those in JSON are read and nothing in them is run.

    Args:
      python: parser of the others.
    """

    def __init__(self, python: flags.ArgumentParser[Any]):
        self._python = python

    def parse(self, path: str) -> ConfigDict:
        file, colon, argument = path.partition(":")
        if found := _shipped(file):
            file, path = str(found), f"{found}{colon}{argument}"
        try:
            Path(file).open().close()
        except OSError as error:
            raise ValueError(str(error.strerror)) from None
        if Path(file).suffix != ".json":
            return self._run(path)
        if colon:
            raise ValueError(f"a JSON file takes no argument, got {argument!r}")
        settings = config_lib.read_json(Path(file))
        # None has no type that a flag could be parsed as.
        for name, (kind, _) in config_lib.OPTIONAL.items():
            if name in settings and settings[name] is None:
                settings[name] = config_dict.placeholder(kind)
        return ConfigDict(settings).lock()

    def _run(self, path: str) -> ConfigDict:
        try:
            config = self._python.parse(path)
            # What an OSError in it has led to raises that at a touch.
            getattr(config, "to_dict", None)
        except AttributeError as error:
            if error.name != "get_config":
                raise
            raise ValueError("it has no get_config()") from None
        except OSError as error:
            raise ValueError(str(error.__cause__ or error)) from None
        if not isinstance(config, ConfigDict):
            found = str(config)[:40]
            raise ValueError(f"get_config() must return a ConfigDict, got {found}")
        return config


def _shipped(name: str) -> Path | None:
    """The config file of a name such as digits, if no file is called so."""
    package = Path(__file__).parent  # in a wheel configs/ is in it, else beside it
    files = [folder / "configs" / f"{name}.py" for folder in (package, package.parent)]
    plain = name.isidentifier() and not Path(name).exists()
    return next((file for file in files if plain and file.is_file()), None)


def parse_flags(
    argv: Sequence[str],
    others: Sequence[str] = (*PLACE, "dry_run", "fork", "workdir"),
    check: Callable[[Sequence[str]], list[str]] | None = None,
) -> list[str]:
    """Parses the command line, or prints every problem with it and exits with 2.

    Args:
      argv: the command line.
      others: names of the flags that it may have beside those of the config.
      check: what else is wrong with a command line whose flags can all be parsed; by
        default what is with the run of its config.
    """
    words = _join_values(argv[1:])
    if any(word.lstrip("-").partition("=")[0] in HELP for word in words):
        print(usage(("config", *others)))
        raise SystemExit(DONE)
    if not any(word.startswith("--help") for word in words):  # absl's own, the longer
        problems, good = _check_flags(argv[0], words, others)
        problems += _check_place(words) if set(PLACE) <= set(others) else []
        if problems:
            if good is not None:
                problems += (check or _check_run)(good)
            print_problems(problems)
            raise SystemExit(BAD_INPUT)
    return flags.FLAGS(argv)


def usage(names: Sequence[str], width: int = 24) -> str:
    """What --help prints: the program's docstring, and its flags with their values."""
    about = (sys.modules["__main__"].__doc__ or "").strip()
    lines = [about, "", "options:"]
    for name in sorted(names):
        flag, value = flags.FLAGS[name], VALUES.get(name)
        head = f"  --{name}={value}" if value else f"  --{name}"
        texts = textwrap.wrap(flag.help, 88 - width)
        if len(head) >= width:
            lines.append(head)
            head = ""
        lines += [f"{head:<{width}}{texts[0]}"]
        lines += [f"{'':<{width}}{text}" for text in texts[1:]]
    return "\n".join(lines)


def run(
    config: ConfigDict,
    workdir: str | None,
    fork: str | None = None,
    place: Sequence[str | None] = (None,) * len(PLACE),
    dry: bool = False,
) -> int:
    """Trains, perhaps as one of several processes; returns the exit code.

    Args:
      config, workdir, fork: what is trained, where, and starting from what.
      place: values of the flags `PLACE`.
      dry: whether it is only told what would be trained.
    """
    settings = config.to_dict() | ({"fork": fork} if fork else {})
    path = _path(config, workdir)
    if not dry:
        keep_programs()

    def command() -> None:
        if where := hosts.place(*place):
            hosts.join(where, settings)
        if dry:
            dry_run.describe(settings, loop.check(settings, path))
        else:
            loop.train_and_evaluate(settings, path)

    try:
        code = exit_code(command)
    except Exception:
        if not hosts.joined():
            raise
        traceback.print_exc()  # Python's own end would wait for the other processes
        code = 1
    return hosts.leave(code)


def keep_programs() -> None:
    """Compiled programs are kept on disk, for the next command that needs them.

    In the folder of the environment variable JAX_COMPILATION_CACHE_DIR, by default in
    the user's cache; JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    settings: Any = jax.config  # its attributes have no types
    if settings.jax_compilation_cache_dir is None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(cache, "hyperdyn_jax")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # a home that cannot be written to
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX keeps what took a second; many small programs take longer together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def exit_code(command: Callable[[], Any]) -> int:
    """Runs a command to its end or to a signal; prints a line for each problem."""
    with signals.stoppable("stopped; the same command goes on"):
        try:
            command()
        except config_lib.ConfigError as error:
            print_problems(error.problems)
            return BAD_INPUT
        except hosts.JoinError as error:
            print_problems(error.problems)
            return error.code
        except DataError as error:  # a record that cannot be read, found on the way
            print_problems([str(error)])
            return BAD_INPUT
        except DivergedError as error:
            print_problems(str(error).splitlines())
            return DIVERGED
        except SaveError as error:
            return _try_again(error)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return _try_again(error)
        except Exception:
            hosts.await_cause()
            raise
    return DONE


def _try_again(error: Exception) -> int:
    print_problems([f"{reason(error)}; make room, and the same command goes on"])
    return TRY_AGAIN


def load_config(argv: Sequence[str], argument: str = "") -> ConfigDict:
    """The config of a command line, without its other flags.

    Args:
      argv: a command line with --config=FILE and perhaps --config.x=y.
      argument: more for the config file, beside what FILE has after a colon.

    Raises:
      ValueError: the file does not take the argument.
    """
    words = _join_values(argv[1:])
    source = [word for word in words if word.startswith("--config=")][-1]
    settings = [word for word in words if word.startswith("--config.")]
    if argument:
        source += f",{argument}" if ":" in source else f":{argument}"
    try:
        return _parse([argv[0], source, *settings])
    except flags.Error as error:
        raise ValueError(_reason(error)) from None


def _reason(error: BaseException) -> str:
    """What a config file said, without what the parser says of it."""
    if isinstance(error, flags.IllegalFlagValueError):
        error = error.__context__ or error
    line = (str(error).strip().splitlines() or [""])[-1].strip()
    if not isinstance(error, ValueError | TypeError | SyntaxError | flags.Error):
        line = f"{type(error).__name__}: {line}"  # of the file's own code
    return line.removeprefix("ValueError: ")


def flag_value(argv: Sequence[str], name: str) -> str | None:
    """The last value of a flag on a command line as `parse_flags` checks it."""
    values = [word for word in argv if word.startswith(f"--{name}=")]
    return values[-1].partition("=")[2] if values else None


def _check_place(words: Sequence[str]) -> list[str]:
    try:
        hosts.place(*(flag_value(words, name) for name in PLACE))
    except hosts.JoinError as error:
        return error.problems
    return []


def _check_run(argv: Sequence[str]) -> list[str]:
    config, fork = load_config(argv), flag_value(argv, "fork")
    settings = config.to_dict() | ({"fork": fork} if fork else {})
    try:
        loop.check(settings, _path(config, flag_value(argv, "workdir")))
    except config_lib.ConfigError as error:
        return error.problems
    return []


def _path(config: ConfigDict, workdir: str | None) -> Path:
    return Path(workdir or Path("runs", str(config.get("name", "unnamed"))))


def print_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        line = problem if len(problem) <= LONGEST else f"{problem[:LONGEST]}..."
        print(f"error: {line}", file=sys.stderr)


def _check_flags(
    program: str, words: Sequence[str], others: Sequence[str]
) -> tuple[list[str], list[str] | None]:
    """Every problem, where a parser stops at the first: each setting is tried alone.

    Returns:
      The problems; and the command line without them, or None if it has no config.
    """
    sources = [word for word in words if word.startswith("--config=")]
    settings = [word for word in words if word.startswith("--config.")]
    known = tuple(f"--{name}=" for name in ("config", *others))
    names = ", ".join(f"--{name}" for name in ("config", "config.x=y", *others[:-1]))
    problems = [
        f"{word!r} is no flag; there are {names} and --{others[-1]}"
        for word in words
        if not word.startswith((*known, "--config."))
    ]
    given = ((name, flag_value(words, name)) for name in SWITCHES if name in others)
    problems += [
        f"--{name} is true or false, got {value!r}"
        for name, value in given
        if value not in (None, "true", "false")
    ]
    if not sources:
        missing = "--config is missing, for example --config=configs/digits.py"
        return [*problems, missing], None
    good = [program, sources[-1]]
    try:
        config = _parse(good)
        config.to_dict()  # a file that is not there is not missed before
    except Exception as error:
        return [*problems, f"{sources[-1]} cannot be loaded: {_reason(error)}"], None
    for word in settings:
        try:
            _parse([*good, word])
            good.append(word)
        except (flags.Error, AttributeError, LookupError, TypeError):
            problems.append(_explain(word, config))
    return problems, good + [word for word in words if word.startswith(known[1:])]


def _join_values(words: Sequence[str]) -> list[str]:
    """--name value as --name=value, -name as --name, and --switch as --switch=true."""
    joined: list[str] = []
    for word in words:
        if word.startswith("-") and not _is_number(word):  # -3 is a value
            name = word.lstrip("-")
            joined.append(f"--{name}" + "=true" * (name in SWITCHES))
        elif joined and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _parse(argv: Sequence[str]) -> ConfigDict:
    values = flags.FlagValues()
    define_config(values, argv)
    values(argv)
    return values.config


def _explain(word: str, config: ConfigDict) -> str:
    """Why a --config.x=y cannot be taken, and what could be."""
    name, _, value = word.partition("=")
    setting: Any = config
    for part in name.split(".")[1:]:
        names = list(setting) if isinstance(setting, ConfigDict) else []
        if part not in names:
            return f"{name} is no setting; {config_lib.suggest(part, names)}"
        setting = setting[part]
    if isinstance(setting, ConfigDict):
        return f"{name} is a section; it has {', '.join(setting)}"
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    return f"{name} must be {kinds.get(type(setting), 'text')}, got {value!r}"
