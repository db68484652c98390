"""What `import hyperdyn_jax` costs beyond jax's own; benchmarks/results/imports.json.

python benchmarks/imports.py
"""

import statistics
import subprocess
import sys
from pathlib import Path

import record

RESULTS = Path(__file__).resolve().parent / "results"
TIMES = 10
PROGRAM = """
import time, jax
began, busy = time.perf_counter(), time.process_time()
import hyperdyn_jax
print(time.perf_counter() - began, time.process_time() - busy)
"""


def main() -> None:
    def times() -> list[float]:
        words = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return [float(word) for word in done.stdout.split()]

    times()  # files that were never read, and Python's own bytecode
    seconds, busy = zip(*(times() for _ in range(TIMES)), strict=True)
    results = {"seconds": seconds, "processor_seconds": busy}  # busy machines differ
    record.write(RESULTS / "imports.json", ("jax", "optax", "tinygp"), results)
    for name, each in results.items():
        print(f"{name}: median {statistics.median(each):.2f}, most {max(each):.2f}")


if __name__ == "__main__":
    main()
