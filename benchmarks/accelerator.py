"""P7, P8: training on one GPU against PyTorch compiled, channels_last, bfloat16.

    pip install -e ".[bench,cuda13]"   # and torch with CUDA
    python benchmarks/accelerator.py
    python benchmarks/accelerator.py --smoke   # the same at toy size, anywhere

ResNet-20 on 32x32 pixels with He's augmentation at batch 128, 1,000 and 4,000, and
ResNet-50 on 224x224 pixels at batch 1,000; noise for images, which lie on the device.
In turn in one process. Here: the loop's own training, `BLOCK` steps a program, its
losses read as always. There: forward and loss compiled with CUDA graphs, fused SGD, the
augmentation compiled too. That both give the same loss on the same weights and images
is checked. Beside them two limits: the products alone at the measured bfloat16 rate,
and the bytes that the compiled step says it moves at the measured rate of a copy.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Torch needs memory beside JAX, which would take three quarters of it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import pairs
import record
import torch

from hyperdyn_jax import optimizers
from hyperdyn_jax.data.augment import PadCropFlip
from hyperdyn_jax.data.dataset import ArrayDataset, Split
from hyperdyn_jax.models import CifarResNet, ResNet
from hyperdyn_jax.training.train_step import cross_entropy
from hyperdyn_jax.training.trainer import BLOCK, Trainer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch_networks  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
HPARAMS = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-4}


class Case(NamedTuple):
    """What is trained.

    family: cifar or imagenet. depth, width, pixels: of the network. classes: of the
    data. batch, examples: images of a step and of the data. steps: of a timing, whole
    blocks. pad: pixels of the augmentation. gflop: of an image's training step.
    """

    family: str
    depth: int
    width: int
    pixels: int
    classes: int
    batch: int
    examples: int
    steps: int
    pad: int
    gflop: float

    @property
    def name(self) -> str:
        return f"ResNet-{self.depth}, batch {self.batch:,}"


CASES = [
    Case("cifar", 20, 16, 32, 10, 128, 48_000, 23 * BLOCK, 4, 0.243),
    Case("cifar", 20, 16, 32, 10, 1000, 48_000, 3 * BLOCK, 4, 0.243),
    Case("cifar", 20, 16, 32, 10, 4000, 48_000, BLOCK, 4, 0.243),
    Case("imagenet", 50, 64, 224, 1000, 1000, 1000, BLOCK, 0, 24.5),
]
SMOKE = [
    Case("cifar", 8, 4, 16, 10, 8, 32, BLOCK, 2, 1e-3),
    Case("imagenet", 18, 4, 32, 10, 4, 8, BLOCK, 0, 1e-3),
]


def networks(case: Case) -> tuple[Any, torch.nn.Module]:
    """Ours and torch's; the weights are torch's."""
    torch.manual_seed(0)
    if case.family == "cifar":
        ours = CifarResNet(case.classes, case.depth, case.width, dtype=jnp.bfloat16)
        there = torch_networks.torch_cifar(case.classes, case.depth, case.width, "A")
    else:
        ours = ResNet(case.classes, case.depth, case.width, dtype=jnp.bfloat16)
        there = torch_networks.torch_imagenet(case.classes, case.depth, case.width)
    return ours, there


def dataset(case: Case) -> ArrayDataset:
    rng = np.random.default_rng(0)
    shape = (case.examples, case.pixels, case.pixels, 3)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    train = Split(images, rng.integers(0, case.classes, case.examples).astype(np.int32))
    few = Split(images[: case.batch], train.labels[: case.batch])
    return ArrayDataset(
        train,
        few,
        few,
        classes=case.classes,
        batch_size=case.batch,
        eval_batch_size=case.batch,
        devices=1,
        seed=0,
        augment=PadCropFlip(case.pad, fill=(127.5,) * 3) if case.pad else None,
    )


class Ours:
    """The loop's own training."""

    def __init__(self, case: Case, model: Any, data: ArrayDataset, variables: Any):
        optimizer = optimizers.create_optimizer("sgd", HPARAMS)
        self._case, self._model, self._data = case, model, data
        devices = jax.devices()[:1]
        self._trainer = trainer = Trainer(model, optimizer, data, devices, scan=True)
        state = trainer.init(jax.random.key(0))
        self._state = state._replace(**trainer.replicate(variables))
        self._key = jax.random.key(1)

    def run(self) -> None:
        begun = self._trainer.begin([self._state], [{}])
        done = self._trainer.train(begun, self._case.steps, self._key)
        jax.block_until_ready(done.states)

    def loss(self) -> float:
        """Of the first images, not augmented, with statistics of their own."""
        head = np.arange(self._case.batch, dtype=np.int32)

        @jax.jit
        def loss(variables: Any, split: Split) -> jax.Array:
            images, labels = self._data.load(split, head, None)
            logits, _ = self._model.apply(
                variables, images, train=True, mutable=["batch_stats"]
            )
            return cross_entropy(logits, labels).mean()

        state = self._state
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return float(loss(variables, self._data.resident("train")))

    def bytes_moved(self) -> float:
        """Of an image, as XLA counts them in the compiled step."""
        place, trainer = self._trainer._layout(1), self._trainer
        (state,) = place.pack([self._state])
        batch, resident = place.put(self._data.train_batch(0)), trainer._hold("train")
        key = place.hold(trainer.replicate(self._key))
        compiled = place.step.lower(state, resident, batch, key).compile()
        cost = compiled.cost_analysis()
        cost = cost[0] if isinstance(cost, list) else cost
        return cost["bytes accessed"] / self._case.batch


class Peer:
    """The same training in PyTorch."""

    def __init__(self, case: Case, network: torch.nn.Module, data: ArrayDataset):
        self._case, self._device = case, "cuda" if torch.cuda.is_available() else "cpu"
        network = network.to(self._device, memory_format=torch.channels_last)
        self._network = network.train()
        images, labels = data.resident("train")
        self._images = torch.tensor(images, device=self._device)
        self._labels = torch.tensor(labels, device=self._device).long()
        numbers = (data._mean, data._stddev)
        self._mean, self._stddev = (torch.tensor(x).to(self._device) for x in numbers)
        self._optimizer = torch.optim.SGD(
            network.parameters(),
            HPARAMS["learning_rate"],
            HPARAMS["momentum"],
            weight_decay=HPARAMS["weight_decay"],
            fused=True,
        )
        self._loss = torch.compile(self._plain_loss, mode="reduce-overhead")

    def _plain_loss(
        self, index: torch.Tensor, offsets: torch.Tensor, flips: Any
    ) -> Any:
        images = self._images[index].float()
        if self._case.pad:
            images = self._augmented(images, offsets, flips)
        images = ((images - self._mean) / self._stddev).permute(0, 3, 1, 2)
        with torch.autocast(self._device, torch.bfloat16):
            logits = self._network(images)
        loss = torch.nn.functional.cross_entropy
        return loss(logits.float(), self._labels[index])

    def _augmented(self, images: Any, offsets: Any, flips: Any) -> torch.Tensor:
        pad, size = self._case.pad, self._case.pixels
        border = (0, 0, pad, pad, pad, pad)
        padded = torch.nn.functional.pad(images, border, value=127.5)
        places = torch.arange(size, device=self._device)
        rows = offsets[:, :1] + places
        columns = offsets[:, 1:] + torch.where(flips, size - 1 - places, places)
        count = torch.arange(len(images), device=self._device)[:, None, None]
        return padded[count, rows[:, :, None], columns[:, None, :]]

    def run(self) -> None:
        batch, examples = self._case.batch, self._case.examples
        order = torch.randperm(examples, device=self._device)
        total = None
        for step in range(self._case.steps):
            start = step * batch % examples
            torch.compiler.cudagraph_mark_step_begin()
            offsets = torch.randint(
                0, 2 * self._case.pad + 1, (batch, 2), device=self._device
            )
            flips = torch.rand(batch, 1, device=self._device) < 0.5
            loss = self._loss(order[start : start + batch], offsets, flips)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            total = loss.detach() if total is None else total + loss.detach()
        total.item()  # waits for all

    def loss(self) -> float:
        case, self._case = self._case, self._case._replace(pad=0)
        with torch.no_grad():
            loss = self._plain_loss(
                torch.arange(case.batch, device=self._device), None, None
            ).item()
        self._case = case
        return loss


def limits() -> tuple[float, float]:
    """GFLOP/s of bfloat16 products, and GB/s of a copy, read and written bytes."""
    host = jax.devices()[0].platform == "cpu"
    size, length = (512, 2**22) if host else (8192, 2**28)
    matrix = jnp.ones((size, size), jnp.bfloat16)
    vector = jnp.ones(length, jnp.float32)
    multiply, copy = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)

    def best(function: Callable[[Any], Any], x: Any) -> float:
        jax.block_until_ready(function(x))
        return min(
            pairs.seconds(lambda: jax.block_until_ready(function(x))) for _ in range(10)
        )

    return 2 * size**3 / best(multiply, matrix) / 1e9, 8e-9 * length / best(
        copy, vector
    )


def measure(case: Case, count: int) -> dict[str, Any]:
    """Rates of both in images a second, and their ratio, pair by pair."""
    model, network = networks(case)
    data = dataset(case)
    ours = Ours(case, model, data, torch_networks.copied(network))
    peer = Peer(case, network, data)
    losses = {"ours": ours.loss(), "peer": peer.loss()}
    np.testing.assert_allclose(losses["ours"], losses["peer"], rtol=0.02)
    ways = {"ours": ours.run, "peer": peer.run}
    for run in (*ways.values(), *ways.values()):  # compile, and record CUDA graphs
        run()
    times = pairs.in_turn(ways, count)
    images, (gflops, gigabytes) = case.steps * case.batch, limits()
    moved = ours.bytes_moved()
    return {
        "case": case.name,
        "device": jax.devices()[0].device_kind,
        "pairs": count,
        "steps": case.steps,
        "losses": losses,
        "ours_images_per_second": pairs.per_second(images, times["ours"]),
        "peer_images_per_second": pairs.per_second(images, times["peer"]),
        **pairs.compare(times["ours"], times["peer"]),
        "step_ms": 1e3 * statistics.median(times["ours"]) / case.steps,
        "bfloat16_gflops": gflops,
        "copy_gigabytes_per_second": gigabytes,
        "bytes_moved_an_image": moved,
        "limit_of_products": gflops / case.gflop,
        "limit_of_memory": 1e9 * gigabytes / moved,
        "seconds": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="toy size, no record")
    parser.add_argument("--output", type=Path, default=RESULTS / "accelerator.json")
    arguments = parser.parse_args()
    if not arguments.smoke and jax.devices()[0].platform == "cpu":
        parser.error("there is no accelerator; --smoke runs it at toy size")
    rows = []
    for case in SMOKE if arguments.smoke else CASES:
        rows.append(measure(case, 2 if arguments.smoke else arguments.pairs))
        print({k: x for k, x in rows[-1].items() if k != "seconds"}, flush=True)
    if not arguments.smoke:
        record.write(arguments.output, ("jax", "flax", "optax", "torch"), rows)


if __name__ == "__main__":
    main()
