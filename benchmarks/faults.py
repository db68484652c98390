"""Kills, stopping signals and damaged checkpoints; the record to results/faults.json.

    python benchmarks/faults.py [--kills=100] [--stops=20] [--flips=1000] [FLAGS]

FLAGS are those of train.py, --config=configs/digits.py by default; its strategy has to
take a decision an epoch. Runs with a seed each are killed, or stopped with SIGTERM and
Ctrl-C in turn, at random moments and started again until they end; then every row but
its seconds, and every bit of the last checkpoint, has to be that of the same run left
alone. Bits are flipped in every file of a finished run's newest checkpoint in turn, and
every file is truncated, emptied and deleted; a state that is restored then has to be
one that was saved, to the bit.
"""

import argparse
import collections
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import record

from hyperdyn_jax.checkpoints import Checkpoints

ROOT = Path(__file__).resolve().parents[1]
RUNS = 3  # with different seeds, that the interruptions are spread over


class Bench(NamedTuple):
    """What every fault needs.

    folder: for the runs. flags: of train.py. rng: for moments and bits.
    """

    folder: Path
    flags: Sequence[str]
    rng: np.random.Generator


class Whole(NamedTuple):
    """An undisturbed run.

    seconds: to the line of its first epoch, and from there to the end.
    """

    workdir: Path
    seconds: tuple[float, float]


def start(bench: Bench, workdir: Path, seed: int) -> subprocess.Popen[str]:
    """Runs train.py up to the line from which on it can be stopped."""
    # Every process would compile the same programs again, and be killed at that.
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(bench.folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    flags = [*bench.flags, f"--config.seed={seed}", f"--workdir={workdir}"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("compiling") or "finished already" in line:
            return process
    raise RuntimeError(f"{workdir} could not be started")


def whole_run(bench: Bench, seed: int) -> Whole:
    workdir = bench.folder / f"whole{seed}"
    process = start(bench, workdir, seed)
    began = time.monotonic()
    first = 0.0
    for line in process.stdout:
        if line.startswith("epoch") and not first:
            first = time.monotonic() - began
    if process.wait():
        raise RuntimeError(f"{workdir} failed")
    return Whole(workdir, (first, time.monotonic() - began - first))


def interrupt(
    bench: Bench, workdir: Path, seed: int, number: int, latest: float
) -> dict[str, Any] | None:
    """Sends a run a signal at a random moment; None if its work was done by then.

    Args:
      latest: seconds up to which the moment may come.
    """
    there = newest(workdir)
    process = start(bench, workdir, seed)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(bench.rng.uniform(0, latest))
        return None
    process.send_signal(number)
    began = time.monotonic()
    out = process.stdout.read()
    process.wait()
    seconds = time.monotonic() - began
    if "total steps with every trial" in out:
        return None
    resumed = re.search(r"^resuming .* at epoch (\d+)$", out, re.MULTILINE)
    return {
        "signal": signal.Signals(number).name,
        "code": process.returncode,
        "seconds": round(seconds, 2),
        "said": out.strip().splitlines()[-1:],
        # None: it did not come that far.
        "lost": there - int(resumed[1]) if resumed else None,
        "uncounted_rows": rows(workdir) - newest(workdir),
    }


def newest(workdir: Path) -> int:
    """The number of the newest checkpoint: decisions so far."""
    names = [path.name for path in workdir.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def rows(workdir: Path) -> int:
    file = workdir / "decisions.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def interrupted(
    bench: Bench, wholes: Sequence[Whole], count: int, signals: Sequence[int]
) -> dict[str, Any]:
    """So many interruptions, and how the runs ended that they were spread over."""
    events: list[dict[str, Any]] = []
    same: list[bool] = []
    while len(events) < count:
        seed = len(same) % len(wholes)
        workdir = bench.folder / f"{signal.Signals(signals[0]).name}{len(same)}"
        share = min(-(-count // RUNS), count - len(events))
        first = min(whole.seconds[0] for whole in wholes)  # compiled before
        others = wholes[seed].seconds[1]
        for _ in range(share):
            number = signals[len(events) % len(signals)]
            latest = first + 2 * others / share
            if (event := interrupt(bench, workdir, seed, number, latest)) is None:
                break
            events.append(event)
        end = start(bench, workdir, seed)
        end.stdout.read()
        done = end.wait() == 0
        same.append(done and state(workdir) == state(wholes[seed].workdir))
    lost = [event["lost"] for event in events if event["lost"] is not None]
    return {
        "signals": len(events),
        "runs": len(same),
        "runs_identical": sum(same),
        "epochs_lost": sum(lost),
        "codes": collections.Counter(str(event["code"]) for event in events),
        "longest_seconds": max(event["seconds"] for event in events),
        "events": events,
    }


def state(workdir: Path) -> Any:
    """All that has to be the same: rows but for seconds, and the last checkpoint."""
    logs = [
        [json.loads(line) for line in (workdir / log).read_text().splitlines()]
        for log in ("decisions.jsonl", "metrics.jsonl")
    ]
    for row in logs[1]:
        del row["seconds"]
    return logs, restored(workdir / "checkpoints")


def restored(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Facts and arrays, as dtype, shape and bytes, of the newest good checkpoint."""
    store = Checkpoints(folder)
    facts = store.latest()
    arrays = {
        name: (str(array.dtype), array.shape, array.tobytes())
        for name, array in store._arrays.items()
    }
    store.close()
    return facts, arrays


def damaged(folder: Path, damages: Iterator[tuple[Path, bytes | None]]) -> Any:
    """What comes of damage to the newest checkpoint.

    Args:
      folder: of checkpoints.
      damages: files and what is in them then, None if they are gone.
    """
    step = folder / str(newest(folder.parent))
    newer, aside = restored(folder), folder.parent / step.name
    step.rename(aside)
    older = restored(folder)
    aside.rename(step)
    results: collections.Counter[str] = collections.Counter()
    for file, content in damages:
        before = file.read_bytes()
        file.unlink() if content is None else file.write_bytes(content)
        found = restored(folder)
        kinds = {"harmless": newer, "older one used": older}
        results[next((k for k, state in kinds.items() if found == state), "wrong")] += 1
        file.write_bytes(before)
    return {"damages": results.total(), "wrong": results["wrong"], "results": results}


def files(folder: Path) -> list[Path]:
    """Of the newest checkpoint; those of a size."""
    step = folder / str(newest(folder.parent))
    return sorted(p for p in step.rglob("*") if p.is_file() and p.stat().st_size)


def flips(
    folder: Path, count: int, rng: np.random.Generator
) -> Iterator[tuple[Path, bytes]]:
    """Single bits, of every file in turn."""
    there = files(folder)
    for i in range(count):
        content = np.fromfile(there[i % len(there)], np.uint8)
        bit = rng.integers(8 * content.size)
        content[bit // 8] ^= 1 << bit % 8
        yield there[i % len(there)], content.tobytes()


def cuts(folder: Path) -> Iterator[tuple[Path, bytes | None]]:
    """Every file truncated to half, emptied, deleted."""
    for file in files(folder):
        yield file, file.read_bytes()[: file.stat().st_size // 2]
        yield file, b""
        yield file, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--flips", type=int, default=1000)
    arguments, rest = parser.parse_known_args()
    flags = rest or ["--config=configs/digits.py"]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), flags, rng)
        wholes = [whole_run(bench, seed) for seed in range(RUNS)]
        stops = [signal.SIGTERM, signal.SIGINT]
        results = {
            "R1": interrupted(bench, wholes, arguments.kills, [signal.SIGKILL]),
            "R2": interrupted(bench, wholes, arguments.stops, stops),
        }
        checkpoints = bench.folder / "whole0" / "checkpoints"
        results["R4"] = damaged(checkpoints, flips(checkpoints, arguments.flips, rng))
        results["R5"] = damaged(checkpoints, cuts(checkpoints))
    path = ROOT / "benchmarks" / "results" / "faults.json"
    record.write(path, ("jax", "orbax-checkpoint", "numpy"), results)
    for name, result in results.items():
        print(name, {key: value for key, value in result.items() if key != "events"})


if __name__ == "__main__":
    main()
