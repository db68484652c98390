"""The race against what a user would run instead, at equal total steps.

    python benchmarks/contenders.py twin --data_dir=DIR [--only=NAME,...]
    python benchmarks/contenders.py characters [--only=NAME,...]

Two problems: the CPU twin of CIFAR-10 for 48 epochs (SGD with momentum), and the next
character of Python's manual for 24 epochs (Adam).

  cosine_R       cosine to zero at eight learning rates a factor of two apart, whose
                 search is free, and at usual rates mis-set by 0.1x to 10x
  race_R         the race, told the constant rate R: the default
  race_cosine_R  the race, told a cosine of the rate R
  race_none      the race without a base
  race_two_axes  the race over momentum (or b1) too, told a tenth of the usual rate
  replay         the schedule of one run of the race from scratch, over five more seeds
  the rest       other schedules

Runs are made in --workdir, and the same command goes on where it stopped. At its end
the rows of all finished runs are added to benchmarks/results/contenders.jsonl.gz.
"""

import argparse
from pathlib import Path
from typing import Any

from strategies import keep, load_config, make_runs

from hyperdyn_jax import replay

SEEDS = (10, 11, 12)
REPLAYS = (20, 21, 22, 23, 24)
FACTORS = (0.1, 1.0, 10.0)
# Config file, epochs, usual learning rate, rates that cosine is tuned over.
PROBLEMS = {
    "twin": ("cifar10_twin", 48, 0.2, [0.025 * 2**i for i in range(8)]),
    "characters": ("characters", 24, 4e-3, [5e-4 * 2**i for i in range(8)]),
}


def configs(problem: str, data_dir: str) -> dict[str, dict[str, Any]]:
    """The config of every run by its name, but for the seed."""
    file, epochs, usual, rates = PROBLEMS[problem]

    def config(
        strategy: str, rate: float, average: float | None = None, **changes: Any
    ) -> dict[str, Any]:
        settings = load_config(file)
        settings.update(data_dir=data_dir, epochs=epochs, strategy=strategy)
        settings.optimizer.learning_rate = float(f"{rate:.6g}")
        content = settings.to_dict()
        content["averaging"] = average
        content["backtracking"] = True  # the last epoch's network is tested as well
        content["race"] |= changes
        return content

    mis_set = [usual * factor for factor in FACTORS]
    runs = {f"cosine_{rate:g}": config("cosine", rate) for rate in [*rates, *mis_set]}
    for rate in mis_set:
        runs[f"race_{rate:g}"] = config("race", rate)
        runs[f"race_cosine_{rate:g}"] = config("race", rate, base="cosine")
    runs["race_none"] = config("race", usual, base="none")
    second = "momentum" if problem == "twin" else "b1"
    tune = f"learning_rate,{second}"
    runs["race_two_axes"] = config("race", usual / 10, tune=tune)
    runs["constant_averaged"] = config("constant", usual, average=5.0)
    runs["cosine_averaged"] = config("cosine", usual, average=5.0)
    for schedule in ("one_cycle", "wsd"):
        runs[schedule] = config(schedule, usual)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--data_dir", default="", help="of CIFAR-10, for the twin")
    parser.add_argument("--workdir", type=Path, help="runs/contenders/PROBLEM")
    parser.add_argument("--only", help="names of runs, separated by commas")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    arguments = parser.parse_args()
    work = arguments.workdir or Path("runs/contenders", arguments.problem)
    runs = configs(arguments.problem, arguments.data_dir)
    names = arguments.only.split(",") if arguments.only else [*runs, "replay"]
    seeds = tuple(map(int, arguments.seeds.split(",")))
    make_runs({name: runs[name] for name in names if name in runs}, seeds, work)
    if "replay" in names:
        usual = PROBLEMS[arguments.problem][2]
        run = work / f"race_{usual / 10:g}" / f"seed{SEEDS[0]}"
        make_runs({"replay": replay.replay_config(run)}, REPLAYS, work)
    keep(work, seeds, "contenders", arguments.problem)


if __name__ == "__main__":
    main()
