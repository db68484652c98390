"""The state of a run: how it begins, how it is saved, and how it goes on."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hyperdyn_jax import config as config_lib
from hyperdyn_jax.checkpoints import Checkpoints
from hyperdyn_jax.distributed import collectives
from hyperdyn_jax.host import key_data
from hyperdyn_jax.rundir import Follower, RunDirectory
from hyperdyn_jax.steps import TrainState
from hyperdyn_jax.training import Evaluation, Progress, Trainer
from hyperdyn_jax.types import Leaf, Strategy, Trials

SPLITS = ("train", "validation", "test")


ARRAYS = ("held", "best", "tuner", "key")  # the fields of a run that are arrays


class Pending(NamedTuple):
    """A decision whose branches are on their way.

    trials: what they try.
    progress: how far they are.
    seconds: that they have been trained for.
    """

    trials: Trials
    progress: Progress
    seconds: float = 0.0


class Run(NamedTuple):
    """Everything that a run needs to go on; a checkpoint holds it.

    held: states of the network that trials start from; the first is the run itself.
    best: with backtracking, the state of the epoch that was best on validation data.
    tuner: the tuner's state.
    key: u32[...], raw PRNG key of the augmentation.
    score: of the run on validation data, as the tuner measures it.
    examples: of each split of the data, their number.
    epoch: decisions so far that took the run on, one an epoch for most tuners.
    attempts: decisions in a row, up to now, in which every branch diverged.
    limit: largest learning rate that is tried, lowered where everything diverges.
    step, total_steps: optimizer steps on the accepted path, and with every trial.
    best_epoch, best_accuracy: which epoch `best` is of, and its accuracy in percentage
      points.
    pending: the decision that is being trained for, if the state was saved inside one.
    skipped: what is wrong with each record that was left out so far.
    """

    held: list[TrainState]
    best: list[TrainState]
    tuner: Any
    key: Leaf
    score: float
    examples: dict[str, int]
    epoch: int = 0
    attempts: int = 0
    limit: float = math.inf
    step: int = 0
    total_steps: int = 0
    best_epoch: int = -1
    best_accuracy: float = 0.0
    pending: Pending | None = None
    skipped: Sequence[str] = ()


def start(setup: config_lib.Setup, trainer: Trainer) -> Run:
    """A run that has not begun: w0, scored."""
    weights, tuner, augmentation = keys(setup)
    state = trainer.init(weights)
    if setup.fork:
        state = forked(setup.fork, state) if collectives.first() else state
        state = trainer.replicate(collectives.share_tree(state))
    score = score_of(setup.tuner, trainer.evaluate(state, "validation"))
    tuner_state = setup.tuner.init(tuner, score)
    key = collectives.share_tree(key_data(augmentation))
    return Run([state], [], tuner_state, key, score, sizes(setup))


def keys(setup: config_lib.Setup) -> jax.Array:
    """Keys of the weights, the tuner and the augmentation."""
    return jax.random.split(jax.random.key(setup.seed), 3)


def sizes(setup: config_lib.Setup) -> dict[str, int]:
    """Number of examples of each split."""
    return {name: setup.dataset.size(name) for name in SPLITS}


def skipped(setup: config_lib.Setup) -> tuple[str, ...]:
    """What is wrong with each record that any process has left out so far.

    Raises:
      DataError: they are too many together.
    """
    skips = setup.dataset.skips
    if skips.limit:
        for line in collectives.union(skips.lines):
            skips.add(line)
    return tuple(skips.lines)


def forked(run: str, state: TrainState) -> TrainState:
    """A fresh state with the weights that a run had at its newest checkpoint.

    Args:
      run: its directory.
      state: arrays, or their shapes and dtypes.

    Raises:
      ConfigError: there is no checkpoint, or it is of another network.
    """
    folder = Path(run, "checkpoints")
    store = Checkpoints(folder) if folder.is_dir() else None
    if store is None or store.latest() is None:
        raise config_lib.ConfigError(
            [f"--fork={run} holds no good checkpoint of a run"]
        )
    weights = {"params": state.params, "batch_stats": state.batch_stats}
    picked = {name: store.pick(x, f"held/0/{name}") for name, x in weights.items()}
    store.close()
    return state._replace(**picked)


def score_of(tuner: Strategy, validation: Evaluation) -> float:
    """What the tuner maximises: accuracy in percentage points, or minus the loss."""
    loss = tuner.metric == "loss"
    return -validation.loss if loss else validation.accuracy


def save(
    run: Run, directory: RunDirectory | Follower, rows: Mapping[str, Any] | None = None
) -> None:
    """One checkpoint of everything: network, tuner, keys and counts together.

    Args:
      run: to be saved.
      directory: where.
      rows: of the decision that led to it, by the log that they are for.
    """
    arrays = {name: getattr(run, name) for name in ARRAYS} | {"branches": []}
    facts = {name: x for name, x in run._asdict().items() if name not in ARRAYS}
    facts |= {"held": len(run.held), "best": len(run.best), "pending": None}
    if run.pending is not None:
        trials, progress, seconds = run.pending
        arrays["branches"], arrays["hparams"] = progress.states, trials.hparams
        arrays["losses"] = progress.losses
        facts["pending"] = {
            "start": progress.start,
            "losses": arrays["losses"].shape,
            "hparams": list(trials.hparams),
            "seconds": seconds,
        }
    directory.commit(rows or {}, arrays, facts)


def resume(
    setup: config_lib.Setup, trainer: Trainer, directory: RunDirectory | Follower
) -> Run | None:
    """The run of the newest checkpoint, None if there is none.

    Raises:
      ConfigError: it is of another network, tuner or data.
    """
    if (facts := collectives.share_json(directory.resume())) is None:
        return None
    facts = {name: facts[name] for name in Run._fields if name in facts}
    check_sizes(facts["examples"], sizes(setup), directory)
    weights, tuner, augmentation = keys(setup)
    state = trainer.init(weights)  # and so on: what the arrays have to be like
    like = {
        "held": [state] * facts.pop("held"),
        "best": [state] * facts.pop("best"),
        "tuner": setup.tuner.init(tuner, facts["score"]),
        "key": key_data(augmentation),
        "branches": [],
    }
    if pending := facts.pop("pending"):
        losses = np.zeros(pending["losses"], np.float32)
        like |= {"branches": [state] * len(losses), "losses": losses}
        like["hparams"] = dict.fromkeys(pending["hparams"], losses[:, 0])
    arrays = collectives.share_tree(directory.restore(like))
    for name in ("held", "best", "branches"):
        states = (TrainState(*state) for state in arrays[name])
        arrays[name] = [trainer.replicate(state) for state in states]
    run = Run(**facts, **{name: arrays[name] for name in ARRAYS})
    if not pending:
        return run
    trials = setup.tuner.ask(run.tuner)._replace(hparams=arrays["hparams"])
    progress = Progress(pending["start"], arrays["branches"], arrays["losses"])
    return run._replace(pending=Pending(trials, progress, pending["seconds"]))


def check_sizes(
    there: Mapping[str, int],
    here: Mapping[str, int],
    directory: RunDirectory | Follower,
) -> None:
    """Raises ConfigError if a run was of other data."""
    if there == here:
        return
    then, now = (
        ", ".join(f"{count:,} {name}" for name, count in each.items())
        for each in (there, here)
    )
    where = f"--workdir={directory.path} holds a run of other data"
    raise config_lib.ConfigError([f"{where}: {now} examples here, {then} there"])
