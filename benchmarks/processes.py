"""P11: one network trained by 1, 2 and 4 processes, the batch growing with them.

    python benchmarks/processes.py

Processes on this machine meet over loopback as --coordinator makes them, each with one
device, its own core where there are enough, and a fixed number of images a step. In
turn in one run: the step with all of them, and the step of each alone on as many images
(the peer, which exchanges nothing). Their ratio is the efficiency; it does not depend
on how many cores the processes share. That all end a step with the same parameters is
checked, and that its loss is the mean of what each one has alone. The bytes exchanged
are counted in the compiled step, and beside them stand those of the gradients, which
have to be exchanged.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pairs
import record
from hyperdyn_jax.data.dataset.dataset import ArrayDataset, Split
from hyperdyn_jax.training.trainer.train_step import AXIS
from hyperdyn_jax.training.trainer.trainer import Trainer

from hyperdyn_jax import optimizers
from hyperdyn_jax.distributed import collectives, rendezvous, watchdog
from hyperdyn_jax.distributed.place import place_of
from hyperdyn_jax.models import CifarResNet

RESULTS = Path(__file__).with_name("results")
COUNTS = (1, 2, 4)
NORMS = {"of each device": None, "over all devices": AXIS}
HPARAMS = {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
BYTES = {"f32": 4, "bf16": 2, "u32": 4, "s32": 4}


def dataset(batch: int, index: int, count: int, alone: bool) -> ArrayDataset:
    """One batch of noise: all of it with the others, or this process's part alone."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch * count, 32, 32, 3)).astype(np.uint8)
    whole = Split(images, rng.integers(0, 10, batch * count).astype(np.int32))
    size, place = batch * count, {"host": index, "hosts": count, "devices": count}
    train = whole
    if alone:
        order = ArrayDataset(
            *[whole] * 3, classes=10, batch_size=size, eval_batch_size=size, seed=0,
            **place,
        ).train_batch(0)  # fmt: skip
        train = Split(images[order.examples], whole.labels[order.examples])
        size, place = batch, {"devices": 1}
    made = ArrayDataset(
        train, whole, whole, classes=10, batch_size=size, eval_batch_size=size, seed=0,
        **place,
    )  # fmt: skip
    # Normalised alike, so that a part is the same images as in the whole.
    made._mean, made._stddev = np.float32([127.5] * 3), np.float32([73.9] * 3)
    return made


class Way:
    """A step, run some times; with all processes or alone."""

    def __init__(self, data: ArrayDataset, norm: str | None, devices: Sequence[Any]):
        model = CifarResNet(num_classes=10, axis_name=norm)
        optimizer = optimizers.create_optimizer("sgd", HPARAMS)
        self._trainer = trainer = Trainer(model, optimizer, data, devices)
        self._place = place = trainer._layout(1)
        self._first = trainer.init(jax.random.key(0))
        self._rest = (
            trainer._hold("train"),
            place.put(data.train_batch(0)),
            place.hold(trainer.replicate(jax.random.key(1))),
        )

    def run(self, steps: int) -> tuple[Any, float]:
        """The parameters and the first step's loss."""
        (state,), losses = self._place.pack([self._first]), []
        for _ in range(steps):
            state, loss = self._place.step(state, *self._rest)
            losses.append(loss)
        return jax.block_until_ready(state.params), float(losses[0])

    def text(self) -> str:
        """The compiled step."""
        (state,) = self._place.pack([self._first])
        return self._place.step.lower(state, *self._rest).compile().as_text()

    def gradients(self) -> int:
        """Their bytes, as many as those of the parameters."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._first.params))


def exchanged(program: str) -> tuple[int, int, int]:
    """All-reduces of a compiled program, their arrays, and the bytes in them."""
    found = re.findall(r"= (.*?) all-reduce\(", program)
    arrays = [a for kind in found for a in re.findall(r"(\w+)\[([\d,]*)\]", kind)]
    sizes = [
        BYTES[dtype] * int(np.prod([int(n) for n in dims.split(",") if n]))
        for dtype, dims in arrays
    ]
    return len(found), len(arrays), sum(sizes)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One process's part in the comparison."""
    index, count = jax.process_index(), arguments.processes
    norm = NORMS[arguments.norm]
    batch, steps = arguments.batch, arguments.steps
    together = Way(dataset(batch, index, count, False), norm, collectives.devices())
    alone = Way(dataset(batch, index, count, True), None, jax.local_devices())
    params, loss = together.run(1)
    own = collectives.union([json.dumps([index, alone.run(1)[1]])])
    if norm is None:
        mean = np.mean([json.loads(line)[1] for line in own])
        np.testing.assert_allclose(loss, mean, rtol=1e-4)
    digest = zlib.crc32(
        b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(params))
    )
    if len(collectives.union([str(digest)])) != 1:
        raise AssertionError("the processes have different parameters")

    def beginning_together(way: Way) -> Callable[[], Any]:
        return lambda: way.run(steps)

    ways = {"ours": beginning_together(together), "peer": beginning_together(alone)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for pair in range(arguments.pairs):
        for name in list(ways) if pair % 2 else reversed(ways):
            collectives.any_of(False)  # all begin at once
            times[name].append(pairs.seconds(ways[name]) / steps)
    # A step is over when the slowest process is through with it.
    lines = [json.loads(x) for x in collectives.union([json.dumps([index, times])])]
    times = {name: np.max([x[1][name] for x in lines], 0).tolist() for name in ways}
    reduces, arrays, nbytes = exchanged(together.text()) if count > 1 else (0, 0, 0)
    return {
        "processes": count,
        "norm": arguments.norm,
        "pairs": arguments.pairs,
        "images_a_process": batch,
        "cores": arguments.cores,
        "step_ms": 1e3 * float(np.median(times["ours"])),
        "alone_ms": 1e3 * float(np.median(times["peer"])),
        **pairs.compare(times["ours"], times["peer"]),
        "all_reduces": reduces,
        "arrays": arrays,
        "bytes_exchanged": nbytes,
        "gradient_bytes": together.gradients(),
        "seconds": times,
    }


def child(arguments: argparse.Namespace) -> int:
    """One of the processes; the first prints what was measured."""
    where = place_of(
        arguments.coordinator, str(arguments.processes), str(arguments.process)
    )
    if where is not None:
        rendezvous.join(where, "processes")
    row = measure(arguments)
    if arguments.process == 0:
        print(json.dumps(row), flush=True)
    return watchdog.leave(0)


def group(arguments: argparse.Namespace, count: int, norm: str) -> dict[str, Any]:
    """So many processes, each on a core of its own while there are some."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cores = sorted(os.sched_getaffinity(0))
    words = [sys.executable, __file__, f"--coordinator={address}", f"--norm={norm}"]
    words += [f"--processes={count}", f"--cores={min(count, len(cores))}"]
    words += [f"--{x}={getattr(arguments, x)}" for x in ("batch", "steps", "pairs")]
    started = [
        subprocess.Popen(
            [*words, f"--process={index}"],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": pairs.PLAIN},
            preexec_fn=lambda i=index: os.sched_setaffinity(0, {cores[i % len(cores)]}),
            stdout=subprocess.PIPE,
        )
        for index in range(count)
    ]
    output = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{count} processes did not end as they should")
    return json.loads(output[0].splitlines()[-1])  # Gloo prints too


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images a process")
    parser.add_argument("--steps", type=int, default=4, help="of each timing")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--output", type=Path, default=RESULTS / "processes.json")
    for name in ("coordinator", "norm"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name in ("processes", "process", "cores"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process is not None:
        return child(arguments)
    rows = []
    for norm in NORMS:
        for count in COUNTS:
            rows.append(group(arguments, count, norm))
            print({k: x for k, x in rows[-1].items() if k != "seconds"}, flush=True)
    record.write(arguments.output, ("jax", "flax", "optax"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
