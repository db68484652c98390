"""How cost grows with devices and epochs: constants, checks of the simulator, a plan.

    python benchmarks/scaling.py                # measures; some minutes on two cores
    python benchmarks/scaling.py plan           # anew from the constants of the record

Constants are measured with one process on one core, and all-reduces with some work
between them. From these alone the simulator predicts what is then measured: branches in
turn and in groups on 1, 2, 4 and 8 virtual devices of one process, which share two
cores, and in two processes with a core each. That is the least of several repeats, for
other programs may be running; the record has the load.

The plan is for ResNet-20 on CIFAR-10, a batch of 4,096, a device being a core of this
machine and a link that of its loopback. Rates of failure are assumptions.
"""

import argparse
import json
import math
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pairs
import record
import simulator
from archive import RESULTS, unpacked
from simulator import Machine

FILE = RESULTS / "scaling.json"
STEPS, REPEATS, BATCH = 12, 9, 128
ROUNDS, WORK = 15, 288  # sums of a program, and the size of the matrix between them
VIRTUAL = "--xla_force_host_platform_device_count"
CORES = (0, 1)  # the first two that this process may use, by their order
# Network of the checks and of the plan: size of the image, depth and width.
NETWORKS = {"twin": (16, 8, 8), "cifar10": (32, 20, 16)}


# What runs in a process of its own.


def make_trainer(job: dict[str, Any]) -> tuple[Any, Any]:
    """A trainer and its first state, on images of noise."""
    import jax

    from hyperdyn_jax import models, optimizers
    from hyperdyn_jax.data import dataset as data
    from hyperdyn_jax.training import train_step as steps
    from hyperdyn_jax.training import trainer as training

    size, depth, width = NETWORKS[job.get("network", "twin")]
    draw, batch = np.random.RandomState(0), job.get("batch", BATCH)

    def split(count: int) -> data.Split:
        images = draw.randint(0, 256, (count, size, size, 3)).astype(np.uint8)
        return data.Split(images, draw.randint(0, 10, count).astype(np.int32))

    dataset = data.ArrayDataset(
        *(split(count) for count in (STEPS * BATCH, BATCH, BATCH)),
        classes=10,
        batch_size=batch,
        eval_batch_size=BATCH,
        devices=jax.device_count(),
        seed=0,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    hparams = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
    trainer = training.Trainer(
        models.CifarResNet(10, depth=depth, width=width, axis_name=steps.AXIS),
        optimizers.create_optimizer("sgd", hparams),
        dataset,
        parallel=job.get("parallel", False),
    )
    return trainer, trainer.init(jax.random.key(0))


def train(job: dict[str, Any]) -> Any:
    """A function that trains some branches for some steps."""
    import jax

    trainer, state = make_trainer(job)
    branches, key = job.get("branches", 1), jax.random.key(1)
    settings = [{"learning_rate": np.float32(0.01)}] * branches

    def epoch(steps: int = job.get("steps", STEPS)) -> None:
        progress = trainer.begin([state] * branches, settings)
        jax.block_until_ready(trainer.train(progress, steps, key).states)

    return epoch


def reduce(job: dict[str, Any]) -> Any:
    """A function that sums so many floats over all devices, some work before each sum
    as in a training step; without `summed`, that does the work alone.

    A device that has just worked waits longer than one that only sums: for the others,
    and for threads that have gone to sleep.
    """
    import jax
    import jax.numpy as jnp

    def rounds(floats: Any, matrix: Any) -> Any:
        for _ in range(ROUNDS):
            matrix = jnp.tanh(matrix @ matrix)
            floats = floats + 1e-9 * matrix[0, 0]  # each waits for what came before it
            if job["summed"]:
                floats = jax.lax.psum(floats, "all")
            matrix = matrix + 1e-9 * floats[0]
        return floats, matrix

    program = jax.pmap(rounds, axis_name="all")
    count = jax.local_device_count()
    shapes = (count, job["floats"]), (count, WORK, WORK)
    held = jax.pmap(lambda *x: x)(*(np.full(s, 0.01, np.float32) for s in shapes))
    return lambda: jax.block_until_ready(program(*held))


def describe(job: dict[str, Any]) -> dict[str, Any]:
    """Bytes of a state, and of the all-reduces of a compiled step."""
    import jax

    trainer, state = make_trainer(job)
    place = trainer._layout(1)
    batch = place.put(trainer.dataset.train_batch(0))
    key = trainer.replicate(jax.random.key(1))
    step = place.step.lower(state, trainer._hold("train"), batch, key)
    shapes = re.findall(r"= (.*?) all-reduce\(", step.compile().as_text())
    sizes = [
        math.prod(map(int, filter(None, dims.split(","))))
        for shape in shapes
        for dims in re.findall(r"f32\[([\d,]*)\]", shape)
    ]
    return {
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "all_reduces": len(shapes),
        "all_reduced_bytes": 4 * sum(sizes),
    }


def work(job: dict[str, Any]) -> None:
    """The other end of `Workers`: says ready, then how long each repeat took."""
    from hyperdyn_jax.distributed import rendezvous, watchdog
    from hyperdyn_jax.distributed.place import place_of

    if job["processes"] > 1 and job.get("joined"):
        where = (f"127.0.0.1:{job['port']}", str(job["processes"]), str(job["process"]))
        rendezvous.join(place_of(*where), {})
    if job["what"] == "describe":
        print(json.dumps(describe(job)), flush=True)
        return
    function = {"train": train, "reduce": reduce}[job["what"]](job)
    function()  # compiles
    function()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        function()
        print(time.perf_counter() - start, flush=True)
    watchdog.leave(0)


# What starts them.


class Workers:
    """Processes that wait for each `run`.

    Args:
      cores: the cores of each process.
      devices: virtual devices of each.
      job: what they do, as `work` takes it.
    """

    def __init__(self, cores: Sequence[Sequence[int]], devices: int, **job: Any):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        own = sorted(os.sched_getaffinity(0))
        self._each = []
        for process, mine in enumerate(cores):
            place = {"process": process, "processes": len(cores), "port": port}
            environment = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"{VIRTUAL}={devices} {pairs.PLAIN}",
            }
            if devices > len(mine):
                environment["NPROC"] = str(devices)  # one thread a device, at least
            command = [sys.executable, __file__, "work", json.dumps(job | place)]
            one = subprocess.Popen(
                command,
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                preexec_fn=lambda mine=mine: os.sched_setaffinity(
                    0, {own[i % len(own)] for i in mine}
                ),
            )
            self._each.append(one)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: Any) -> None:
        for one in self._each:
            one.stdin.close()
        for one in self._each:
            one.wait()

    def line(self, number: int) -> str:
        """The next line of one that is JSON or a number, or "ready"."""
        for line in self._each[number].stdout:
            if line[0] in "{0123456789r":
                return line
        raise RuntimeError(f"process {number} ended with {self._each[number].wait()}")

    def run(self, repeats: int = REPEATS) -> list[float]:
        """Seconds of each repeat, of the process that takes the longest."""
        for number in range(len(self._each)):
            assert self.line(number) == "ready\n"
        times = []
        for _ in range(repeats):
            for one in self._each:
                one.stdin.write("go\n")
                one.stdin.flush()
            times.append(max(float(self.line(i)) for i in range(len(self._each))))
        return times


def timed(cores: Sequence[Sequence[int]], devices: int, **job: Any) -> list[float]:
    """Seconds of each repeat of a job."""
    with Workers(cores, devices, **job) as workers:
        return workers.run(job.pop("repeats", REPEATS))


ONE, BOTH, EACH = [CORES[:1]], [CORES], [CORES[:1], CORES[1:]]


def constants() -> dict[str, Any]:
    """What the simulator is told of this machine and of the networks."""
    networks = {}
    for name in NETWORKS:
        with Workers(BOTH, 2, what="describe", network=name) as workers:
            networks[name] = json.loads(workers.line(0))
    full = min(timed(ONE, 1, what="train")) / STEPS
    small = min(timed(ONE, 1, what="train", batch=BATCH // 4)) / STEPS
    slope = min((full - small) / (BATCH - BATCH // 4), full / BATCH)
    one_by_one = timed(ONE, 1, what="train", steps=1, repeats=100)
    usual = statistics.quantiles(one_by_one, n=10)[0]
    floats = networks["twin"]["all_reduced_bytes"] // 4
    links = {
        "virtual devices": link(BOTH, 2, floats),
        "processes": link(EACH, 1, floats, joined=True),
    }
    return {
        "networks": networks,
        "step_seconds": full,
        "work_seconds": slope * BATCH,
        "overhead_seconds": full - slope * BATCH,
        "jitter": statistics.fmean(one_by_one) / usual - 1,
        "links": links,
        "load": os.getloadavg()[0],
    }


def link(cores: Any, devices: int, floats: int, **job: Any) -> dict[str, float]:
    """Alpha and beta of an all-reduce between two devices."""

    def once(floats: int, summed: bool) -> float:
        each = timed(cores, devices, what="reduce", floats=floats, summed=summed, **job)
        return min(each) / ROUNDS

    alone, small, large = once(1, False), once(1, True), once(floats, True)
    # Two messages, and 2 (p - 1) / p = 1 times the bytes.
    beta = max(large - small, 0.0) / (4 * floats)
    return {"latency": max(small - alone, 0.0) / 2, "seconds_per_byte": beta}


def machine(known: dict[str, Any], kind: str, cores: int | None) -> Machine:
    """The two cores of this machine, as the simulator takes them."""
    twin, wire = known["networks"]["twin"], known["links"][kind]
    return Machine(
        work=known["work_seconds"],
        overhead=known["overhead_seconds"],
        latency=wire["latency"],
        seconds_per_byte=wire["seconds_per_byte"],
        gradient=twin["all_reduced_bytes"],
        sums=twin["all_reduces"],
        state=twin["state_bytes"],
        cores=cores,
    )


def checks(known: dict[str, Any]) -> list[dict[str, Any]]:
    """Two branches, measured and predicted."""
    rng = np.random.default_rng(0)  # nothing is drawn: the least times have no delays
    rows = []

    def row(case: str, predicted: float, times: list[float]) -> None:
        measured = min(times)
        error = predicted / measured - 1
        found = {"case": case, "measured": measured, "predicted": predicted}
        rows.append(found | {"error": error, "times": times})
        print(f"{case}: {measured:.2f} s, predicted {predicted:.2f} s ({error:+.0%})")

    def simulated(m: Machine, devices: int, branches: int, parallel: bool) -> float:
        got = simulator.decide(m, devices, branches, STEPS, 1, rng, parallel=parallel)
        return float(got[0])

    both = {"what": "train", "branches": 2}
    alone = machine(known, "processes", None)
    row("one core, in turn", simulated(alone, 1, 2, False), timed(ONE, 1, **both))
    # Two groups of one device, and nothing to exchange in the end.
    ideal = simulated(alone._replace(state=0.0, latency=0.0), 2, 2, True)
    row("two processes, a branch each", ideal, timed(EACH, 1, what="train"))
    joined = timed(EACH, 1, joined=True, **both)
    row("two processes, in turn", simulated(alone, 2, 2, False), joined)
    shared = machine(known, "virtual devices", len(CORES))
    for devices in (2, 4, 8):
        for parallel in (False, True):
            name = "in groups" if parallel else "in turn"
            times = timed(BOTH, devices, parallel=parallel, **both)
            predicted = simulated(shared, devices, 2, parallel)
            row(f"{devices} virtual devices, {name}", predicted, times)
    return rows


# The plan.

DEVICES = (1, 2, 8, 64, 512, 4096)
EPOCHS = (10, 100, 1000, 10_000)
PLAN_BATCH, TRAINED = 4096, 45_000
FAILURES = 2e-5  # of a device in an hour: 419 in 54 days of 16,384 (2407.21783, 3.3.4)
RESTART = 60.0  # seconds, assumed
SAVE_MINUTES = 10.0


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text())


def large(known: dict[str, Any]) -> Machine:
    """Cores like this one's that train ResNet-20 with a batch of 4,096."""
    speed = read("epoch.json")
    (row,) = [row for row in speed["results"] if row["config"] == "cifar10"]
    network, wire = known["networks"]["cifar10"], known["links"]["processes"]
    saved = read("faults/save.json")["results"]
    return Machine(
        work=PLAN_BATCH / row["ours_images_per_second"] * speed["cores"],
        overhead=known["overhead_seconds"],
        latency=wire["latency"],
        seconds_per_byte=wire["seconds_per_byte"],
        gradient=network["all_reduced_bytes"],
        sums=network["all_reduces"],
        state=network["state_bytes"],
        jitter=known["jitter"],
        failures=FAILURES,
        restart=RESTART,
        save=statistics.median(saved["blocking_seconds"]),
    )


def by_devices(m: Machine) -> list[dict[str, Any]]:
    """A decision between two branches of an epoch, and what failures add to 100."""
    steps, rows = TRAINED // PLAN_BATCH, []

    def seconds(devices: int, branches: int, parallel: bool) -> float:
        rng = np.random.default_rng(0)  # the same delays for all
        draws = simulator.decide(
            m, devices, branches, steps, 64, rng, parallel=parallel
        )
        return float(draws.mean())

    for devices in DEVICES:
        side = seconds(devices, 2, True)
        pieces = simulator.pieces_of(side, 100, 60 * SAVE_MINUTES)
        failing = simulator.with_failures(m, devices, pieces)
        rows.append(
            {
                "devices": devices,
                "step_seconds": simulator.step_time(m, devices),
                "efficiency": m.work / devices / simulator.step_time(m, devices),
                "in_turn_seconds": seconds(devices, 2, False),
                "in_groups_seconds": side,
                "four_in_turn_seconds": seconds(devices, 4, False),
                "four_in_groups_seconds": seconds(devices, 4, True),
                "step_bytes": simulator.traffic(devices, m.gradient),
                "decision_bytes": m.state * (simulator.groups(m, devices, 2) > 1),
                "failures_add": failing / (100 * side) - 1,
            }
        )
    return rows


def by_epochs(m: Machine) -> list[dict[str, Any]]:
    """What the tuner and its files take over a run of the paper's method."""
    decided = read("decision.json")["results"]
    two_axes = [row for row in decided["decision"] if row["d"] == 2]
    sizes, ms = (np.log([row[x] for row in two_axes]) for x in ("n", "hyperdyn_ms"))
    files = list((unpacked("twin") / "hyperdyn").glob("seed*/*.jsonl"))
    written = sum(file.stat().st_size for file in files)
    rows_of = sum(len(f.read_text().splitlines()) for f in files) / 2
    rows = []
    for epochs in EPOCHS:
        seen = np.minimum(decided["run"]["capacity"], 5 + 2 * np.arange(epochs))
        seconds = np.exp(np.interp(np.log(seen), sizes, ms)).sum() / 1e3
        training = 2 * epochs * (TRAINED // PLAN_BATCH) * simulator.step_time(m, 8)
        rows.append(
            {
                "epochs": epochs,
                "observations": int(seen[-1]),
                "decisions_seconds": float(seconds),
                "share_on_8": float(seconds / (seconds + training)),
                "file_bytes": written / rows_of * epochs,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["plan", "work"])
    parser.add_argument("job", nargs="?", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "work":
        work(json.loads(arguments.job))
        return
    if arguments.what == "plan":
        measured = json.loads(FILE.read_text())
        results = measured["results"]
    else:
        results = {"steps": STEPS, "constants": constants()}
        results["checks"] = checks(results["constants"])
        record.write(FILE, ("jax", "numpy"), results)
        measured = json.loads(FILE.read_text())
    m = large(results["constants"])
    results |= {"machine": m._asdict()}
    results |= {"by_devices": by_devices(m), "by_epochs": by_epochs(m)}
    FILE.write_text(json.dumps(measured | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
