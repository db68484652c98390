"""Every strategy, and every option of the paper's method.

    python benchmarks/strategies.py twin --data_dir=DIR
    python benchmarks/strategies.py characters
    python benchmarks/strategies.py options --data_dir=DIR

The CPU twin of CIFAR-10 (with the large batches of the paper's figures), the next
character of Python's manual, and Hyperdyn on the twin with one option at a time. Runs
are made in --workdir, and the same command goes on where it was stopped. At its end the
rows of all finished runs are added to benchmarks/results/<problem>.jsonl.gz.
"""

import argparse
import importlib.util
import json
from pathlib import Path, PurePosixPath
from typing import Any

import archive
import jax
import record
from archive import RESULTS, SUFFIX

from hyperdyn_jax import study
from hyperdyn_jax.system import memory

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2, 3, 4)
STRATEGIES = (
    "cosine",
    "hyperdyn",
    "race",
    "constant",
    "wsd",
    "one_cycle",
    "plateau",
    "epoch_bo",
    "greedy",
    "control",
    "random_search",
    "hyperband",
    "autolrs",
    "pb2",
    "plain_sgd:hyperdyn",
    "lars:cosine",
    "prodigy:cosine",
    "schedule_free:constant",
    "salera:constant",
)
# Beside those: the twin's own optimizer is SGD, that of the characters is Adam.
MORE = {
    "twin": (
        "manual_sgd",
        "adam:hyperdyn",
        "adam:manual_adam",
        # For the figures of the paper that compare batch sizes.
        "batch=1000:manual_large_batch",
        "batch=1000:hyperdyn",
        "batch=1000:epoch_bo",
        "batch=1000:random_search",
        "batch=1000:hyperband",
        "batch=2000:hyperdyn",
        "batch=4000:manual_large_batch",
        "batch=4000:hyperdyn",
    ),
    "characters": ("manual_adam", "sgd:cosine", "sgd:hyperdyn"),
}
CONFIGS = {"twin": "cifar10_twin", "characters": "characters"}
# Of the paper's method on the twin, one at a time.
OPTIONS: dict[str, dict[str, Any]] = {
    "backtracking": {"backtracking": True},
}


def load_config(name: str) -> Any:
    """What configs/<name>.py has without an argument."""
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def finished(work: Path) -> archive.Study:
    """What finished runs wrote; where the data were is not part of a result."""
    study = {}
    for run in sorted(work.glob("*/seed*")):
        files = archive.rows(run)
        if b'"test_accuracy"' not in files.get("metrics.jsonl", b""):
            continue
        if (machine := run / "machine.json").is_file():
            files[machine.name] = machine.read_bytes()
        config = json.loads(files["config.json"]) | {"data_dir": "DATA_DIR"}
        files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
        study[run.relative_to(work).as_posix()] = files
    return study


def keep(work: Path, seeds: tuple[int, ...], study: str, problem: str = ".") -> None:
    """Adds all finished runs, and the record of this machine, to a study's archive."""
    runs = finished(work)
    machine = record.encode(("jax", "flax", "optax"), {"seeds": seeds})
    runs["."] = {"machine.json": machine}
    inside = {str(PurePosixPath(problem, path)): runs[path] for path in runs}
    archive.add(RESULTS / f"{study}{SUFFIX}", inside)


def configs(problem: str, data_dir: str) -> dict[str, dict[str, Any]]:
    """The config of every run by its name, but for the seed."""
    if problem == "options":
        base = load_config("cifar10_twin")
        base.update(data_dir=data_dir, strategy="hyperdyn")
        runs = {name: base.copy_and_resolve_references() for name in OPTIONS}
        for name, changes in OPTIONS.items():
            runs[name].update(changes)
        return {name: run.to_dict() for name, run in runs.items()}
    argv = ["study", f"--config=configs/{CONFIGS[problem]}.py"]
    argv += [f"--config.data_dir={data_dir}"]
    runs = study.load_configs([*STRATEGIES, *MORE[problem]], argv)
    # Its bound with the weight of a 95% interval, not the published 1e6.
    narrow = runs["autolrs"].get("autolrs", {}) | {"kappa": 1.96}
    return runs | {"autolrs_95": runs["autolrs"] | {"autolrs": narrow}}


def make_runs(
    runs: dict[str, dict[str, Any]], seeds: tuple[int, ...], work: Path
) -> None:
    """Makes the runs that are not there yet."""
    memory.keep_freed()
    jax.config.update("jax_compilation_cache_dir", str(work.absolute() / ".compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    for line in study.run_all(runs, list(seeds), work):
        print(line)  # some may diverge, and say so


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", choices=[*CONFIGS, "options"])
    parser.add_argument("--data_dir", default="", help="of CIFAR-10, for the twin")
    parser.add_argument("--workdir", type=Path, help="runs/PROBLEM")
    arguments = parser.parse_args()
    runs = configs(arguments.problem, arguments.data_dir)
    work = arguments.workdir or Path("runs", arguments.problem)
    make_runs(runs, SEEDS, work)
    keep(work, SEEDS, arguments.problem)


if __name__ == "__main__":
    main()
