"""Verified replay: a learned schedule from scratch, over seeds it was not learned on.

    python -m hyperdyn_jax.replay RUN --seeds=1,2,3,4,5 [--output=DIR]

Trains the run's config again with the hyperparameters of its `schedule.json` and no
tuner, once a seed, and prints the replay gap: how much test accuracy the schedule has
without the run that found it. A schedule that is only good for the run that it was
found on, or that owes its result to choosing between branches, shows it here. The
interval of the gap is Student's t, of one run against the mean of the replays; the
run's own seed cannot be among theirs.

The same command again goes on: finished runs are skipped, a stopped one is resumed.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from hyperdyn_jax import report, study
from hyperdyn_jax.commands import cli
from hyperdyn_jax.run import arguments, config, config_files, config_schema
from hyperdyn_jax.run.arguments import Parser
from hyperdyn_jax.run.jsonl import Row
from hyperdyn_jax.system import errors, memory, platforms, process
from hyperdyn_jax.tuner.interface import DivergedError

LEVEL = 0.95  # of the interval


class Gap(NamedTuple):
    """Replays against the run, test accuracy in percentage points.

    run: of the original.
    mean, deviation: of the replays over seeds, deviation NaN of a single one.
    gap: mean - run.
    low, high: 95% interval of the gap; NaN with a single replay.
    """

    run: float
    mean: float
    deviation: float
    gap: float
    low: float
    high: float


def replay_gap(run: float, replays: Sequence[float]) -> Gap:
    """The gap with its interval, which holds that the run is one draw as well.

    By Student's t: if run and replays are normal with one deviation, the difference of
    a single draw and a mean of n has variance s^2 (1 + 1 / n).

    Args:
      run: test accuracy of the original, percentage points.
      replays: of the replays, at least one.
    """
    count, mean = len(replays), float(np.mean(replays))
    if count < 2:
        return Gap(run, mean, math.nan, mean - run, math.nan, math.nan)
    deviation = float(np.std(replays, ddof=1))
    quantile = stats.t.ppf(0.5 + LEVEL / 2, count - 1)
    half = float(quantile * deviation * math.sqrt(1 + 1 / count))
    gap = mean - run
    return Gap(run, mean, deviation, gap, gap - half, gap + half)


def replay_config(run: Path) -> dict[str, Any]:
    """The config that plays a finished run's schedule.

    Raises:
      OSError, ValueError: the run's files are not there or damaged.
    """
    settings = config_files.read_json(run / "config.json")
    settings = config_schema.current(settings, finished=True)
    setup = config.build(settings)
    return {
        **settings,
        "averaging": setup.averaging,
        "backtracking": setup.backtracking,
        "strategy": "replay",
        "replay": {"run": str(run)},
    }


def verify(run: Path, seeds: list[int], output: Path, say: Any = print) -> Gap:
    """Replays a run over seeds.

    Args:
      run: a finished run's directory.
      seeds: of the replays; none of them the run's own.
      output: the replays are its subdirectories replay/seed<n>.
      say: is told what happens.

    Raises:
      ConfigError: before any replay.
      DivergedError: of some replays; the others are done.
    """
    if problem := platforms.problem():
        raise config.ConfigError([problem])
    settings, original = _original(run)
    if settings["seed"] in seeds:
        raise config.ConfigError(
            [f"--seeds must not have the run's own, {settings['seed']}"]
        )
    if original.get("test_accuracy") is None:
        raise config.ConfigError([f"{run} is not finished: it has no test accuracy"])
    if diverged := study.run_all({"replay": settings}, seeds, output, say):
        raise DivergedError("\n".join(diverged))
    runs = [report.load_run(output / "replay" / f"seed{seed}") for seed in seeds]
    accuracies = [row.metrics[-1]["test_accuracy"] for row in runs]
    return replay_gap(original["test_accuracy"], accuracies)


def _original(run: Path) -> tuple[dict[str, Any], Row]:
    """The config that plays a run, and its last row."""
    try:
        return replay_config(run), report.load_run(run).metrics[-1]
    except (OSError, ValueError) as error:
        why = errors.in_a_line(error)
        raise config.ConfigError([f"{run} is not a run to replay: {why}"]) from None


def in_words(gap: Gap, seeds: int) -> str:
    """A line to print."""
    over = f"{seeds} seed{'s' if seeds > 1 else ''}"
    line = f"run {gap.run:.2f}%, replay {gap.mean:.2f}% over {over}; gap {gap.gap:+.2f}"
    if not math.isfinite(gap.low):
        return f"{line} points; an interval takes at least 2 seeds"
    return f"{line} points, {LEVEL:.0%} interval {gap.low:+.2f} to {gap.high:+.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    process.begin()
    memory.keep_freed()
    parser = Parser("replay", __doc__)
    path = arguments.path
    parser.add_argument("run", type=path, metavar="RUN", help="finished run directory")
    parser.option("seeds", "1,2,3,4,5 by default", default="1,2,3,4,5")
    parser.option("output", "RUN/replays by default")
    options = parser.parse_args(argv)
    words = options.seeds.split(",")
    if wrong := study.wrong_seeds(words):
        try:
            _original(options.run)
        except config.ConfigError as error:
            wrong += error.problems
        cli.print_problems(wrong)
        return cli.BAD_INPUT
    output = options.output or options.run / "replays"
    cli.keep_programs()

    def command() -> None:
        gap = verify(options.run, [int(word) for word in words], output)
        print(in_words(gap, len(words)))

    return cli.exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
