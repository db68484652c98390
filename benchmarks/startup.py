"""P10: from a command to its first training step, with programs to compile or to load.

    pip install -e ".[bench]"
    python benchmarks/startup.py DATA_DIR

Fresh processes, in pairs: the first finds an empty cache of compiled programs (cold),
the second the one that it left (warm). Here: what train.py does until the first step of
a config is over. Peer: torch.compile on a network of the same layers, batch and
optimizer, with TorchInductor's cache in the place of JAX's; it has its batch at hand,
and neither data to read nor a command line. That cold and warm processes end their
first step with the same loss is checked.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pairs
import record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Of each config: depth, width, channels, pixels and batch of the network.
CONFIGS = {"digits": (8, 16, 1, 8, 32), "cifar10_twin": (8, 8, 3, 16, 128)}
CLOCK = "HYPERDYN_JAX_STARTED"  # when the parent started the process


class Stages:
    """Seconds since the process was started, stage by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = float(os.environ[CLOCK])
        self.end("interpreter")

    def end(self, name: str) -> None:
        now = time.time()
        self.seconds[name], self._last = now - self._last, now


def ours(name: str, data_dir: str) -> dict[str, Any]:
    """One start of a config, in this process."""
    stages = Stages()
    import jax
    import numpy as np

    stages.end("import of jax")
    from hyperdyn_jax.commands import cli
    from hyperdyn_jax.run import config
    from hyperdyn_jax.training import trainer as training

    stages.end("imports")
    spent: dict[str, float] = {}

    def listen(event: str, seconds: float, **_: object) -> None:
        spent[event] = spent.get(event, 0.0) + seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    cli.keep_programs()
    words = ["train.py", f"--config={ROOT / 'configs' / name}.py"]
    settings = cli.load_config(words).to_dict() | {"data_dir": data_dir}
    setup = config.build(settings)
    stages.end("data")
    trainer = training.Trainer(setup.model, setup.optimizer, setup.dataset)
    state = trainer.init(jax.random.key(settings["seed"]))
    jax.block_until_ready(state)
    stages.end("network")
    hparams = {"learning_rate": np.float32(0.1), "momentum": np.float32(0.9)}
    begun = trainer.begin([state], [hparams])
    loss = trainer.train(begun, 1, jax.random.key(1)).losses[0, 0]
    stages.end("first step")
    parts = {
        "tracing": ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration"),
        "compiling or loading": ("backend_compile_duration",),
    }
    within = {
        part: sum(x for e, x in spent.items() if e.rpartition("/")[2] in events)
        for part, events in parts.items()
    }
    return {"loss": float(loss), "stages": stages.seconds, "within": within}


def peer(name: str, _: str) -> dict[str, Any]:
    """One start of torch.compile on the same layers."""
    stages = Stages()
    import torch

    stages.end("import of torch")
    sys.path.insert(0, str(ROOT / "tests"))
    import torch_networks

    depth, width, channels, pixels, batch = CONFIGS[name]
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network = torch_networks.torch_cifar(10, depth, width, "A", channels).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    images = torch.randn(batch, channels, pixels, pixels)
    labels = torch.randint(0, 10, (batch,))
    stages.end("network")
    compiled = torch.compile(network)
    loss = torch.nn.functional.cross_entropy(compiled(images), labels)
    loss.backward()
    optimizer.step()
    loss = loss.item()
    stages.end("first step")
    return {"loss": loss, "stages": stages.seconds, "within": {}}


SIDES = {"ours": ours, "peer": peer}


def start(side: str, name: str, data_dir: str, cache: str) -> dict[str, Any]:
    """A fresh process; its stages and the seconds of all of them."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "TORCHINDUCTOR_CACHE_DIR": cache,
        CLOCK: str(time.time()),
    }
    result = subprocess.run(
        [sys.executable, __file__, data_dir, f"--start={side}:{name}"],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    row = json.loads(result.stdout.splitlines()[-1])
    return row | {"seconds": sum(row["stages"].values())}


def measure(name: str, data_dir: str, count: int) -> dict[str, Any]:
    """Pairs of a cold and a warm start on each side, the sides in turn."""
    starts: dict[str, list[dict[str, Any]]] = {}
    for _ in range(count):
        for side in SIDES:
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    row = start(side, name, data_dir, cache)
                    starts.setdefault(f"{side} {state}", []).append(row)
                    print(name, side, state, f"{row['seconds']:.1f} s", flush=True)
    for side in SIDES:
        rows = starts[f"{side} cold"] + starts[f"{side} warm"]
        if len({row["loss"] for row in rows}) != 1:
            raise AssertionError(f"{side}: starts differ in their first step's loss")
    seconds = {way: [row["seconds"] for row in rows] for way, rows in starts.items()}
    # How much of a cold start a warm one takes, and how much of the peer's warm one.
    share = pairs.compare(seconds["ours cold"], seconds["ours warm"])
    peers = pairs.compare(seconds["peer cold"], seconds["peer warm"])
    warm = pairs.compare(seconds["peer warm"], seconds["ours warm"])
    return {
        "config": name,
        "pairs": count,
        **{f"{way}_s": statistics.median(x) for way, x in seconds.items()},
        **share,
        "peer_ratio": peers["ratio"],
        "warm_against_peer": warm,
        "stages": {way: medians(rows, "stages") for way, rows in starts.items()},
        "within": {
            way: medians(rows, "within")
            for way, rows in starts.items()
            if "ours" in way
        },
        "seconds": seconds,
    }


def medians(rows: list[dict[str, Any]], part: str) -> dict[str, float]:
    return {
        name: statistics.median(row[part][name] for row in rows)
        for name in rows[0][part]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", metavar="DATA_DIR")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), choices=CONFIGS)
    parser.add_argument("--output", type=Path, default=RESULTS / "startup.json")
    parser.add_argument("--start", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        side, _, name = arguments.start.partition(":")
        print(json.dumps(SIDES[side](name, arguments.data_dir)))
        return
    rows = [
        measure(name, arguments.data_dir, arguments.pairs) for name in arguments.configs
    ]
    for row in rows:
        print({key: x for key, x in row.items() if key != "seconds"})
    record.write(arguments.output, ("jax", "flax", "optax", "torch"), rows)


if __name__ == "__main__":
    main()
