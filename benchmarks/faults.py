"""What can happen to a run: kills, signals, damage, full disks, numbers that diverge.

    python benchmarks/faults.py [--rows=R1,R2,...] [--data_dir=DIR]

Each row of the README's table of faults, and its raw record in results/faults/:

  R1   100 SIGKILLs at random moments of three runs of the CPU twin of CIFAR-10 (of the
       digits without --data_dir), saved every epoch, every 0.3 s, at every step
  R2   20 SIGTERMs and Ctrl-Cs in turn
  R4   1,000 flipped bits in the files of a checkpoint
  R5   every file of a checkpoint truncated, emptied, deleted; torn last lines; a disk
       that is full for a while (a tmpfs, which takes root)
  R6   runs that go on with another number of devices, or with other settings
  R7   20 NaNs at random steps; learning rates 100x too high; ranges where all diverges
  R10  the same seed twice; runs stopped and resumed at 50 random batches
  save the time that a save of 200 MB holds up a run, and that of its digests

A run that was disturbed has to end with every row but its seconds, and every bit of the
last checkpoint, as the same run left alone.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import record
from strategies import load_config

from hyperdyn_jax import DivergedError, loop
from hyperdyn_jax.commands import cli
from hyperdyn_jax.run import checkpoints
from hyperdyn_jax.run.checkpoints import Checkpoints
from hyperdyn_jax.run.console import Display
from hyperdyn_jax.system import signals

ROOT = Path(__file__).resolve().parents[1]
SAVE_MINUTES = (10.0, 0.005, 0.0)  # of three runs, of a seed each


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


def start(
    bench: Bench, workdir: Path, seed: int, *more: str, devices: int = 1
) -> subprocess.Popen[str]:
    """Runs train.py up to the line from which on it can be stopped."""
    # Every process would compile the same programs again, and be killed at that.
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(bench.folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    saving = f"--config.save_minutes={SAVE_MINUTES[seed % len(SAVE_MINUTES)]}"
    flags = [*bench.flags, f"--config.seed={seed}", saving, f"--workdir={workdir}"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *flags, *more],
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
        if line.startswith(("epoch", "step")) and not first:
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
    rows = metrics(workdir)
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
    where = r"^resuming .* at epoch (\d+)(?:, step (\d+))?$"
    resumed = re.search(where, out, re.MULTILINE)
    return {
        "signal": signal.Signals(number).name,
        "code": process.returncode,
        "seconds": round(seconds, 2),
        "said": out.strip().splitlines()[-1:],
        # Of epochs that could be read in metrics.jsonl; None: it did not come that far.
        "lost": max(0, rows - int(resumed[1])) if resumed else None,
        "inside_epoch": bool(resumed and resumed[2]),
        "uncounted_rows": max(0, metrics(workdir) - facts(workdir).get("epoch", 0)),
    }


def newest(workdir: Path) -> int:
    """The number of the newest checkpoint."""
    names = [path.name for path in workdir.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def facts(workdir: Path) -> dict[str, Any]:
    """Of the newest checkpoint."""
    file = workdir / "checkpoints" / str(newest(workdir)) / "facts.json"
    return json.loads(file.read_text())["facts"] if file.exists() else {}


def metrics(workdir: Path) -> int:
    """Number of rows of metrics.jsonl."""
    file = workdir / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def interrupted(bench: Bench, count: int, signals: Sequence[int]) -> dict[str, Any]:
    """So many interruptions, and how the runs ended that they were spread over."""
    wholes = [whole_run(bench, seed) for seed in range(len(SAVE_MINUTES))]
    events: list[dict[str, Any]] = []
    same: list[bool] = []
    share = -(-count // len(wholes))
    while len(events) < count:
        seed = len(same) % len(wholes)
        workdir = bench.folder / f"{signal.Signals(signals[0]).name}{len(same)}"
        first = min(whole.seconds[0] for whole in wholes)  # compiled before
        others = wholes[seed].seconds[1]
        for _ in range(min(share, count - len(events))):
            number = signals[len(events) % len(signals)]
            latest = first + 2 * others / share
            if (event := interrupt(bench, workdir, seed, number, latest)) is None:
                break
            events.append(event)
        same.append(finish(bench, workdir, seed) and equal(workdir, wholes[seed]))
        print(f"{len(events)} of {count}, identical: {same}", flush=True)
    lost = [event["lost"] for event in events if event["lost"] is not None]
    return {
        "signals": len(events),
        "runs": len(same),
        "runs_identical": sum(same),
        "epochs_lost": sum(lost),
        "uncounted_rows": sum(event["uncounted_rows"] for event in events),
        "resumed_inside_an_epoch": sum(event["inside_epoch"] for event in events),
        "codes": collections.Counter(str(event["code"]) for event in events),
        "longest_seconds": max(event["seconds"] for event in events),
        "events": events,
    }


def finish(
    bench: Bench, workdir: Path, seed: int, *more: str, devices: int = 1
) -> bool:
    """Lets a run go on to its end; whether it exits with 0."""
    process = start(bench, workdir, seed, *more, devices=devices)
    process.stdout.read()
    return process.wait() == 0


def equal(workdir: Path, whole: Whole) -> bool:
    return state(workdir) == state(whole.workdir)


def state(workdir: Path) -> Any:
    """All that has to be the same: rows but for seconds, and the last checkpoint."""
    logs = [
        [json.loads(line) for line in (workdir / log).read_text().splitlines()]
        for log in ("decisions.jsonl", "metrics.jsonl")
    ]
    for row in logs[1]:
        del row["seconds"], row["trial_seconds"]
    return logs, restored(workdir / "checkpoints")


def restored(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Facts and arrays, as dtype, shape and bytes, of the newest good checkpoint."""
    store = Checkpoints(folder)
    facts = store.latest() or {}
    facts.pop("last_rows", None)  # of the logs, with their seconds
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


def stopped(
    bench: Bench, workdir: Path, seed: int, *more: str, devices: int = 1
) -> int:
    """Starts a run and stops it after its third epoch; the exit code."""
    process = start(bench, workdir, seed, *more, devices=devices)
    epochs = 0
    for line in process.stdout:
        if line.startswith(("epoch", "step")):
            epochs += 1
            if epochs == 3:
                process.send_signal(signal.SIGTERM)
    return process.wait()


def torn(bench: Bench, whole: Whole) -> dict[str, Any]:
    """Half a row at the end of each log."""
    workdir = bench.folder / "torn"
    stopped(bench, workdir, 0)
    for log in ("decisions.jsonl", "metrics.jsonl"):
        with (workdir / log).open("a") as file:
            file.write('{"epoch": 3, "tri')
    return {"finished": finish(bench, workdir, 0), "identical": equal(workdir, whole)}


def full_disk(bench: Bench, whole: Whole) -> dict[str, Any]:
    """A run on a disk that somebody fills after its third epoch, and later empties."""
    disk = bench.folder / "disk"
    disk.mkdir()
    size = sum(file.stat().st_size for file in files(whole.workdir / "checkpoints"))
    room = 4 * size + 2 * checkpoints.MARGIN + 2**20
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        return {"measured": False, "why": "a tmpfs could not be mounted"}
    try:
        workdir = disk / "run"
        process = start(bench, workdir, 0)
        epochs, lines = 0, []
        for line in process.stdout:
            lines.append(line)
            epochs += line.startswith(("epoch", "step"))
            if epochs == 3 and not (disk / "filler").exists():
                fill(disk / "filler")
        code = process.wait()
        good = restored(workdir / "checkpoints")[0]["rows"]["decisions"]
        (disk / "filler").unlink()
        return {
            "measured": True,
            "code": code,
            "warnings": [line.strip() for line in lines if "warning" in line],
            "said": lines[-1].strip(),
            "good_decisions_at_the_end": good,
            "finished_with_room": finish(bench, workdir, 0),
            "identical": equal(workdir, whole),
        }
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(file: Path) -> None:
    """Takes what is left of a disk."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(2**12))


def other_devices(bench: Bench) -> dict[str, Any]:
    """Runs stopped on so many devices that go on with others, and the rows of before.

    The values at the resume are those that were saved: the run writes down nothing
    else, and a test compares them to the bit.
    """
    results = {}
    for before, after in ((8, 1), (1, 8), (4, 2)):
        workdir = bench.folder / f"devices{before}_{after}"
        code = stopped(bench, workdir, 0, devices=before)
        rows = (workdir / "decisions.jsonl").read_bytes()
        results[f"{before} -> {after}"] = {
            "stopped_with": code,
            "finished": finish(bench, workdir, 0, devices=after),
            "rows_kept": (workdir / "decisions.jsonl").read_bytes().startswith(rows),
        }
    return results


CHANGES = {
    "model": "--config.model.width=4",
    "optimizer": "--config.optimizer.weight_decay=0.5",
    "search space": "--config.search_space.learning_rate.high=0.4",
    "data": "--config.pad=1",
    "length": "--config.epochs=99",
}


def changed(bench: Bench) -> dict[str, Any]:
    """Settings that a stopped run is given when it should go on."""
    workdir = bench.folder / "changed"
    stopped(bench, workdir, 0)
    before = {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file()}
    results = {}
    for name, flag in CHANGES.items():
        flags = [*bench.flags, "--config.seed=0", f"--workdir={workdir}", flag]
        done = subprocess.run(
            [sys.executable, "train.py", *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        after = {f: f.read_bytes() for f in workdir.rglob("*") if f.is_file()}
        results[name] = {
            "code": done.returncode,
            "said": done.stderr.replace(str(workdir), "RUN").strip().splitlines(),
            "nothing_changed": before == after,
        }
    return results


def short_config(**changes: Any) -> dict[str, Any]:
    """Of a run of seconds: the characters, with the paper's method."""
    config = load_config("characters")
    config.update(batch_size=2048, eval_batch_size=2048, epochs=4, strategy="hyperdyn")
    config.model.width = 8
    config.update(changes)
    return config.to_dict()


STOPPED = -1


class Quiet(Display):
    """Says nothing."""

    def say(self, line: str) -> None:
        pass


class Watched(loop.Trainer):
    """Counts the batches of training and evaluation, of every run of this process.

    spoil: given that count at a step, whether its weights become NaN.
    stop_at: the count at which a signal comes.
    """

    count = 0
    stop_at = np.inf
    spoil: Callable[[int], bool] = staticmethod(lambda _: False)

    def __init__(self, *args: Any):
        super().__init__(*args)
        place = self._layout(1)
        step = place.step

        def spoiled(*args: Any) -> Any:
            state, loss = step(*args)
            if not Watched.spoil(Watched.count):
                return state, loss
            nan = jax.tree.map(lambda x: x * np.float32(np.nan), state.params)
            return state._replace(params=self.replicate(nan)), loss

        place.step = spoiled

    def _send(self, *batch: Any) -> Any:
        Watched.count += 1
        signals._asked = Watched.count >= Watched.stop_at
        return super()._send(*batch)


def watched(
    config: dict[str, Any],
    workdir: Path,
    spoil: Callable[[int], bool] = lambda _: False,
    stop_at: float = np.inf,
) -> int:
    """Runs in this process, to its end or to the stop; returns the exit code."""
    Watched.count, Watched.stop_at, Watched.spoil = 0, stop_at, staticmethod(spoil)
    loop.Trainer = Watched
    try:
        loop.train_and_evaluate(config, workdir, Quiet())
    except KeyboardInterrupt:
        return STOPPED
    except DivergedError:
        return cli.DIVERGED
    finally:
        signals._asked = False
    return cli.DONE


def spoiled(bench: Bench, count: int) -> dict[str, Any]:
    """NaNs in the weights after a random step, of one branch or of two in turn."""
    watched(short_config(), bench.folder / "unspoiled")
    batches, codes, seen, bad_numbers = Watched.count, [], 0, 0
    for i in range(count):
        where = int(bench.rng.integers(3, batches))
        left = [1 + i % 2]  # branches of that batch, at most

        def spoil(number: int, where: int = where, left: list[int] = left) -> bool:
            if number < where or not left[0]:
                return False
            left[0] -= 1
            return True

        workdir = bench.folder / f"spoiled{i}"
        codes.append(watched(short_config(), workdir, spoil))
        rows = [json.loads(x) for x in (workdir / "decisions.jsonl").open()]
        seen += any(None in row["scores"] for row in rows)
        models = [row["gp"] for row in rows if row["gp"]]
        bad_numbers += json.dumps(models).count("null")
        print(f"R7: {i + 1} of {count}, codes {collections.Counter(codes)}", flush=True)
    return {
        "injections": count,
        "finished": codes.count(0),
        "recorded_as_infeasible": seen,
        "numbers_of_the_model_not_finite": bad_numbers,
    }


RATES = {
    "range 100x too high": [
        "--config.strategy=hyperdyn",
        "--config.search_space.learning_rate.low=0.3",
        "--config.search_space.learning_rate.high=50.0",
    ],
    "base 100x too high": [
        "--config.optimizer.learning_rate=5.0",
        "--config.search_space.learning_rate.high=50.0",
    ],
    "cosine 100x too high": [
        "--config.strategy=cosine",
        "--config.optimizer.learning_rate=5.0",
    ],
    "every random start diverges": [
        "--config.strategy=hyperdyn",
        "--config.search_space.learning_rate.low=1e30",
        "--config.search_space.learning_rate.high=1e32",
    ],
    "cosine 20,000x too high": [
        "--config.strategy=cosine",
        "--config.optimizer.learning_rate=1e4",
    ],
}


def too_high(bench: Bench) -> dict[str, Any]:
    """Learning rates at which a network diverges or nearly so, on the digits."""
    results = {}
    for i, (name, flags) in enumerate(RATES.items()):
        workdir = bench.folder / f"rates{i}"
        process = start(bench, workdir, 0, *flags)
        out = process.stdout.read()
        rows = [json.loads(x) for x in (workdir / "decisions.jsonl").open()]
        results[name] = {
            "code": process.wait(),
            "diverged_branches": sum(row["scores"].count(None) for row in rows),
            "rollbacks": [row["rollback"] for row in rows if row["rollback"]],
            "said": out.replace(str(workdir), "RUN").strip().splitlines()[-4:],
        }
    return results


def resumed(bench: Bench, count: int) -> dict[str, Any]:
    """The same seed twice, and runs that are stopped at random batches and resumed."""
    config = short_config()
    wholes = [bench.folder / name for name in ("once", "twice")]
    codes = [watched(config, whole) for whole in wholes]
    states = [state(whole) for whole in wholes]
    stops, same, inside = 0, [], 0
    while stops < count:
        workdir = bench.folder / f"resumed{len(same)}"
        while watched(config, workdir, stop_at=bench.rng.integers(2, 60)) == STOPPED:
            stops += 1
            inside += facts(workdir).get("pending") is not None
        same.append(state(workdir) == states[0])
        print(f"R10: {stops} of {count} stops, identical: {same}", flush=True)
    return {
        "same_seed_twice": codes == [0, 0] and states[0] == states[1],
        "stops": stops,
        "inside_an_epoch": inside,
        "runs": len(same),
        "runs_identical": sum(same),
    }


def saving(bench: Bench) -> dict[str, Any]:
    """Seconds for a state of 200 MB in 50 arrays, five times each."""
    rng = np.random.default_rng(0)
    arrays = {
        str(i): jax.device_put(rng.standard_normal(10**6, np.float32))
        for i in range(50)
    }
    store = Checkpoints(bench.folder / "large")
    store.save(arrays, {})  # the first is waited for
    blocking, digests = [], []
    for _ in range(5):
        began = time.perf_counter()
        store.save(arrays, {})
        blocking.append(time.perf_counter() - began)
        store._future.result()
        host = jax.device_get(arrays)
        began = time.perf_counter()
        for array in host.values():
            checkpoints._digest(array)
        digests.append(time.perf_counter() - began)
    store.close()
    return {"megabytes": 200, "blocking_seconds": blocking, "digest_seconds": digests}


def rows(bench: Bench, twin: Bench) -> dict[str, Callable[[], Any]]:
    """What measures each row of the table."""

    def whole() -> Whole:
        there = bench.folder / "whole0"
        return Whole(there, (0.0, 0.0)) if there.exists() else whole_run(bench, 0)

    def checkpoint() -> Path:
        return whole().workdir / "checkpoints"

    return {
        "R1": lambda: interrupted(twin, 100, [signal.SIGKILL]),
        "R2": lambda: interrupted(twin, 20, [signal.SIGTERM, signal.SIGINT]),
        "R4": lambda: damaged(checkpoint(), flips(checkpoint(), 1000, bench.rng)),
        "R5": lambda: {
            "files": damaged(checkpoint(), cuts(checkpoint())),
            "torn": torn(bench, whole()),
            "full_disk": full_disk(bench, whole()),
        },
        "R6": lambda: {"devices": other_devices(bench), "changes": changed(bench)},
        "R7": lambda: {"spoiled": spoiled(bench, 20), "rates": too_high(bench)},
        "R10": lambda: resumed(bench, 50),
        "save": lambda: saving(bench),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="R1,R2,R4,R5,R6,R7,R10,save")
    parser.add_argument("--data_dir", help="of CIFAR-10, for R1 and R2")
    arguments = parser.parse_args()
    flags = ["--config=configs/digits.py", "--config.batch_size=64"]
    twin = flags
    if arguments.data_dir:
        data_dir = Path(arguments.data_dir).absolute()
        twin = ["--config=configs/cifar10_twin.py", f"--config.data_dir={data_dir}"]
    rng = np.random.default_rng(0)
    for name in arguments.rows.split(","):
        with tempfile.TemporaryDirectory() as folder:
            benches = (Bench(Path(folder), each, rng) for each in (flags, twin))
            jax.config.update("jax_compilation_cache_dir", f"{folder}/in_process")
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            result = rows(*benches)[name]()
        path = ROOT / "benchmarks" / "results" / "faults" / f"{name}.json"
        record.write(path, ("jax", "orbax-checkpoint", "numpy"), result)
        print(name, {k: v for k, v in result.items() if k != "events"}, flush=True)


if __name__ == "__main__":
    main()
