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
began = time.perf_counter()
import hyperdyn_jax
print(time.perf_counter() - began)
"""


def main() -> None:
    def seconds() -> float:
        words = [sys.executable, "-c", PROGRAM]
        return float(subprocess.run(words, capture_output=True, check=True).stdout)

    seconds()  # files that were never read, and Python's own bytecode
    times = [seconds() for _ in range(TIMES)]
    results = {"seconds": times, "median": statistics.median(times)}
    record.write(RESULTS / "imports.json", ("jax", "optax", "tinygp"), results)
    print(f"{results['median']:.2f} s, the longest of {TIMES} {max(times):.2f} s")


if __name__ == "__main__":
    main()
