"""The quick start over seeds: its raw rows go to benchmarks/results/digits/.

python benchmarks/quickstart.py
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "digits"
SEEDS = range(5)
ROWS = ("config.json", "metrics.jsonl", "decisions.jsonl")


def main() -> None:
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as workdir:
            flags = ("--config=configs/digits.py", f"--config.seed={seed}")
            program = [sys.executable, "train.py", *flags, f"--workdir={workdir}/run"]
            subprocess.run(program, cwd=ROOT, check=True)
            folder = RESULTS / f"seed{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            for name in ROWS:
                shutil.copy(Path(workdir, "run", name), folder / name)
    seeds = {"seeds": list(SEEDS)}
    record.write(RESULTS / "machine.json", ("jax", "flax", "optax", "tinygp"), seeds)


if __name__ == "__main__":
    main()
