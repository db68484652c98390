"""The command line: from flags to a run, and every way in which they can be wrong."""

import contextlib
import errno
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from hyperdyn_jax import loop
from hyperdyn_jax.commands import dry_run, topology
from hyperdyn_jax.data.tfds_records import DataError
from hyperdyn_jax.distributed import rendezvous, slices, watchdog
from hyperdyn_jax.distributed.place import JoinError, place_of
from hyperdyn_jax.run import config as config_lib
from hyperdyn_jax.run import config_files, config_flags, jsonl
from hyperdyn_jax.run.arguments import BAD_INPUT as BAD_INPUT
from hyperdyn_jax.run.checkpoints import FULL, SaveError
from hyperdyn_jax.run.config_errors import ConfigError, suggest
from hyperdyn_jax.system import files, platforms, signals
from hyperdyn_jax.system.errors import first_line, no_folder
from hyperdyn_jax.tuner.interface import DivergedError

flags.disclaim_key_flags()  # --help shows them as those of the program
LONGEST = 1000  # characters of a line that is told; beyond it is what was given
DONE, DIVERGED, TRY_AGAIN = 0, 3, 75  # exit codes, beside BAD_INPUT
PLACE = ("coordinator", "processes", "process", "heartbeat")  # flags of many processes
OTHERS = (*PLACE, "dry_run", "fork", "topology", "workdir")  # other flags of a run
HELP = ("help", "h", "helpshort", "helpfull")
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
    "topology": "SLICE",
    "workdir": "DIR",
}
SWITCHES = ("dry_run",)


def define_config(
    values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder[str | None]:
    """Defines --config=FILE; `load_config` reads it, and every --config.x=y."""
    about = "Config file, Python or JSON; --config.x=y changes a setting in it."
    return flags.DEFINE_string("config", None, about, flag_values=values)


def parse_flags(
    argv: Sequence[str],
    others: Sequence[str] = OTHERS,
    check: Callable[[Sequence[str]], list[str]] | None = None,
    about: str | None = None,
) -> list[str]:
    """Parses the command line, or prints every problem with it and exits with 2.

    Args:
      argv: the command line.
      others: names of the flags that it may have beside those of the config.
      check: what else is wrong with a command line whose flags can all be parsed; by
        default what is with its config.
      about: what --help says of the program; the docstring of it by default.
    """
    words = _join_values(argv[1:])
    if any(word.lstrip("-").partition("=")[0] in HELP for word in words):
        print(usage(("config", *others), about))
        raise SystemExit(DONE)
    problems, good = _check_flags(argv[0], words, others)
    problems += _check_place(words) if set(PLACE) <= set(others) else []
    problems += _check_topology(words) if "topology" in others else []
    if problems:
        if good is not None:
            problems += (check or _check_config)(good)
        print_problems(problems)
        raise SystemExit(BAD_INPUT)
    words = [word for word in words if not word.startswith("--config.")]
    return flags.FLAGS([argv[0], *words])


def usage(names: Sequence[str], about: str | None = None, width: int = 24) -> str:
    """What --help prints: what the program is, and its flags with their values."""
    about = about or sys.modules["__main__"].__doc__ or ""
    lines = [about.strip(), "", "options:"]
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
    slice_name: str | None = None,
) -> int:
    """Trains, perhaps as one of several processes; returns the exit code.

    Args:
      config, workdir, fork: what is trained, where, and starting from what.
      place: values of the flags `PLACE`.
      dry: whether it is only told what would be trained.
      slice_name: the TPU slice that it is told for; None for what is here.
    """
    settings, path = _settings(config, fork), _path(config, workdir)
    if not dry:
        keep_programs()
    if slice_name:
        slices.compute_on_cpu()

    def command() -> None:
        if where := place_of(*place):
            rendezvous.join(where, settings)
        if slice_name:
            describe_on(slice_name, settings)
        elif dry:
            dry_run.describe(settings, loop.check(settings, None))
        else:
            loop.train_and_evaluate(settings, path)

    return watchdog.run(lambda: exit_code(command))


def describe_on(name: str, settings: dict[str, Any]) -> None:
    """Tells what a run would be on a TPU slice, and keeps what took long to find."""
    topology.describe(settings, slices.named(name), slices_folder())


def slices_folder() -> Path | None:
    """Where it is kept what programs take on slices; None where nothing can be."""
    with contextlib.suppress(OSError, ValueError):
        return _cache_folder() / "slices"
    return None


def keep_programs() -> None:
    """Compiled programs are kept on disk, for the next command that needs them.

    In the folder of the environment variable JAX_COMPILATION_CACHE_DIR, by default in
    the user's cache; JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    settings: Any = jax.config  # its attributes have no types
    if settings.jax_compilation_cache_dir is None:
        try:
            folder = _cache_folder()
        except (OSError, ValueError) as error:
            print(f"note: compiled programs are not kept: {error}", file=sys.stderr)
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX keeps what took a second; many small programs take longer together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _cache_folder() -> Path:
    """A folder that can be written to; OSError or ValueError where there is none."""
    cache = os.environ.get("XDG_CACHE_HOME") or files.expand("~/.cache")
    folder = Path(cache, "hyperdyn_jax")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder


def exit_code(command: Callable[[], Any]) -> int:
    """Runs a command to its end or to a signal; prints a line for each problem."""
    if gone := no_folder():
        print_problems([gone])
        return BAD_INPUT
    with signals.stoppable():
        try:
            command()
        except ConfigError as error:
            print_problems(error.problems)
            return BAD_INPUT
        except JoinError as error:
            print_problems(error.problems)
            return error.code
        except DataError as error:  # a record that cannot be read, found on the way
            print_problems([str(error)])
            return BAD_INPUT
        except DivergedError as error:
            print_problems(str(error).splitlines())
            return DIVERGED
        except SaveError as error:
            return _try_again(error, error.full)
        except OSError as error:
            if error.filename is None and error.errno not in FULL:
                raise
            return _try_again(error, error.errno in FULL)
        except Exception:
            if problem := platforms.problem():
                print_problems([problem])
                return BAD_INPUT
            raise
    return DONE


def _try_again(error: Exception, full: bool) -> int:
    mend = "make room" if full else "mend that"
    print_problems([f"{first_line(error)}; {mend}, and run the same command to resume"])
    return TRY_AGAIN


def load_config(argv: Sequence[str], argument: str = "") -> ConfigDict:
    """The config of a command line, without its other flags.

    Args:
      argv: a command line with --config=FILE and perhaps --config.x=y.
      argument: more for the config file, beside what FILE has after a colon.

    Raises:
      ValueError: there is no config, the file does not take the argument, or a setting
        cannot be changed so.
    """
    words = _join_values(argv[1:])
    config, problems = _load(words, argument)
    if config is None or problems:
        raise ValueError("\n".join(problems))
    return config


def _load(
    words: Sequence[str], argument: str = ""
) -> tuple[ConfigDict | None, list[str]]:
    """The config with the changes that can be made, and a line for each problem."""
    source = flag_value(words, "config")
    if source is None:
        return None, ["--config is missing, for example --config=configs/digits.py"]
    try:
        config = config_files.load(source, argument)
    except Exception as error:  # of the code in it
        reason = _reason(error)
        cannot = f"--config={source} cannot be loaded: {reason}"
        return None, [reason if argument else cannot]
    problems = []
    for word in words:
        if word.startswith("--config."):
            try:
                config_flags.change(config, word)
            except ValueError as error:
                problems.append(str(error))
    return config, problems


def _reason(error: Exception) -> str:
    """Why a config cannot be loaded, in a line."""
    line = (str(error).strip().splitlines() or [""])[-1].strip()
    if isinstance(error, ValueError | TypeError | SyntaxError):
        return line
    return f"{type(error).__name__}: {line}"  # of the file's own code


def flag_value(argv: Sequence[str], name: str) -> str | None:
    """The last value of a flag on a command line as `parse_flags` checks it."""
    values = [word for word in argv if word.startswith(f"--{name}=")]
    return values[-1].partition("=")[2] if values else None


def _check_place(words: Sequence[str]) -> list[str]:
    try:
        place_of(*(flag_value(words, name) for name in PLACE))
    except JoinError as error:
        return error.problems
    return []


def _check_topology(words: Sequence[str]) -> list[str]:
    """What is wrong with the slice, or with what is asked for beside it."""
    name = flag_value(words, "topology")
    if name is None:
        return []
    problems = [problem] if (problem := slices.problem(name)) else []
    dry = flag_value(words, "dry_run")
    if dry is None or not config_flags.BOOLS.get(dry.lower(), True):
        problems.append(f"--topology={name} needs --dry_run: nothing can be run there")
    beside = [x for x in ("coordinator", "fork") if flag_value(words, x)]
    problems += [f"--topology={name} is told of without --{x}" for x in beside]
    return problems


def _check_config(argv: Sequence[str]) -> list[str]:
    """What is wrong with a config; the run directory matters when it is right."""
    settings = _settings(load_config(argv), flag_value(argv, "fork"))
    name = flag_value(argv, "topology")
    try:
        if name is None:
            loop.check(settings, None)
        else:
            slices.compute_on_cpu()
            chips = slices.named(name).chips if name in slices.NAMES else 1
            config_lib.build(settings, chips)
    except ConfigError as error:
        return error.problems
    return []


def _settings(config: ConfigDict, fork: str | None) -> dict[str, Any]:
    return config.to_dict() | ({"fork": fork} if fork else {})


def _path(config: ConfigDict, workdir: str | None) -> Path:
    return Path(workdir or Path("runs", str(config.get("name", "unnamed"))))


def print_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        line = problem if len(problem) <= LONGEST else f"{problem[:LONGEST]}..."
        print(f"error: {line}", file=sys.stderr)


def _check_flags(
    program: str, words: Sequence[str], others: Sequence[str]
) -> tuple[list[str], list[str] | None]:
    """Every problem, where a parser stops at the first.

    Returns:
      The problems; and the command line without them, or None if it has no config.
    """
    known = tuple(f"--{name}=" for name in ("config", *others))
    config, wrong = _load(words)
    leaves = jsonl.flat(config.to_dict()) if config else {}
    nested = [f"--config.{name}" for name in leaves]
    names = ["--config", "--config.x=y", *(f"--{name}" for name in others)]
    problems = []
    for word in words:
        if not word.startswith((*known, "--config.")):
            name, flag = word.partition("=")[0], word.startswith("--")
            mend = suggest(name, names, nested if flag else [])
            problems.append(f"{word!r} is not a flag; {mend}")
    given = ((name, flag_value(words, name)) for name in SWITCHES if name in others)
    problems += [
        f"--{name} must be true or false, got {value!r}"
        for name, value in given
        if value is not None and value.lower() not in config_flags.BOOLS
    ]
    problems += wrong
    if config is None:
        return problems, None
    bad = {line.partition(" ")[0] for line in wrong}
    settings = [word for word in words if word.startswith("--config.")]
    good = [word for word in settings if word.partition("=")[0] not in bad]
    return problems, [program, *good, *(w for w in words if w.startswith(known))]


def _join_values(words: Sequence[str]) -> list[str]:
    """--name value as --name=value, -name as --name, and --switch as --switch=true."""
    joined: list[str] = []
    for word in words:
        if word.startswith("-") and not _is_number(word):  # -3 is a value
            joined.append(f"--{word.lstrip('-')}")
        elif joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    switches = [f"--{name}" for name in SWITCHES]
    return [f"{word}=true" if word in switches else word for word in joined]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
