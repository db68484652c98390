"""The CPU twin for 48 epochs at equal total steps: explore-then-commit against cosine.

    python benchmarks/contenders.py DATA_DIR [WORKDIR]

Cosine to zero at eight learning rates a factor of two apart (momentum 0.9), whose
search is free, and explore-then-commit, which knows a range 1,000x wide and pays for
its probes. Ablations: the same average of the path under a constant setting that was
not searched for, and under cosine. On seeds that nothing was chosen by. Raw rows to
benchmarks/results/contenders/. The same command goes on where it was stopped.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import record
from twin import ROOT, copy_rows

RESULTS = ROOT / "benchmarks" / "results" / "contenders"
SEEDS = (10, 11, 12, 13, 14)
RATES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
RUNS = {
    "explore": ("explore", []),
    **{
        f"cosine_{rate:g}": ("cosine", [f"--config.optimizer.learning_rate={rate}"])
        for rate in RATES
    },
    "constant_averaged": ("constant", ["--config.averaging=5.0"]),
    "cosine_averaged": ("cosine", ["--config.averaging=5.0"]),
    "one_cycle": ("one_cycle", []),
    "wsd": ("wsd", []),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", metavar="DATA_DIR")
    parser.add_argument("workdir", metavar="WORKDIR", nargs="?", type=Path)
    arguments = parser.parse_args()
    work = arguments.workdir or Path("runs/contenders")
    for seed in SEEDS:
        for name, (strategy, changes) in RUNS.items():
            program = [sys.executable, "train.py", "--config=configs/cifar10_twin.py"]
            program += [f"--config.data_dir={arguments.data_dir}", *changes]
            program += ["--config.epochs=48", f"--config.seed={seed}"]
            program += [f"--config.strategy={strategy}"]
            program += [f"--workdir={work / name / f'seed{seed}'}"]
            subprocess.run(program, cwd=ROOT, check=False)
    copy_rows(work, RESULTS)
    record.write(RESULTS / "machine.json", ("jax", "flax", "optax"), {"seeds": SEEDS})


if __name__ == "__main__":
    main()
