"""What runs would be on TPU slices that were not at hand: their programs, compiled.

    pip install -e ".[tpu]"
    python benchmarks/slices.py                # more than an hour of one core

What was compiled is kept in the user's cache, and the record is written after every
program: the same command goes on where it was stopped.
"""

import os
from pathlib import Path
from typing import Any

import record

from hyperdyn_jax.commands import cli, topology
from hyperdyn_jax.distributed import slices
from hyperdyn_jax.run import config as config_lib

FILE = Path(__file__).resolve().parent / "results" / "slices.json"
STEP, EVALUATION = "training step", "evaluation"
SMALL = ["--config.batch_size=1024", "--config.eval_batch_size=1000"]
SIXTEEN = "--config.eval_batch_size=2000"  # divides over so many chips
ALONE, TOGETHER = (f"--config.model.sync_batch_norm={x}" for x in ("false", "true"))
# Config, changes of it, slice, branches that share the chips, and what is compiled.
CASES: list[tuple[str, list[str], str, int, str]] = [
    ("cifar10", SMALL, "v5e:2x4", 1, STEP),
    ("cifar10", [*SMALL, ALONE], "v5e:2x4", 1, STEP),
    ("imagenet", [], "v5e:2x4", 1, STEP),
    ("cifar10", SMALL, "v5e:1x1", 1, STEP),
    ("cifar10", SMALL, "v5e:2x2", 1, STEP),
    ("cifar10", SMALL, "v5e:2x4", 4, STEP),
    ("imagenet", [], "v5e:2x4", 4, STEP),
    ("imagenet", [TOGETHER], "v5e:2x4", 1, STEP),
    ("imagenet", [], "v5p:2x2x2", 1, STEP),
    ("imagenet", [], "v4:2x2x2", 1, STEP),
    ("imagenet", [], "v5e:2x4", 1, EVALUATION),
    ("cifar10", [*SMALL, SIXTEEN], "v5e:4x4", 1, STEP),
]


def measure(
    name: str, changes: list[str], on: str, branches: int, program: str
) -> dict[str, Any]:
    """What is told of one program, and of what is held beside it."""
    flag = f"--config={Path(__file__).parents[1] / 'configs' / name}.py"
    words = [flag, "--config.strategy=race", *changes]
    config, where = cli.load_config(["slices", *words]).to_dict(), slices.named(on)
    setup = config_lib.build(config, where.chips)
    trainer = topology.trainer_of(setup, where)
    lowered = {
        each: made
        for each, made in trainer.programs([branches])
        if each.partition(",")[0] == program
    }
    wanted = [x for x in lowered if (", " in x) == (branches > 1)]
    chosen = {wanted[0]: lowered[wanted[0]]}
    (found,) = topology.compile_all(chosen.items(), where, cli.slices_folder())
    times = found.times(where.chip)
    most = topology.most_branches(setup.tuner)
    return {
        "config": name,
        "changes": changes,
        "slice": on,
        "chips": where.chips,
        "hosts": where.hosts,
        "branches": branches,
        "batch": setup.dataset.batch_size,
        "most_branches": most,
        "held_beside": topology.held_beside(setup, trainer, most),
        **found._asdict(),
        "collectives": [each._asdict() for each in found.collectives],
        "sent": found.sent,
        "times": times,
    }


def main() -> None:
    slices.compute_on_cpu()
    rows: list[dict[str, Any]] = []
    for case in CASES:
        row = measure(*case)
        rows.append(row)
        print(*case, f"{row['memory'] / 1e9:.2f} GB", row["times"], flush=True)
        chips = {name: chip._asdict() for name, chip in slices.CHIPS.items()}
        results = {"chips": chips, "load": os.getloadavg()[0], "programs": rows}
        record.write(FILE, ("jax", "jaxlib", "libtpu"), results)


if __name__ == "__main__":
    main()
