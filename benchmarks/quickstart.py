"""The quick start over seeds, in both modes.

    python benchmarks/quickstart.py

The rows of all runs are added to benchmarks/results/digits.jsonl.gz.
"""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import archive
import record

ROOT = Path(__file__).resolve().parents[1]
SEEDS = range(5)


def main() -> None:
    study = {}
    for strategy, seed in itertools.product(("race", "hyperdyn"), SEEDS):
        with tempfile.TemporaryDirectory() as workdir:
            flags = ("--config=configs/digits.py", f"--config.seed={seed}")
            flags += (f"--config.strategy={strategy}",)
            program = [sys.executable, "train.py", *flags, f"--workdir={workdir}/run"]
            subprocess.run(program, cwd=ROOT, check=True)
            study[f"{strategy}/seed{seed}"] = archive.rows(Path(workdir, "run"))
    seeds = {"seeds": list(SEEDS)}
    machine = record.encode(("jax", "flax", "optax", "tinygp"), seeds)
    study["."] = {"machine.json": machine}
    archive.add(archive.RESULTS / f"digits{archive.SUFFIX}", study)


if __name__ == "__main__":
    main()
