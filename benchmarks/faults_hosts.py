"""What can happen to one of two processes that train together: row R3.

    python benchmarks/faults_hosts.py [--stops=5] [--kills=5] [--freezes=3]

Two processes on this machine, a device each, meet over loopback. At random moments one
of them, in turn, is sent SIGTERM, SIGKILL or SIGSTOP, a run each kind; both are started
again, until the run ends. It has to end as a run that was left alone: every row but its
seconds, and every bit of the last checkpoint. The record is results/faults/R3.json.
"""

import argparse
import collections
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import record
from faults import state

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    "--config=configs/characters.py",
    "--config.strategy=hyperdyn",
    "--config.model.width=64",
    "--config.epochs=5",
    "--config.save_minutes=0.02",
)


class Bench(NamedTuple):
    """What every fault needs.

    folder: for the runs. rng: for moments. heartbeat: seconds, the flag's value.
    """

    folder: Path
    rng: np.random.Generator
    heartbeat: float


def start(bench: Bench, workdir: Path) -> list[subprocess.Popen[str]]:
    """Runs both processes up to the line from which on one can be disturbed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # Every process would compile the same programs again.
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(bench.folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    flags = [*FLAGS, f"--workdir={workdir}", f"--coordinator={address}"]
    flags += ["--processes=2", f"--heartbeat={bench.heartbeat:g}"]
    both = [
        subprocess.Popen(
            [sys.executable, "train.py", *flags, f"--process={i}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    for line in both[0].stdout:
        if line.startswith("compiling") or "finished already" in line:
            return both
    raise RuntimeError(f"{workdir} could not be started: {both[0].stderr.read()}")


def finish(both: Sequence[subprocess.Popen[str]]) -> list[int]:
    """Waits for both; their exit codes."""
    for process in both:
        process.communicate()
    return [process.returncode for process in both]


def whole_run(bench: Bench) -> tuple[Path, float]:
    """An undisturbed run, and its seconds with everything compiled."""
    for name in ("first", "whole"):
        both, began = start(bench, bench.folder / name), time.monotonic()
        if any(finish(both)):
            raise RuntimeError(f"{name} failed")
        seconds = time.monotonic() - began
    return bench.folder / "whole", seconds


def disturb(
    bench: Bench, workdir: Path, number: int, which: int, latest: float
) -> dict[str, Any] | None:
    """Sends one process a signal at a random moment; None if the run ended before.

    Args:
      workdir: of the run, perhaps begun.
      number: of the signal.
      which: process gets it.
      latest: seconds up to which the moment may come.
    """
    both = start(bench, workdir)
    try:
        both[0].wait(bench.rng.uniform(0, latest))
    except subprocess.TimeoutExpired:
        pass
    else:
        finish(both)
        return None
    began = time.monotonic()
    both[which].send_signal(number)
    others = both if number == signal.SIGTERM else [both[1 - which]]
    texts = [process.communicate() for process in others]
    seconds = time.monotonic() - began
    if number == signal.SIGSTOP:
        both[which].kill()
    finish([each for each in both if each not in others])
    printed = "".join(out for out, _ in texts)
    if "total steps with every trial" in printed:
        return None
    resumed = re.search(r"^resuming .* at (epoch .*)$", printed, re.MULTILINE)
    return {
        "signal": signal.Signals(number).name,
        "process": which,
        "codes": [process.returncode for process in others],
        "seconds": round(seconds, 2),
        "said": [err.strip().splitlines() for _, err in texts],
        "had_resumed_at": resumed[1] if resumed else None,
    }


def disturbed(
    bench: Bench, whole: tuple[Path, float], number: int, count: int
) -> dict[str, Any]:
    """So many faults of a kind, and how the runs ended that they were spread over."""
    events: list[dict[str, Any]] = []
    same: list[bool] = []
    while len(events) < count:
        workdir = bench.folder / f"{signal.Signals(number).name}{len(same)}"
        for _ in range(min(4, count - len(events))):
            which, latest = len(events) % 2, whole[1] / 2
            event = disturb(bench, workdir, number, which, latest)
            if event is None:
                break
            events.append(event)
            print(event, flush=True)
        done = not any(finish(start(bench, workdir)))
        same.append(done and state(workdir) == state(whole[0]))
    codes = [str(code) for event in events for code in event["codes"]]
    return {
        "signals": len(events),
        "runs": len(same),
        "runs_identical": sum(same),
        "codes": collections.Counter(codes),
        "one_line_each": all(len(x) == 1 for each in events for x in each["said"]),
        "longest_seconds": max(event["seconds"] for event in events),
        "events": events,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stops", type=int, default=5)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--freezes", type=int, default=3)
    parser.add_argument("--heartbeat", type=float, default=10.0)
    arguments = parser.parse_args()
    counts = {
        signal.SIGTERM: arguments.stops,
        signal.SIGKILL: arguments.kills,
        signal.SIGSTOP: arguments.freezes,
    }
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        bench = Bench(Path(folder), rng, arguments.heartbeat)
        whole = whole_run(bench)
        results: dict[str, Any] = {"heartbeat": arguments.heartbeat}
        for number, count in counts.items():
            result = disturbed(bench, whole, number, count)
            results[number.name] = result
            shown = {k: v for k, v in result.items() if k != "events"}
            print(number.name, shown, flush=True)
    path = ROOT / "benchmarks" / "results" / "faults" / "R3.json"
    record.write(path, ("jax", "orbax-checkpoint", "numpy"), results)


if __name__ == "__main__":
    main()
