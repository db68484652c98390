"""The engine of every run: ask, train each branch, score it, tell, go on with one.

`train_and_evaluate` trains the project's own networks with it, and `tune` any loop of
the user's. They differ in how a branch is trained and scored (`Training`), and in
nothing else: one state, one rule for what diverges, one way to end, one form of rows.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hyperdyn_jax.distributed import collectives
from hyperdyn_jax.run import verdicts
from hyperdyn_jax.run.lineage import Lineage
from hyperdyn_jax.run.rows import Directory, decision_row
from hyperdyn_jax.run.state import (
    Branch,
    Decided,
    Path,
    Pending,
    Rows,
    Run,
    Training,
)
from hyperdyn_jax.strategies.learned_schedule import begins_with, path_of
from hyperdyn_jax.system import signals, streams
from hyperdyn_jax.training.progress import Evaluation, Progress
from hyperdyn_jax.tuner.cpu_jit import key_data
from hyperdyn_jax.tuner.interface import Decision, DivergedError, Strategy, Trials

ATTEMPTS = 4  # at one epoch, before a run in which everything diverges gives up
NARROWER = 0.1  # of the largest learning rate tried: the limit after two such attempts
SAVED = ("held", "best", "tuner", "key")  # the fields of a run that are arrays


@dataclasses.dataclass(frozen=True)
class Engine:
    """A strategy over a training.

    Args:
      strategy: asked and told.
      training: trains and scores the branches.
      backtracking: as `Strategy.backtracking`.
    """

    strategy: Strategy
    training: Training
    backtracking: bool

    def length(self, run: Run) -> int:
        """Steps of the accepted path: of all epochs, less what trials have taken."""
        steps = self.strategy.accepted_steps(run.tuner)
        return self._budget if steps is None else steps

    @property
    def _budget(self) -> int:
        """Steps of all epochs."""
        return self.training.epochs * self.training.steps_per_epoch

    def trial_steps(self, run: Run, trials: Trials) -> int:
        """Optimizer steps of each branch."""
        steps = max(1, round(trials.epochs * self.training.steps_per_epoch))
        return min(steps, self.length(run) - run.step)

    def run_to_end(
        self, run: Run, directory: Directory, told: Callable[[Run, Decided], Any]
    ) -> Run:
        """One decision after the other, to the last epoch.

        Args:
          run: to go on with.
          directory: takes its rows and its state.
          told: called after every decision with the run before it, its branches
            trained, and with what it led to.

        Raises:
          DivergedError: no setting could be found that trains with finite numbers.
          KeyboardInterrupt: the process was asked to stop; the run is saved.
        """
        while run.step < self.length(run):
            if run.attempts >= ATTEMPTS:  # also when the same run is given again
                raise DivergedError(self._diverged(run, directory))
            if collectives.any_of(signals.asked()):
                raise KeyboardInterrupt
            trained = self.training.train(self, run, directory)
            try:
                decided = self.decide(trained, directory.rows["metrics"])
            except KeyboardInterrupt:
                self.save(trained, directory)  # the branches need not be trained again
                raise
            run = decided.run
            self.save(run, directory, decided.rows)
            told(trained, decided)
            del trained, decided  # the states of branches that the run left go free
        if not directory.rows["metrics"]:
            raise DivergedError(
                f"trials took all {self._budget} steps before any was accepted; "
                f"{self.training.advice}"
            )
        return run

    def decide(self, run: Run, metrics: Sequence[Mapping[str, Any]] = ()) -> Decided:
        """Scores the trained branches and goes on as one of them, or stays.

        Args:
          run: with a pending decision.
          metrics: rows of metrics.jsonl so far.
        """
        assert run.pending is not None
        trials, progress, spent = run.pending
        began = time.perf_counter()
        branches = self.training.score(progress)
        with np.errstate(over="ignore"):  # such a score is no sound one
            scores = np.array([branch.score for branch in branches], np.float32)
        tuner, decision = self.strategy.tell(run.tuner, trials, scores)
        new = follow(run, branches, scores, tuner, decision)
        lineage = Lineage(run, decision, metrics)
        new = new._replace(paths=lineage.paths())
        taken = self.training.steps_taken(progress)
        new = new._replace(total_steps=run.total_steps + taken)
        if new.attempts > max(1, run.attempts):
            # Not after the first: most strategies then try something else themselves.
            new = narrow(self.strategy, new, trials)
        row = decision_row(
            trials,
            scores,
            decision,
            names=list(self.strategy.searched) or list(trials.hparams),
            score_before=run.score,
            extra_steps=taken - (new.step - run.step),
            rollback=rollback(run, new, decision.undone),
        )
        rows, accepted = {"decisions": row}, None
        told: tuple[Mapping[str, Any], Branch] | None = None
        if decision.branch >= 0:
            told = trials.setting(decision.branch), branches[decision.branch]
        elif metrics and new.step >= self.length(new):  # trials took what was left
            new = new._replace(epoch=new.epoch + 1)
            told = metrics[-1]["hyperparams"], self._standing(new)
        if told is not None:
            if (path := lineage.elsewhere()) is not None:
                new = forget(new, path, metrics)
            new, accepted, rows["metrics"] = self._accepted(new, *told)
            if path is not None:
                rows["metrics"]["path"] = path
            if (decision.verdict or {}).get("leading"):
                rows["metrics"]["leading"] = True
            new = new._replace(told_step=new.step)
        if (skipped := self.training.skipped()) is not None:
            new = new._replace(skipped=skipped)
            if "metrics" in rows:
                rows["metrics"]["skipped_records"] = len(skipped)
        own = spent + time.perf_counter() - began
        if "metrics" not in rows:
            return Decided(new._replace(seconds=run.seconds + own), rows)
        others = run.seconds + own * (1 - 1 / len(branches))  # its branches cost alike
        rows["metrics"] |= {"seconds": run.seconds + own, "trial_seconds": others}
        return Decided(new._replace(seconds=0.0), rows, accepted)

    def _standing(self, run: Run) -> Branch:
        """The state that a run stands at, scored as after an epoch without a step."""
        losses = np.zeros((1, self.training.steps_per_epoch), np.float32)
        (branch,) = self.training.score(Progress(run.step, run.held[:1], losses))
        return branch._replace(train_loss=None)

    def _accepted(
        self, run: Run, setting: Mapping[str, np.float32], branch: Branch
    ) -> tuple[Run, Any, dict[str, Any]]:
        """The run after an accepted epoch, the state as it was scored, and its row of
        metrics.jsonl."""
        ended = run.step >= self.length(run)
        if ended:
            branch = self._average_or_end(branch)
            run = run._replace(held=[branch.state, *run.held[1:]], score=branch.score)
        if self.backtracking:
            run = remember(run, branch)
        row = metrics_row(run, setting, branch)
        if ended:
            run, tested = self.finish(run, branch)
            row |= tested
        return run, branch.state, row

    def _average_or_end(self, last: Branch) -> Branch:
        """The last epoch's state: an average of its path, if there is one, or the end
        of it, whichever is better on validation data. After an anneal that is often the
        end, and a schedule that is played as it stands ends as it would have."""
        end = self.training.at_end(last)
        if end is None or not certainty(end.validation) > certainty(last.validation):
            return last
        return end

    def finish(self, run: Run, last: Branch) -> tuple[Run, dict[str, Any]]:
        """The run at its end, and what only its last row has.

        It goes back to its best epoch if that was better than the last by more than
        chance: the best of many epochs always looks better.
        """
        tested = self.training.test(last.state)
        fallen = run.best_merit - merit(last.validation)
        others = max(1, run.epoch - 1)
        if not run.best or fallen <= self.training.chance(last.validation, others):
            best_epoch = run.epoch - 1
            return run._replace(
                held=[last.state], best=[], best_epoch=best_epoch
            ), tested
        results = self.training.test(run.best[0])
        if results:
            results["best_epoch"] = run.best_epoch  # whose state was kept and tested
            results["last_test_accuracy"] = tested["test_accuracy"]
        return run._replace(held=run.best, best=[]), results

    def save(self, run: Run, directory: Directory, rows: Rows | None = None) -> None:
        """One checkpoint of everything: states, strategy, keys and counts together.

        Args:
          run: to be saved.
          directory: takes the checkpoint.
          rows: the rows of the decision that led to it.
        """
        if not directory.keeps:
            directory.commit(rows or {}, None, {})
            return
        pack = self.training.pack
        arrays: dict[str, Any] = {"tuner": run.tuner, "key": run.key, "branches": []}
        arrays |= {"held": [*map(pack, run.held)], "best": [*map(pack, run.best)]}
        facts = {name: x for name, x in run._asdict().items() if name not in SAVED}
        facts |= {"held": len(run.held), "best": len(run.best), "pending": None}
        facts["ended"] = run.step >= self.length(run)
        if run.pending is not None:
            trials, progress, seconds = run.pending
            arrays["branches"] = [*map(pack, progress.states)]
            arrays |= {"hparams": trials.hparams, "losses": progress.losses}
            facts["pending"] = {
                "start": progress.start,
                "losses": progress.losses.shape,
                "hparams": list(trials.hparams),
                "seconds": seconds,
            }
        directory.commit(rows or {}, arrays, facts)

    def resume(self, key: jax.Array, directory: Directory) -> Run | None:
        """The run of the newest checkpoint, None if there is none.

        Args:
          key: the PRNG key that the strategy began with, or one like it.
          directory: the run directory.

        Raises:
          ConfigError: it is of another state or strategy.
        """
        if (facts := collectives.share_json(directory.resume())) is None:
            return None
        facts = {name: facts[name] for name in Run._fields if name in facts}
        self.training.check(facts["examples"], directory)
        like = {
            "held": [self.training.like()] * facts.pop("held"),
            "best": [self.training.like()] * facts.pop("best"),
            "tuner": self.strategy.init(key, facts["first_score"]),
            "key": key_data(key),
            "branches": [],
        }
        if pending := facts.pop("pending"):
            losses = np.zeros(pending["losses"], np.float32)
            like |= {"branches": [self.training.like()] * len(losses), "losses": losses}
            like["hparams"] = dict.fromkeys(pending["hparams"], losses[:, 0])
        arrays = collectives.share_tree(directory.restore(like))
        for name in ("held", "best", "branches"):
            arrays[name] = [*map(self.training.unpack, arrays[name])]
        run = Run(**facts, **{name: arrays[name] for name in SAVED})
        if not pending:
            return run
        trials = self.strategy.ask(run.tuner)._replace(hparams=arrays["hparams"])
        progress = Progress(pending["start"], arrays["branches"], arrays["losses"])
        return run._replace(pending=Pending(trials, progress, pending["seconds"]))

    def _diverged(self, run: Run, directory: Directory) -> str:
        """Why a run cannot go on."""
        tried = directory.rows["decisions"][-1]["trials"]
        settings = "; ".join(map(verdicts.short, tried))
        return (
            f"every branch of epoch {run.epoch} diverged, {ATTEMPTS} times in a row, "
            f"last at {settings}; {self.training.advice}"
        )


def merit(validation: Evaluation) -> float:
    """How good an epoch is, to find the best of them.

    By accuracy where it is known, whatever the strategy goes by: a network that is too
    sure of itself has its least loss long before it has learned the most.
    """
    if validation.accuracy is not None:
        return validation.accuracy
    return certainty(validation)


def certainty(validation: Evaluation) -> float:
    """How good a state is, to choose one of two on the same path: minus the loss, which
    tells smaller differences than an accuracy, where it is known."""
    if validation.loss is not None:
        return -validation.loss
    assert validation.accuracy is not None
    return validation.accuracy


def within(limit: float, trials: Trials) -> Trials:
    """The trials, with no learning rate above a limit."""
    rates = trials.hparams.get("learning_rate")
    if rates is None:
        return trials
    rates = np.minimum(rates, np.float32(limit))
    return trials._replace(hparams=trials.hparams | {"learning_rate": rates})


def follow(
    run: Run, branches: list[Branch], scores: np.ndarray, tuner: Any, decision: Decision
) -> Run:
    """The run after a decision.

    The run continues from the chosen branch's state; nothing is trained again. Where
    all diverged that is the last good state, with fresh randomness. Only a branch that
    is accepted ends the count of such attempts, for sound probes between them do not
    take the run on.
    """
    assert run.pending is not None
    trials, progress, _ = run.pending
    states = [branch.state for branch in branches] + run.held
    steps = [run.steps[parent] + progress.steps for parent in trials.parents]
    steps += run.steps
    run = run._replace(
        held=[states[i] for i in decision.hold],
        steps=[steps[i] for i in decision.hold],
        tuner=tuner,
        pending=None,
    )
    if decision.branch >= 0:
        return run._replace(
            score=branches[decision.branch].score,
            epoch=run.epoch + 1,
            attempts=0,
        )
    if np.isfinite(scores).any():
        return run
    attempt = f"attempt {run.attempts}"  # a stream apart from those of the steps
    key = streams.stream(jax.random.wrap_key_data(run.key), attempt)
    return run._replace(attempts=run.attempts + 1, key=key_data(key))


def narrow(strategy: Strategy, run: Run, trials: Trials) -> Run:
    """The run, to go on with smaller learning rates than those of some trials."""
    if "learning_rate" not in trials.hparams:
        return run
    limit = NARROWER * float(trials.hparams["learning_rate"].max())
    axis = strategy.searched.get("learning_rate")
    return run._replace(limit=max(limit, axis.low) if axis else limit)


def remember(run: Run, branch: Branch) -> Run:
    """The run after an accepted epoch, if that is the best so far; of equals the
    last."""
    if (found := merit(branch.validation)) < run.best_merit:
        return run
    return run._replace(best=[branch.state], best_epoch=run.epoch - 1, best_merit=found)


def forget(run: Run, path: Path, metrics: Sequence[Mapping[str, Any]]) -> Run:
    """The run that goes on from the end of a path, without its best epoch if that is
    not on the way there.

    Args:
      run: before the epoch to come is accepted.
      path: to the state that it goes on from.
      metrics: rows of metrics.jsonl so far.
    """
    if begins_with(path, path_of(metrics[: run.best_epoch + 1])):
        return run
    return run._replace(best=[], best_epoch=-1, best_merit=-math.inf)


def rollback(before: Run, after: Run, undone: bool) -> dict[str, Any] | None:
    """Where a decision took the run back, else None: the attempt number and the largest
    learning rate of the next (None without a limit) if everything diverged; the step
    of the state that it goes on from, if that is an earlier one.

    Args:
      before, after: the run around the decision.
      undone: as `Decision.undone`.
    """
    failed, earlier = after.attempts > before.attempts, after.step < before.step
    back: dict[str, Any] = {}
    if failed:
        back = {"attempt": after.attempts, "learning_rate_limit": after.limit}
    if earlier or (undone and not failed):
        back["step"] = after.step
    return back or None


def metrics_row(
    run: Run, setting: Mapping[str, np.float32], branch: Branch
) -> dict[str, Any]:
    """A row of metrics.jsonl: where the run stands after an accepted epoch."""
    return {
        "epoch": run.epoch - 1,
        "step": run.step,
        "total_steps": run.total_steps,
        "train_loss": branch.train_loss,
        "validation_accuracy": branch.validation.accuracy,
        "validation_loss": branch.validation.loss,
        "hyperparams": dict(setting),
    }
