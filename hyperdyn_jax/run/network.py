"""How the project's own networks are trained and scored, for the engine."""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import special

from hyperdyn_jax.distributed import collectives
from hyperdyn_jax.run.checkpoints import Checkpoints
from hyperdyn_jax.run.config import Setup
from hyperdyn_jax.run.config_errors import ConfigError
from hyperdyn_jax.run.engine import Engine, within
from hyperdyn_jax.run.rows import Directory
from hyperdyn_jax.run.state import Branch, Pending, Run
from hyperdyn_jax.system import signals, streams
from hyperdyn_jax.training.progress import Evaluation, Progress
from hyperdyn_jax.training.train_step import TrainState
from hyperdyn_jax.training.trainer import Trainer
from hyperdyn_jax.tuner.cpu_jit import key_data
from hyperdyn_jax.tuner.interface import Strategy, Trials

SPLITS = ("train", "validation", "test")


class Network:
    """The engine's `Training`, which has the docstrings, of a config: branches of one
    network on its devices.

    Args:
      setup: the parts of the run.
      trainer: trains its network on its data.
    """

    advice = (
        "lower config.optimizer.learning_rate and the upper bounds of "
        "config.search_space, and take another --workdir"
    )

    def __init__(self, setup: Setup, trainer: Trainer):
        self._setup, self.trainer = setup, trainer
        self.epochs = setup.epochs
        self.steps_per_epoch = setup.dataset.steps_per_epoch

    def begin(self) -> Run:
        """A run that has not begun: w0, scored."""
        weights, tuner, augmentation = streams.of_run(self._setup.seed)
        state = self.trainer.init(weights)
        if fork := self._setup.fork:
            state = forked(fork, state) if collectives.first() else state
            state = self.trainer.replicate(collectives.share_tree(state))
        strategy = self._setup.tuner
        score = score_of(strategy, self.trainer.evaluate(state, "validation"))
        key = collectives.share_tree(key_data(augmentation))
        started = strategy.init(tuner, score)
        return Run([state], [], started, key, score, score, sizes(self._setup))

    def resume(self, engine: Engine, directory: Directory) -> Run | None:
        """The run of the newest checkpoint, None if there is none.

        Raises:
          ConfigError: it is of another network, tuner or data.
        """
        _, tuner, _ = streams.of_run(self._setup.seed)
        run = engine.resume(tuner, directory)
        if run:
            self._setup.dataset.skips.resume(run.skipped)
        return run

    def check(self, examples: Mapping[str, int], directory: Directory) -> None:
        here = sizes(self._setup)
        if examples == here:
            return
        then, now = (
            ", ".join(f"{count:,} {name}" for name, count in each.items())
            for each in (examples, here)
        )
        where = f"--workdir={directory.path} holds a run of other data"
        raise ConfigError([f"{where}: {now} examples here, {then} there"])

    def train(self, engine: Engine, run: Run, directory: Directory) -> Run:
        """The run is saved on the way, when that is due and when it is to stop."""

        def pause() -> bool:
            due = directory.seconds_since_save() >= 60 * self._setup.save_minutes
            return due or signals.asked()

        pause = collectives.agreed(pause)
        key, began = jax.random.wrap_key_data(run.key), time.perf_counter()
        pending = run.pending or self._propose(engine, run, key)
        steps = engine.trial_steps(run, pending.trials)
        while True:
            progress = self.trainer.train(pending.progress, steps, key, pause)
            jax.block_until_ready(progress.states)
            now = time.perf_counter()
            pending = Pending(pending.trials, progress, pending.seconds + now - began)
            skipped = self.skipped() or ()
            began, run = now, run._replace(pending=pending, skipped=skipped)
            done, stop = progress.steps == steps, collectives.any_of(signals.asked())
            if stop or not done:
                engine.save(run, directory)
            if stop:
                raise KeyboardInterrupt
            if done:
                return run

    def _propose(self, engine: Engine, run: Run, key: jax.Array) -> Pending:
        """The branches of the next decision.

        The incumbent needs no search: where branches take turns it is already trained
        while the tuner looks for a challenger, which then catches up with it.
        """
        strategy, trainer = engine.strategy, self.trainer
        incumbent = strategy.incumbent(run.tuner)
        if incumbent is None or trainer.groups(2) > 1 or jax.process_count() > 1:
            return self._start(run, strategy.ask(run.tuner))
        with ThreadPoolExecutor(1) as pool:
            search = pool.submit(strategy.ask, run.tuner)
            alone = Trials.of({name: [x] for name, x in incumbent.items()})
            first = self._start(run, alone)
            steps = engine.trial_steps(run, first.trials)

            def pause() -> bool:
                return search.done() or signals.asked()

            ahead = trainer.train(first.progress, steps, key, pause)
            pending = self._start(run, search.result())
        in_turn = trainer.groups(len(pending.progress.states)) == 1
        if signals.asked() or not in_turn or trainer.diverged(ahead.losses).any():
            return pending  # as if nothing had been trained yet
        joined = trainer.join(ahead, pending.progress, key, signals.asked)
        return pending._replace(progress=joined)

    def _start(self, run: Run, trials: Trials) -> Pending:
        """The branches of trials, where they start from."""
        trials = within(run.limit, trials)
        states = [run.held[i] for i in trials.parents]
        settings = [trials.setting(i) for i in range(len(states))]
        return Pending(trials, self.trainer.begin(states, settings))

    def score(self, progress: Progress) -> list[Branch]:
        return [
            self._scored(*branch)
            for branch in zip(progress.states, progress.losses, strict=True)
        ]

    def _scored(self, state: TrainState, losses: np.ndarray) -> Branch:
        """A branch with its score. losses: f32[steps], of its training."""
        trainer, train_loss = self.trainer, float(losses.mean())
        if trainer.diverged(losses).any():
            unknown = Evaluation(math.nan, math.nan, 0)
            return Branch(state, train_loss, unknown, math.nan)
        measure = trainer.scores_anew(len(losses))
        validation = trainer.evaluate(state, "validation", measure=measure)
        assert validation.loss is not None
        sound = math.isfinite(validation.loss) and trainer.is_finite(state)
        score = score_of(self._setup.tuner, validation) if sound else math.nan
        return Branch(state, train_loss, validation, score)

    def steps_taken(self, progress: Progress) -> int:
        """Optimizer steps of all branches; one that diverged ended early."""
        return int(self.trainer.steps_taken(progress.losses).sum())

    def at_end(self, branch: Branch) -> Branch | None:
        end = self.trainer.without_average(branch.state)
        if end is branch.state:
            return None
        validation = self.trainer.evaluate(end, "validation")
        score = score_of(self._setup.tuner, validation)
        return branch._replace(state=end, validation=validation, score=score)

    def chance(self, validation: Evaluation, comparisons: int) -> float:
        """Percentage points by which the best of some epochs looks better by chance."""
        return smallest_gap(validation.count, comparisons=comparisons)

    def test(self, state: TrainState) -> dict[str, Any]:
        found = self.trainer.evaluate(state, "test")
        return {"test_accuracy": found.accuracy, "test_loss": found.loss}

    def skipped(self) -> Sequence[str] | None:
        """A line for each record that any process has left out so far; None if no
        record may be left out.

        Raises:
          DataError: they are too many together.
        """
        skips = self._setup.dataset.skips
        if not skips.limit:
            return None
        for line in collectives.union(skips.lines):
            skips.add(line)
        return tuple(skips.lines)

    def pack(self, state: TrainState) -> TrainState:
        """A state is a pytree of arrays already."""
        return state

    def like(self) -> TrainState:
        zeros: TrainState = jax.tree.map(
            lambda x: np.zeros(x.shape, x.dtype), self.trainer.shapes()
        )
        return zeros

    def unpack(self, arrays: Any) -> TrainState:
        """The state on every device."""
        state: TrainState = self.trainer.replicate(TrainState(*arrays))
        return state


def smallest_gap(
    examples: int,
    level: float = 0.05,
    differing: float = 0.2,
    *,
    comparisons: int = 1,
) -> float:
    """Gap of two accuracies that a validation split of this size can just tell.

    Networks that answer differently on a share of the examples differ in accuracy by
    100 sqrt(share / examples) percentage points by chance, one standard deviation
    (McNemar 1947).

    Args:
      examples: size of the validation split, at least 1.
      level: one-sided.
      differing: share of the examples that are right in one of the two alone; 0.2 is
        usual for two runs of a small network.
      comparisons: of how many gaps the largest is looked at. The best of many epochs
        always looks better than the last, so each has its share of the level
        (Bonferroni).

    Returns:
      Percentage points.

    Example:
      >>> round(smallest_gap(10_000), 2)
      0.74
    """
    deviations = -special.ndtri(level / comparisons)
    return float(deviations * 100 * math.sqrt(differing / examples))


def sizes(setup: Setup) -> dict[str, int]:
    """Number of examples of each split."""
    return {name: setup.dataset.size(name) for name in SPLITS}


def score_of(strategy: Strategy, validation: Evaluation) -> float:
    """What the strategy maximises: accuracy in percentage points, or minus the loss."""
    assert validation.loss is not None
    assert validation.accuracy is not None
    return -validation.loss if strategy.metric == "loss" else validation.accuracy


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
        there = "holds no good checkpoint of a run"
        why = there if Path(run).is_dir() else "is no folder"
        raise ConfigError([f"--fork={run} {why}"])
    weights = {"params": state.params, "batch_stats": state.batch_stats}
    picked = {name: store.pick(x, f"held/0/{name}") for name, x in weights.items()}
    store.close()
    return state._replace(**picked)
