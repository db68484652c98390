"""What a run would be, without it: its config, size, cost and memory.

    python train.py --config=configs/digits.py --dry_run

One training step is compiled and nothing is run or written. A first batch of the data
is read.
"""

import contextlib
import math
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hyperdyn_jax import loop
from hyperdyn_jax.commands.compiled import memory_of
from hyperdyn_jax.distributed import collectives
from hyperdyn_jax.run import network as network_lib
from hyperdyn_jax.run.config import Setup
from hyperdyn_jax.run.config_schema import Config
from hyperdyn_jax.run.jsonl import dump
from hyperdyn_jax.strategies.hyperdyn import Hyperdyn
from hyperdyn_jax.strategies.race import Race
from hyperdyn_jax.strategies.search import DoNothingControl
from hyperdyn_jax.system import platforms
from hyperdyn_jax.training.trainer import Trainer

MB = 1e6


def describe(config: Config, setup: Setup, say: Callable[[str], Any] = print) -> None:
    """Says what a run would be.

    Args:
      config, setup: of the run, checked (`loop.check`).
      say: is told, in lines.
    """
    with contextlib.closing(setup.dataset):
        trainer = Trainer(setup.model, setup.optimizer, setup.dataset)
        say(dump(config, indent=1))
        for name, text in facts(config, setup, trainer).items():
            tell(say, name, text)
        tell(say, "devices", platforms.in_words(collectives.devices()))
        tell(say, "memory", memory_in_words(trainer))
        for note in loop.notes(config, setup):
            tell(say, "note", note)


def tell(say: Callable[[str], Any], name: str, text: str) -> None:
    """Says a line of text, behind what it is about."""
    say(textwrap.fill(f"{name:<12} {text}", 88, subsequent_indent=" " * 13))


def facts(config: Config, setup: Setup, trainer: Trainer) -> dict[str, str]:
    """A line of text by the name of what it is about; of every device the same."""
    state = trainer.shapes()
    sizes = network_lib.sizes(setup)
    data = ", ".join(f"{count:,} {split}" for split, count in sizes.items())
    network, optimizer = config["model"]["name"], config["optimizer"]["name"]
    parameters = f"{_count(state.params):,} in {network}, {_in_mb(state.params)}"
    each = setup.dataset.steps_per_epoch
    run = f"{config['strategy']} with {optimizer}, {setup.epochs:,} epochs"
    if setup.averaging is not None:
        run += f"; scores are of averaged weights (power {setup.averaging:g})"
    if setup.backtracking:
        run += "; its best epoch is kept"
    batch = f"{setup.dataset.batch_size} examples, {each:,} batches an epoch"
    return {
        "run": run,
        "data": f"{config['dataset']}: {data} examples",
        "batch": batch,
        "parameters": parameters,
        "steps": steps_in_words(setup),
    }


def steps_in_words(setup: Setup) -> str:
    """Accepted and total steps, which never go alone."""
    accepted, total, bound = count_steps(setup)
    if accepted == total:
        return f"{accepted:,} accepted = {total:,} total: nothing is tried beside them"
    text = f"{accepted:,} accepted / {total:,} total ({total / accepted - 1:+.1%})"
    if bound:
        return f"at least {text[: text.index(' (')]}: trials take at most {bound}"
    return f"{text}, trials included"


def count_steps(setup: Setup) -> tuple[int, int, str]:
    """Optimizer steps of a run in which nothing diverges.

    Returns:
      Of the accepted path; in total, with every trial in them; and the bound that the
      strategy keeps trials to, in words, where it decides on the way how many there
      are. The accepted steps are then the fewest possible.
    """
    each, tuner = setup.dataset.steps_per_epoch, setup.tuner
    tuner = tuner.tuner if isinstance(tuner, DoNothingControl) else tuner
    steps = setup.epochs * each
    if isinstance(tuner, Hyperdyn):
        branches = (1 + tuner.suggestions) * (setup.epochs - 1)
        return steps, (tuner.initial_points + branches) * each, ""
    if isinstance(tuner, Race):
        most = tuner.allowance
        fewest = steps - most
        bound = f"{most:,} steps, {most / fewest:+.1%} of the accepted"
        return fewest, steps, bound
    if not tuner.searched:  # a schedule tries nothing
        return steps, steps, ""
    return *_rehearse(setup, steps, each), ""


def _rehearse(setup: Setup, steps: int, each: int) -> tuple[int, int]:
    """Plays a run in which every trial scores the same."""
    tuner, score = setup.tuner, -1.0 if setup.tuner.metric == "loss" else 50.0
    state, step, total = tuner.init(jax.random.key(0), score), 0, 0
    while step < steps:
        trials = tuner.ask(state)
        count = len(trials.parents)
        taken = min(max(1, round(trials.epochs * each)), steps - step)
        state, decision = tuner.tell(state, trials, np.full(count, score, np.float32))
        total += count * taken
        step += taken * (decision.branch >= 0)
    return step, total


def memory_in_words(trainer: Trainer) -> str:
    """Of one training step on one device, as XLA has planned it."""
    _, step = next(trainer.programs())
    found = step.compile().memory_analysis()
    if found is None:
        return "this backend does not tell"
    arguments, temporary = found.argument_size_in_bytes, found.temp_size_in_bytes
    return (
        f"{memory_of(found) / MB:,.1f} MB on a device for a training step, by XLA's "
        f"plan: {arguments / MB:,.1f} for the state and the data, "
        f"{temporary / MB:,.1f} for what is computed; each further trial holds a state "
        f"of {_in_mb(trainer.shapes())}"
    )


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def size_of(tree: Any) -> int:
    """Bytes of arrays, or of their shapes."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _in_mb(tree: Any) -> str:
    return f"{size_of(tree) / MB:,.1f} MB"
