"""The quick start over seeds, in both modes; raw rows to benchmarks/results/digits/.

python benchmarks/quickstart.py
"""

import itertools
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
    for strategy, seed in itertools.product(("explore", "hyperdyn"), SEEDS):
        with tempfile.TemporaryDirectory() as workdir:
            flags = ("--config=configs/digits.py", f"--config.seed={seed}")
            flags += (f"--config.strategy={strategy}",)
            program = [sys.executable, "train.py", *flags, f"--workdir={workdir}/run"]
            subprocess.run(program, cwd=ROOT, check=True)
            folder = RESULTS / strategy / f"seed{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            for name in ROWS:
                shutil.copy(Path(workdir, "run", name), folder / name)
    seeds = {"seeds": list(SEEDS)}
    record.write(RESULTS / "machine.json", ("jax", "flax", "optax", "tinygp"), seeds)


if __name__ == "__main__":
    main()
