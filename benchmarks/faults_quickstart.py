"""The quick start again and again on busy cores, half of the runs killed and resumed.

    python benchmarks/faults_quickstart.py [--runs=200] [--python=PYTHON ...]

Row R12 of the README's table of faults, and its raw record in results/faults/: three
runs at a time on two cores, each with an interpreter of those given, in turn. Every
second run gets a SIGKILL at a random moment, and the same command again. All of them
have to end with exit code 0. What one says that does not is kept.

The runs of an interpreter share their compiled programs, as a user's do, and the first
of them compiles: so a kill may also hit a program that is being written to that cache.

A line a run goes to --output, which a stopped bench goes on from.
"""

import argparse
import collections
import concurrent.futures
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = 3  # on two cores, so that every run waits for others
LATEST = 20.0  # seconds up to which a kill may come; no whole run is as fast
KEPT = 2000  # characters of what a run said
VERSIONS = (
    "import json, platform, jax; "
    "print(json.dumps([platform.python_version(), jax.__version__]))"
)


def one(folder: Path, pythons: Sequence[str], number: int) -> dict[str, Any]:
    """A run to its end; every second one is killed once on its way."""
    rng, python = np.random.default_rng(number), pythons[number % len(pythons)]
    workdir = folder / f"run{number}"
    cache = folder / f"programs{number % len(pythons)}"
    command = [python, "train.py", "--config=configs/digits.py"]
    command += [f"--config.seed={number}", f"--workdir={workdir}"]
    start = functools.partial(
        subprocess.Popen,
        command,
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    killed = None
    began = time.monotonic()
    if number // len(pythons) % 2:
        process = start()
        try:
            process.communicate(timeout=float(rng.uniform(2.0, LATEST)))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed = round(time.monotonic() - began, 1)
    process = start()
    said, _ = process.communicate()
    epochs = workdir / "metrics.jsonl"
    row = {
        "run": number,
        "python": number % len(pythons),
        "killed_after": killed,
        "code": process.returncode,
        "epochs": len(epochs.read_text().splitlines()) if epochs.exists() else 0,
        "seconds": round(time.monotonic() - began, 1),
    }
    if process.returncode:
        return row | {"said": said[-KEPT:]}
    shutil.rmtree(workdir)
    return row


def summary(rows: Sequence[dict[str, Any]], versions: Sequence[Any]) -> dict[str, Any]:
    """What the table needs, and every run."""
    return {
        "runs": len(rows),
        "killed": sum(row["killed_after"] is not None for row in rows),
        "codes": collections.Counter(str(row["code"]) for row in rows),
        "at_once": AT_ONCE,
        "interpreters": [
            {"python": python, "jax": jax, "runs": sum(r["python"] == i for r in rows)}
            for i, (python, jax) in enumerate(versions)
        ],
        "events": sorted(rows, key=lambda row: row["run"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument(
        "--python", action="append", help="interpreter; several in turn"
    )
    parser.add_argument(
        "--output", type=Path, help="rows so far; another bench's if new"
    )
    arguments = parser.parse_args()
    pythons = arguments.python or [sys.executable]
    output = arguments.output or Path(tempfile.mkdtemp()) / "rows.jsonl"
    rows = []
    if output.exists():
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    left = [n for n in range(arguments.runs) if n not in {row["run"] for row in rows}]
    versions = [
        json.loads(subprocess.check_output([python, "-c", VERSIONS]))
        for python in pythons
    ]
    run = functools.partial(one, output.parent, pythons)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(run, number) for number in left]
        for future in concurrent.futures.as_completed(futures):
            rows.append(future.result())
            with output.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    sys.argv = [
        sys.argv[0],
        f"--runs={arguments.runs}",
    ]  # where Python is tells nothing
    path = ROOT / "benchmarks" / "results" / "faults" / "R12.json"
    record.write(path, ("jax", "orbax-checkpoint", "numpy"), summary(rows, versions))


if __name__ == "__main__":
    main()
