"""The paper's experiment at its own size: ResNet-20 on CIFAR-10 at 32x32 pixels.

    python benchmarks/paper_size.py --data_dir=DIR [--only=NAME,...] [--seeds=0]
    python benchmarks/paper_size.py --data_dir=DIR --size=gpu --only=paper --seeds=0

30 accepted epochs at batch 128 and 12 at batch 1,000; with --size=gpu 160 of both.

  manual    He et al.'s rate of 0.1, divided by ten at 1/2 and 3/4 of the run
  paper     the paper's method, which trains two branches an epoch
  race_R    the race, told the rate R; its trials are a part of the epochs
  cosine_R  a cosine of the rate R over a third of the epochs, to choose a rate
  cosine    a cosine over the whole run, at the best of these on validation data
  batch1000_manual, batch1000_paper, batch1000_epoch_bo, batch1000_random_search
            for Figures 1(b) and 1(d); random search tries ten settings an epoch

Every run is a folder of --workdir. The same command goes on where it was stopped, to
the bit, and several processes can share a --workdir, each with runs of its own. A run's
machine.json names the commits that made it. As a run ends, all that are finished are
added to benchmarks/results/paper_size.jsonl.gz, or paper_size_gpu.jsonl.gz.

At batch 128 the paper's run trains 63 epochs in all, the others 30; at batch 1,000
random search trains 120. On a GPU nothing was measured, as there was none at hand. At
15,000 images a second one run and one seed train for eight minutes, the paper's method
at 30,000.

--size=smoke tries all of it with a tiny network, and adds nothing to the results.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import record
from strategies import ROOT, keep, make_runs

from hyperdyn_jax import study
from hyperdyn_jax.commands import cli
from hyperdyn_jax.run.config_errors import ConfigError

RATES = (0.03, 0.1, 0.3)  # of which a cosine takes the best
BASES = (0.1, 0.01)  # that the race is told
LARGE = 1000  # the batch of Figures 1(b) and 1(d)
WARMUP = 5 / 90  # of the epochs, as Goyal et al. 2017 have it


class Size(NamedTuple):
    """How long runs are, in epochs.

    epochs: at batch 128. short: of those that choose a rate. large: at batch 1,000.
    argument: of the config file. study: that finished runs are added to; or "".
    """

    epochs: int
    short: int
    large: int
    argument: str
    study: str


SIZES = {
    "cpu": Size(30, 10, 12, "full", "paper_size"),
    "gpu": Size(160, 53, 160, "full", "paper_size_gpu"),
    "smoke": Size(3, 1, 2, "smoke", ""),
}


def configs(size: Size, data_dir: str) -> dict[str, dict[str, Any]]:
    """The config of every run by its name, but for the seed; the rate of `cosine` is
    the usual one until another has been chosen."""
    argv = ["", f"--config={ROOT}/configs/cifar10.py:{size.argument}"]

    def config(strategy: str, epochs: int, batch: int = 128) -> dict[str, Any]:
        settings = cli.load_config(argv, f"batch={batch}").to_dict()
        return settings | {
            "data_dir": data_dir,
            "epochs": epochs,
            "strategy": strategy,
            "manual_large_batch": {"warmup": WARMUP * size.large},
        }

    runs = {
        "manual": config("manual_sgd", size.epochs),
        "paper": config("hyperdyn", size.epochs),
        **{f"race_{rate:g}": config("race", size.epochs) for rate in BASES},
        **{f"cosine_{rate:g}": config("cosine", size.short) for rate in RATES},
        "cosine": config("cosine", size.epochs),
        "batch1000_manual": config("manual_large_batch", size.large, LARGE),
        "batch1000_paper": config("hyperdyn", size.large, LARGE),
        "batch1000_epoch_bo": config("epoch_bo", size.large, LARGE),
        "batch1000_random_search": config("random_search", size.large, LARGE),
    }
    for kind, rates in (("race", BASES), ("cosine", RATES)):
        for rate in rates:
            runs[f"{kind}_{rate:g}"]["optimizer"]["learning_rate"] = rate
    return runs


def last_row(run: Path) -> dict[str, Any]:
    """Of a finished run's metrics; {} while it is not finished."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    row = json.loads(lines[-1]) if lines else {}
    return row if "test_accuracy" in row else {}


def choose_rate(work: Path, seeds: Sequence[int]) -> float:
    """The rate whose short runs ended best on validation data, on average.

    Raises:
      ConfigError: naming a short run that is not finished.
    """
    found = {}
    for rate in RATES:
        ends = {work / f"cosine_{rate:g}" / f"seed{seed}": 0.0 for seed in seeds}
        for run in ends:
            if not (row := last_row(run)):
                raise ConfigError([f"cosine needs {run}, which is not finished"])
            ends[run] = row["validation_accuracy"]
        found[rate] = np.mean(list(ends.values()))
    return max(found, key=lambda rate: found[rate])


def commit() -> str:
    """The commit of this checkout, and whether code was changed since."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    changed = [*git, "diff", "--quiet", "HEAD", "--", ":!benchmarks/results"]
    return f"{name} with changes" if subprocess.run(changed).returncode else name


def sign(run: Path) -> None:
    """Adds this commit to those that a run, about to begin or to go on, is made by."""
    file = run / "machine.json"
    there = json.loads(file.read_text())["results"]["commits"] if file.exists() else []
    commits = list(dict.fromkeys([*there, commit()]))
    record.write(file, ("jax", "flax", "optax"), {"commits": commits})


def make(
    names: Sequence[str], seeds: Sequence[int], size: Size, data_dir: str, work: Path
) -> None:
    """Makes the runs that are not finished, one after the other, and keeps them.

    Raises:
      ConfigError: before any run, with what is wrong; or a run that `cosine` needs is
        not finished when its turn comes.
    """
    runs = configs(size, data_dir)
    if unknown := [name for name in names if name not in runs]:
        known = ", ".join(runs)
        raise ConfigError([f"--only: there is no run {unknown[0]!r}, but {known}"])
    shorts = {f"cosine_{rate:g}" for rate in RATES}
    if "cosine" in names and not shorts <= set(names[: names.index("cosine")]):
        choose_rate(work, seeds)  # which tells what is missing now, not in hours
    # The rate of `cosine` is not known yet.
    known_now = {name: runs[name] for name in names if name != "cosine"}
    study.check_runs(known_now, list(seeds), work)
    for name in names:
        if name == "cosine":
            runs[name]["optimizer"]["learning_rate"] = choose_rate(work, seeds)
        for seed in seeds:
            run = work / name / f"seed{seed}"
            if not last_row(run):
                sign(run)
                make_runs({name: runs[name]}, (seed,), work)
            if size.study:
                keep(work, tuple(seeds), size.study)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="of CIFAR-10")
    parser.add_argument("--workdir", type=Path, help="runs/paper_size, or the like")
    parser.add_argument("--only", help="names of runs, separated by commas")
    parser.add_argument("--seeds", default="0", help="separated by commas")
    parser.add_argument("--size", choices=SIZES, default="cpu")
    given = parser.parse_args()
    size = SIZES[given.size]
    names = given.only.split(",") if given.only else list(configs(size, ""))
    seeds = list(map(int, given.seeds.split(",")))
    work = given.workdir or Path("runs", size.study or "paper_size_smoke")
    return cli.exit_code(lambda: make(names, seeds, size, given.data_dir, work))


if __name__ == "__main__":
    raise SystemExit(main())
