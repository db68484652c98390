r"""Many runs: every strategy with every seed, one directory each.

    python -m hyperdyn_jax.study --config=configs/digits.py \
        --strategies=race,cosine,adam:hyperdyn --seeds=0,1,2

A strategy may have an argument of the config file before it: adam:hyperdyn is hyperdyn
with the config configs/digits.py:adam, and its runs are in adam_hyperdyn/.

The same command again goes on: finished runs are skipped, a stopped one is resumed.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from hyperdyn_jax import loop
from hyperdyn_jax.commands import cli
from hyperdyn_jax.run.config_errors import ConfigError
from hyperdyn_jax.system import files, memory, process
from hyperdyn_jax.tuner.interface import DivergedError

CONFIG = cli.define_config()
STRATEGIES = flags.DEFINE_list(
    "strategies",
    ["race"],
    "What to compare, race by default: names of config.strategy, or ARGUMENT:NAME "
    "with an argument of the config file, its parts joined by +.",
)
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the runs; 0 by default.")
OTHERS = ("strategies", "seeds", "output")
OUTPUT = flags.DEFINE_string(
    "output",
    "studies",
    "Folder to write to, studies by default: DIR/<strategy>/seed<n> is a run.",
)


def run_all(
    configs: Mapping[str, Mapping[str, Any]],
    seeds: list[int],
    output: Path,
    say: Any = print,
) -> list[str]:
    """Runs every config with every seed.

    Args:
      configs: of the runs, by the name of their directory; the seed is replaced.
      seeds: whole numbers.
      output: the runs are its subdirectories <name>/seed<n>.
      say: is told what happens.

    Returns:
      A line for each run that diverged for good; the others are done.

    Raises:
      ConfigError: before any run, with the problems of all of them.
    """
    runs = check_runs(configs, seeds, output)
    diverged = []
    for number, (path, settings) in enumerate(runs.items(), start=1):
        say(f"run {number} of {len(runs)}: {path}")
        try:
            loop.train_and_evaluate(settings, path)
        except DivergedError as error:
            diverged.append(f"{path}: {error}")
        # Every run compiles programs of its own. Kept, they use up the process's memory
        # maps, of which Linux allows 65,530: after some 80 runs XLA cannot go on.
        jax.clear_caches()
    return diverged


def check_runs(
    configs: Mapping[str, Mapping[str, Any]], seeds: list[int], output: Path
) -> dict[Path, dict[str, Any]]:
    """The config of every run by its directory; ConfigError with all their problems."""
    why = files.unwritable(output)
    runs = {
        output / name / f"seed{seed}": {**config, "seed": seed}
        for seed in seeds
        for name, config in configs.items()
    }
    problems: dict[str, None] = {}  # each once, in order
    for path, settings in runs.items():
        try:
            loop.check(settings, None if why else path)
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if why:
        problems[f"--output={output} cannot be written: {why}"] = None
    if problems:
        raise ConfigError(list(problems))
    return runs


def load_configs(
    strategies: list[str], argv: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The config of every strategy.

    Args:
      strategies: NAME or ARGUMENT:NAME, the parts of an argument joined by +.
      argv: the command line, whose --config and --config.x=y hold for all.

    Returns:
      Configs by NAME or ARGUMENT_NAME, the name of a directory.

    Raises:
      ConfigError: an argument is not one of the config file's.
    """
    configs, problems = {}, []
    for item in strategies:
        argument, _, strategy = item.rpartition(":")
        try:
            config = cli.load_config(argv, argument.replace("+", ",")).to_dict()
        except ValueError as error:
            problems.append(f"--strategies: {item!r}: {error}")
            continue
        name = item.replace(":", "_").replace("+", "_").replace("=", "")
        configs[name] = {**config, "strategy": strategy}
    if problems:
        raise ConfigError(problems)
    return configs


def wrong_seeds(seeds: Sequence[str]) -> list[str]:
    """A line for each that is no whole number, or is given twice."""
    wrong = [seed for seed in seeds or [""] if not seed.isdecimal()]
    lines = [f"--seeds must be whole numbers >= 0, got {seed!r}" for seed in wrong]
    return lines + _repeated("seeds", seeds)


def wrong_strategies(strategies: Sequence[str]) -> list[str]:
    """A line for each that is given twice, and where there is none."""
    if not strategies:
        return ["--strategies must name at least one, for example race"]
    return _repeated("strategies", strategies)


def _repeated(flag: str, values: Sequence[str]) -> list[str]:
    twice = dict.fromkeys(value for value in values if values.count(value) > 1)
    return [f"--{flag} has {value} more than once" for value in twice]


def check_flags(argv: Sequence[str]) -> list[str]:
    """What is wrong with the runs of a command line, a line each; the strategy and the
    seed that its config itself has are not among them."""

    def value(name: str) -> Any:
        given, flag = cli.flag_value(argv, name), flags.FLAGS[name]
        return flag.default if given is None else flag.parser.parse(given)

    return _problems(value("strategies"), value("seeds"), value("output"), argv)


def _problems(
    strategies: list[str], seeds: list[str], output: str, argv: Sequence[str]
) -> list[str]:
    lines = wrong_seeds(seeds) + wrong_strategies(strategies)
    sound = [int(seed) for seed in seeds if seed.isdecimal()] or [0]
    for item in strategies:
        try:
            check_runs(load_configs([item], argv), sound, _folder(output))
        except ConfigError as error:
            lines += error.problems
    return list(dict.fromkeys(lines))


def _folder(text: str) -> Path:
    try:
        return files.expand(text)
    except ValueError as error:
        raise ConfigError([f"--output: {error}"]) from None


def main(_: list[str]) -> int:
    logging.set_verbosity(logging.ERROR)
    # The runs share their steps: compiled for the first, they are read for the others.
    cli.keep_programs()

    def command() -> None:
        if wrong_seeds(SEEDS.value) + wrong_strategies(STRATEGIES.value):
            given = STRATEGIES.value, SEEDS.value, OUTPUT.value
            raise ConfigError(_problems(*given, sys.argv))
        output = _folder(OUTPUT.value)
        configs = load_configs(STRATEGIES.value, sys.argv)
        seeds = [int(seed) for seed in SEEDS.value]
        if diverged := run_all(configs, seeds, output):
            raise DivergedError("\n".join(diverged))

    return cli.exit_code(command)


if __name__ == "__main__":
    process.begin()
    memory.keep_freed()
    parse = functools.partial(cli.parse_flags, others=OTHERS, check=check_flags)
    app.run(main, flags_parser=parse)
