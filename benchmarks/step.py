"""P4: one training step of a ResNet-20 on the CPU against PyTorch's.

    pip install -e ".[bench]"
    python benchmarks/step.py

Batch 128 of 32x32 pixels, SGD with momentum, the same weights and the same batch, in
turn in one process. Here: the step as the loop runs it, which also takes the batch out
of the data and normalises it. There: eager PyTorch, channels_last. That the losses of
the first steps agree is checked. Once as the loop compiles it, with
`layout.compiler_options`, and once as XLA does by itself, in a process whose XLA_FLAGS
say so; each on one core, by the processor's own time, which others on the machine take
little from, and on all that there are, by the clock. Beside it the limit: float32
matrix products as fast as these cores do them, and nothing else.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pairs
import record
import torch

from hyperdyn_jax import optimizers
from hyperdyn_jax.data.dataset import ArrayDataset, Split
from hyperdyn_jax.models import CifarResNet
from hyperdyn_jax.training import branch_parallel
from hyperdyn_jax.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch_networks  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
BATCH, RATE, MOMENTUM, DECAY = 128, 0.05, 0.9, 1e-4
CHECKED = 3  # steps whose losses are compared
GFLOP = 0.243  # of a training step, an image: 3 x 2 x 40.6 M multiplications
# Height and width, channels, filters, stride, and how many of them the network has.
SHAPES = [
    (32, 3, 16, 1, 1),
    (32, 16, 16, 1, 6),
    (32, 16, 32, 2, 1),
    (16, 32, 32, 1, 5),
    (16, 32, 64, 2, 1),
    (8, 64, 64, 1, 5),
]
PARTS = ("forward", "gradient of the input", "gradient of the filter")
# What `system.memory` asks for, by variables: PyTorch's threads start at its import.
KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
# XLA's flags, and whether freed memory is kept.
CASES = {
    "as the loop runs it": ("", True),
    "memory mapped anew": ("", False),
    "XLA by itself": (pairs.PLAIN, False),
}


def data() -> ArrayDataset:
    """One batch of noise, which is all that a step needs."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 32, 32, 3)).astype(np.uint8)
    split = Split(images, rng.integers(0, 10, BATCH).astype(np.int32))
    return ArrayDataset(
        split,
        split,
        split,
        classes=10,
        batch_size=BATCH,
        eval_batch_size=BATCH,
        devices=1,
        seed=0,
    )


def ours(dataset: ArrayDataset, network: torch.nn.Module) -> Callable[[], float]:
    """A step of the loop's own, which gives its loss."""
    hparams = {"learning_rate": RATE, "momentum": MOMENTUM, "weight_decay": DECAY}
    optimizer = optimizers.create_optimizer("sgd", hparams)
    trainer = Trainer(CifarResNet(num_classes=10), optimizer, dataset)
    place = trainer._layout(1)
    fresh = trainer.init(jax.random.key(0))
    variables = trainer.replicate(torch_networks.copied(network))
    (state,) = place.pack([fresh._replace(**variables)])
    resident, batch = trainer._hold("train"), place.put(dataset.train_batch(0))
    key = place.hold(trainer.replicate(jax.random.key(1)))

    def step() -> float:
        nonlocal state
        state, loss = place.step(state, resident, batch, key)
        return float(loss)

    return step


def peer(dataset: ArrayDataset, network: torch.nn.Module) -> Callable[[], float]:
    """The same step in PyTorch, on the batch as the other one sees it."""
    index = dataset.train_batch(0).examples
    images, labels = dataset.load(dataset.resident("train"), index, None)
    # The transposed view of [n, h, w, c] has the strides of channels_last already.
    images = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)
    labels = torch.tensor(np.asarray(labels)).long()
    network = network.to(memory_format=torch.channels_last).train()
    kernels = [x for x in network.parameters() if x.ndim > 1]
    vectors = [x for x in network.parameters() if x.ndim == 1]  # which do not decay
    groups = [{"params": kernels, "weight_decay": DECAY}, {"params": vectors}]
    optimizer = torch.optim.SGD(groups, RATE, MOMENTUM)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def page_faults(step: Callable[[], float]) -> int:
    """Pages that the system hands out anew in a step after steps of the same kind."""

    def of_a_step() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        step()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    return [of_a_step() for _ in range(CHECKED)][-1]


def gemm(clock: pairs.Clock) -> float:
    """GFLOP/s of float32 matrix products, by the faster of both libraries."""
    size = 2048
    matrix = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    there, here = torch.tensor(matrix), jax.numpy.asarray(matrix)
    multiply = jax.jit(lambda x: x @ x)
    ways = [lambda: multiply(here).block_until_ready(), lambda: there @ there]
    best = min(pairs.seconds(way, clock) for way in ways for _ in range(6))
    return 2 * size**3 / best / 1e9


def convolutions(clock: pairs.Clock) -> dict[str, dict[str, float]]:
    """Milliseconds of all 3x3 convolutions of a step, in both libraries, by part.

    The gradient of the images themselves is not computed in training.
    """
    total = {side: dict.fromkeys(PARTS, 0.0) for side in ("ours", "peer")}
    for shape in SHAPES:
        ways = {
            "ours": our_convolution(*shape[:4]),
            "peer": their_convolution(*shape[:4]),
        }
        for side, parts in ways.items():
            for part, run in zip(PARTS, parts, strict=True):
                if shape[1] == 3 and part == PARTS[1]:
                    continue
                times = [pairs.seconds(run, clock) for _ in range(6)][1:]
                total[side][part] += 1e3 * shape[4] * statistics.median(times)
    return total


def our_convolution(size: int, channels: int, filters: int, stride: int) -> list[Any]:
    """The parts of one, as calls."""
    rng = np.random.default_rng(0)

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def pull(index: int, x: jax.Array, kernel: jax.Array, change: jax.Array) -> Any:
        return jax.vjp(convolve, x, kernel)[1](change)[index]

    x = rng.normal(size=(BATCH, size, size, channels)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, channels, filters)).astype(np.float32)
    x, kernel = jax.device_put((x, kernel))
    change = convolve(x, kernel)
    compiled = functools.partial(branch_parallel.compiled, devices=jax.devices())
    pulls = [compiled(functools.partial(pull, index)) for index in (0, 1)]
    forward = compiled(convolve)
    return [
        lambda: forward(x, kernel).block_until_ready(),
        lambda: pulls[0](x, kernel, change).block_until_ready(),
        lambda: pulls[1](x, kernel, change).block_until_ready(),
    ]


def their_convolution(size: int, channels: int, filters: int, stride: int) -> list[Any]:
    """The same in PyTorch."""
    last = {"memory_format": torch.channels_last}
    x = torch.randn(BATCH, channels, size, size).contiguous(**last)
    kernel = torch.randn(filters, channels, 3, 3).contiguous(**last)
    change = torch.conv2d(x, kernel, None, stride, 1)

    def pull(*which: bool) -> Any:
        steps, pads = [stride] * 2, [1, 1]
        return torch.ops.aten.convolution_backward(
            change, x, kernel, None, steps, pads, [1, 1], False, [0, 0], 1, which
        )

    return [
        lambda: torch.conv2d(x, kernel, None, stride, 1),
        lambda: pull(True, False, False),
        lambda: pull(False, True, False),
    ]


def measure(count: int) -> dict[str, Any]:
    """Rates of both in images a second, and their ratio, pair by pair."""
    cores = len(os.sched_getaffinity(0))
    clock = time.process_time if cores == 1 else time.perf_counter
    torch.set_num_threads(cores)
    torch.manual_seed(0)
    network = torch_networks.torch_cifar(10, 20, 16, "A")
    dataset = data()
    ways = {"ours": ours(dataset, network), "peer": peer(dataset, network)}
    losses = {name: [step() for _ in range(CHECKED)] for name, step in ways.items()}
    np.testing.assert_allclose(losses["ours"], losses["peer"], rtol=2e-3)
    faults = page_faults(ways["ours"])
    times = pairs.in_turn(ways, count, clock)
    flops = gemm(clock)
    return {
        "cores": cores,
        "clock": clock.__name__,
        "pairs": count,
        "losses": losses,
        "page_faults_a_step": faults,
        "ours_images_per_second": pairs.per_second(BATCH, times["ours"]),
        "peer_images_per_second": pairs.per_second(BATCH, times["peer"]),
        **pairs.compare(times["ours"], times["peer"]),
        "convolutions_ms": convolutions(clock),
        "gemm_gflops": flops,
        "limit_images_per_second": flops / GFLOP,
        "seconds": times,
    }


def case(name: str, cores: set[int], count: int) -> dict[str, Any]:
    """One case in a process of its own: XLA reads its flags and counts cores once."""
    own, kept = CASES[name]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {own}".strip()
    result = subprocess.run(
        [sys.executable, __file__, f"--pairs={count}", "--alone"],
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        | (KEPT if kept else {}),
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        stdout=subprocess.PIPE,
        check=True,
    )
    told = {"case": name, "xla_flags": flags, "memory_kept": kept}
    return told | json.loads(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS / "step.json")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measure(arguments.pairs)))
        return
    every = os.sched_getaffinity(0)
    rows = []
    for cores in {1, len(every)}:
        for name in CASES:
            rows.append(case(name, set(sorted(every)[-cores:]), arguments.pairs))
            shown = {k: x for k, x in rows[-1].items() if k != "seconds"}
            print(shown, flush=True)
    record.write(arguments.output, ("jax", "flax", "optax", "torch"), rows)


if __name__ == "__main__":
    main()
