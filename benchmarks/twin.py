"""Every strategy on the CPU twin of CIFAR-10; raw rows to benchmarks/results/twin/.

    python benchmarks/twin.py DATA_DIR [WORKDIR]

A study (`python -m hyperdyn_jax.study`) that goes on where it was stopped.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "twin"
SEEDS = (0, 1, 2, 3, 4)
STRATEGIES = (
    "cosine",
    "hyperdyn",
    "explore",
    "manual_sgd",
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
    "autolrs_95",
    "pb2",
    "plain_sgd:hyperdyn",
    "adam:hyperdyn",
    "adam:manual_adam",
    "lars:cosine",
    "prodigy:cosine",
    "schedule_free:constant",
    "salera:constant",
)
# For the figures of the paper that compare batch sizes.
LARGE_BATCHES = (
    "batch=1000:manual_large_batch",
    "batch=1000:hyperdyn",
    "batch=1000:epoch_bo",
    "batch=1000:random_search",
    "batch=1000:hyperband",
    "batch=2000:hyperdyn",
    "batch=4000:manual_large_batch",
    "batch=4000:hyperdyn",
)


def load_config(name: str) -> Any:
    """What configs/<name>.py has without an argument."""
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


ROWS = ("config.json", "metrics.jsonl", "decisions.jsonl")


def copy_rows(work: Path, results: Path) -> None:
    """Copies what finished runs wrote; where the data were is not part of a result."""
    for run in sorted(work.glob("*/seed*")):
        if '"test_accuracy"' not in (run / "metrics.jsonl").read_text():
            continue  # not finished
        folder = results / run.relative_to(work)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ROWS:
            shutil.copy(run / name, folder / name)
        config = json.loads((run / "config.json").read_text())
        config["data_dir"] = "DATA_DIR"
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    data_dir = sys.argv[1]
    work = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/twin")
    program = [sys.executable, "-m", "hyperdyn_jax.study", f"--output={work}"]
    program += ["--config=configs/cifar10_twin.py", f"--config.data_dir={data_dir}"]
    program += [f"--strategies={','.join(STRATEGIES + LARGE_BATCHES)}"]
    program += [f"--seeds={','.join(map(str, SEEDS))}"]
    subprocess.run(program, cwd=ROOT, check=False)  # some may diverge, and say so
    copy_rows(work, RESULTS)
    record.write(RESULTS / "machine.json", ("jax", "flax", "optax"), {"seeds": SEEDS})


if __name__ == "__main__":
    main()
