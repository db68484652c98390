"""The story of a run: ask, train every branch, score them, tell, go on with one."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hyperdyn_jax import config as config_lib
from hyperdyn_jax import display as display_lib
from hyperdyn_jax import files, jsonl, rundir, signals, switch
from hyperdyn_jax.display import Display
from hyperdyn_jax.distributed import collectives
from hyperdyn_jax.host import key_data
from hyperdyn_jax.jsonl import Row
from hyperdyn_jax.rundir import Follower, RunDirectory
from hyperdyn_jax.runs import (
    Pending,
    Run,
    forked,
    resume,
    save,
    score_of,
    skipped,
    start,
)
from hyperdyn_jax.steps import TrainState, state_shapes
from hyperdyn_jax.training import Evaluation, Trainer
from hyperdyn_jax.types import Decision, DivergedError, Strategy, Trials

ATTEMPTS = 4  # at one epoch, before a run in which everything diverges gives up
NARROWER = 0.1  # of the largest learning rate tried: the limit after two such attempts


class Branch(NamedTuple):
    """A trial, trained and scored; the score of one that diverged is NaN."""

    state: TrainState
    train_loss: float
    validation: Evaluation
    score: float


def train_and_evaluate(
    config: Mapping[str, Any], workdir: str | Path, display: Display | None = None
) -> list[Row]:
    """Trains a network while its hyperparameters are tuned, or goes on doing so.

    Args:
      config: nested settings, as `configs/` make them.
      workdir: the run directory. An unfinished run of the same config in it is
        resumed, and ends as it would have ended without the stop, to the bit.
      display: where to show what happens.

    Returns:
      The rows of metrics.jsonl, one an accepted epoch.

    Raises:
      ConfigError: with every problem of config and workdir; no file was changed.
      DivergedError: no setting could be found that trains with finite numbers.
      SaveError: the disk is full or the like; the newest checkpoint is as it was.
    """
    leads = collectives.first()
    setup, path = check(config, workdir), files.expand(workdir)
    setup = dataclasses.replace(setup, tuner=collectives.shared(setup.tuner))
    display = display or Display(setup.epochs, quiet=not leads)
    # Opened first: what is wrong with it is noticed before anything is shared.
    opened = RunDirectory(path, config, display.say) if leads else Follower(path)
    with opened as directory:
        directory.rows = collectives.share_json(directory.rows)
        if directory.is_finished():
            directory.resume()  # the last rows, if only the checkpoint has them
            display.say(f"{path} is finished already; nothing to do")
        else:
            run_to_end(setup, directory, display)
    if leads:
        display.summary(directory.rows["metrics"], _report(path))
    return directory.rows["metrics"]


def _report(path: Path) -> str:
    """The page of a finished run, or why there is none: no reason to fail for a run."""
    try:
        from hyperdyn_jax import report  # Matplotlib comes with it

        return str(report.write_report([path]))
    except (ImportError, OSError) as error:
        again = f"python -m hyperdyn_jax.report {path}"
        return f"no report: {error}; to try again: {again}"


def check(config: Mapping[str, Any], workdir: str | Path | None) -> config_lib.Setup:
    """The parts of the run, if there is no problem with config and workdir.

    The directory is looked at when the config is right: what it holds would else be
    compared with settings that no run can have.

    Args:
      config: nested settings.
      workdir: the run directory; None where it does not matter.
    """
    setup = config_lib.build(config)
    if not collectives.first():
        return setup
    try:
        path = files.expand(workdir) if workdir else None
    except ValueError as error:
        raise config_lib.ConfigError([f"--workdir={error}"]) from None
    if path and (problems := rundir.problems(path, config)):
        raise config_lib.ConfigError(problems)
    if setup.fork and not (path and (path / "checkpoints").exists()):
        shape = setup.dataset.image_shape
        forked(setup.fork, state_shapes(setup.model, setup.optimizer, shape))
    return setup


def run_to_end(
    setup: config_lib.Setup, directory: RunDirectory | Follower, display: Display
) -> None:
    """From w0 or the last checkpoint to the last epoch."""
    trainer = Trainer(
        setup.model,
        setup.optimizer,
        setup.dataset,
        parallel=setup.parallel,
        scan=setup.scan,
    )
    if note := small_validation(setup):
        display.say(note)
    with display.working("compiling"), contextlib.closing(setup.dataset):
        if run := resume(setup, trainer, directory):
            display.say(resuming(run, directory))
            setup.dataset.skips.resume(run.skipped)
        else:
            run = start(setup, trainer)
        tell_skipped(setup, display)
        while run.step < setup.accepted_steps(run.tuner):
            if run.attempts >= ATTEMPTS:  # also when the same command is given again
                raise DivergedError(diverged(run, directory))
            if collectives.any_of(signals.asked()):
                raise KeyboardInterrupt
            run = advance(setup, trainer, run, directory, display)


def tell_skipped(setup: config_lib.Setup, display: Display) -> None:
    """A line for each record that was left out since the last call."""
    for line in setup.dataset.skips.news():
        display.say(f"warning: {line}; left out")


COARSE = 2.0  # percentage points that a validation split should be able to tell


def small_validation(setup: config_lib.Setup) -> str | None:
    """A note where the validation split is too small for what the tuner has to tell."""
    examples = setup.dataset.size("validation")
    gap = switch.smallest_gap(examples)
    if gap <= COARSE or not hasattr(setup.tuner, "space"):  # a schedule chooses nothing
        return None
    return (
        f"note: {examples:,} validation examples hardly tell apart accuracies less "
        f"than {gap:.1f} points from each other; more of them make better decisions"
    )


def resuming(run: Run, directory: RunDirectory | Follower) -> str:
    """Where a run goes on."""
    step = f", step {run.pending.progress.steps}" if run.pending else ""
    return f"resuming {directory.path} at epoch {run.epoch}{step}"


def diverged(run: Run, directory: RunDirectory | Follower) -> str:
    """Why a run cannot go on."""
    tried = directory.rows["decisions"][-1]["trials"]
    settings = "; ".join(map(display_lib.setting, tried))
    return (
        f"every branch of epoch {run.epoch} diverged, {ATTEMPTS} times in a row, last "
        f"at {settings}; lower config.optimizer.learning_rate and the upper bounds of "
        f"config.search_space, and take another --workdir"
    )


def advance(
    setup: config_lib.Setup,
    trainer: Trainer,
    run: Run,
    directory: RunDirectory | Follower,
    display: Display,
) -> Run:
    """One decision: an epoch of Algorithm 4, or the random start."""
    run = train_branches(setup, trainer, run, directory)
    try:
        new, rows = decide(setup, trainer, run)
    except KeyboardInterrupt:
        save(run, directory)  # the branches need not be trained again
        raise
    tell_skipped(setup, display)
    save(new, directory, rows)

    steps = setup.accepted_steps(new.tuner)
    display.epochs = -(-steps // trainer.dataset.steps_per_epoch)
    images = (new.total_steps - run.total_steps) * trainer.dataset.batch_size
    assert run.pending is not None
    display.decision(rows, directory.rows["metrics"], images / run.pending.seconds)
    return new


def train_branches(
    setup: config_lib.Setup,
    trainer: Trainer,
    run: Run,
    directory: RunDirectory | Follower,
) -> Run:
    """Trains every branch of the next decision on the same batches.

    The run is saved on the way, when that is due and when it is to stop.
    """

    def pause() -> bool:
        due = directory.seconds_since_save() >= 60 * setup.save_minutes
        return due or signals.asked()

    pause = collectives.agreed(pause)
    key, began = jax.random.wrap_key_data(run.key), time.perf_counter()
    pending = run.pending or propose(setup, trainer, run, key)
    steps = trial_steps(setup, run, pending.trials)
    while True:
        progress = trainer.train(pending.progress, steps, key, pause)
        jax.block_until_ready(progress.states)
        now = time.perf_counter()
        pending = Pending(pending.trials, progress, pending.seconds + now - began)
        began, run = now, run._replace(pending=pending, skipped=skipped(setup))
        done, stop = progress.steps == steps, collectives.any_of(signals.asked())
        if stop or not done:
            save(run, directory)
        if stop:
            raise KeyboardInterrupt
        if done:
            return run


def propose(
    setup: config_lib.Setup, trainer: Trainer, run: Run, key: jax.Array
) -> Pending:
    """The branches of the next decision.

    The incumbent needs no search: where branches take turns it is already trained while
    the tuner looks for a challenger, which then catches up with it.
    """
    incumbent = getattr(setup.tuner, "incumbent", lambda _: None)(run.tuner)
    if incumbent is None or not trainer.takes_turns(2) or jax.process_count() > 1:
        return begin(setup, trainer, run, setup.tuner.ask(run.tuner))
    with ThreadPoolExecutor(1) as pool:
        search = pool.submit(setup.tuner.ask, run.tuner)
        first = begin(
            setup, trainer, run, Trials.of({n: [x] for n, x in incumbent.items()})
        )
        steps = trial_steps(setup, run, first.trials)
        ahead = trainer.train(first.progress, steps, key, pause=search.done)
        pending = begin(setup, trainer, run, search.result())
    if trainer.diverged(ahead.losses).any():  # as if nothing had been trained yet
        return pending
    return pending._replace(progress=trainer.join(ahead, pending.progress, key))


def begin(
    setup: config_lib.Setup, trainer: Trainer, run: Run, trials: Trials
) -> Pending:
    """The branches of trials, where they start from."""
    trials = within(run.limit, trials)
    skipped = trials.block * trial_steps(setup, run, trials)
    states = [trainer.skip(run.held[parent], skipped) for parent in trials.parents]
    settings = [trials.setting(i) for i in range(len(states))]
    return Pending(trials, trainer.begin(states, settings))


def within(limit: float, trials: Trials) -> Trials:
    """The trials, with no learning rate above a limit."""
    rates = trials.hparams.get("learning_rate")
    if rates is None:
        return trials
    rates = np.minimum(rates, np.float32(limit))
    return trials._replace(hparams=trials.hparams | {"learning_rate": rates})


def trial_steps(setup: config_lib.Setup, run: Run, trials: Trials) -> int:
    """Optimizer steps of each branch."""
    steps = max(1, round(trials.epochs * setup.dataset.steps_per_epoch))
    return min(steps, setup.accepted_steps(run.tuner) - run.step)


def decide(
    setup: config_lib.Setup, trainer: Trainer, run: Run
) -> tuple[Run, dict[str, dict[str, Any]]]:
    """Scores the trained branches and goes on as one of them, or stays.

    Returns:
      The run after the decision, and its rows.
    """
    assert run.pending is not None
    trials, progress, spent = run.pending
    began = time.perf_counter()
    losses = progress.losses
    branches = [
        score_branch(setup.tuner, trainer, *branch)
        for branch in zip(progress.states, losses, strict=True)
    ]
    scores = np.array([branch.score for branch in branches], np.float32)
    tuner, decision = setup.tuner.tell(run.tuner, trials, scores)
    new = follow(run, branches, tuner, decision)
    taken = int(trainer.steps_taken(losses).sum())
    new = new._replace(total_steps=run.total_steps + taken)
    if new.attempts > 1:
        new = narrow(setup.tuner, new, trials)

    rows = {"decisions": decision_row(run, new, trials, scores, decision)}
    if decision.branch >= 0:
        branch = branches[decision.branch]
        ended = new.step == setup.accepted_steps(new.tuner)
        if ended:
            branch = average_or_end(trainer, branch)
        if setup.backtracking:
            new = remember(new, branch)
        rows["metrics"] = metrics_row(new, trials.setting(decision.branch), branch)
        if ended:
            new, tested = finish(trainer, new, branch)
            rows["metrics"] |= tested
        rows["metrics"]["seconds"] = spent + time.perf_counter() - began
    new = new._replace(skipped=skipped(setup))
    if setup.dataset.skips.limit and "metrics" in rows:
        rows["metrics"]["skipped_records"] = len(new.skipped)
    return new, rows


def score_branch(
    tuner: Strategy, trainer: Trainer, state: TrainState, losses: np.ndarray
) -> Branch:
    """Scores a branch on validation data. losses: f32[steps], of its training."""
    train_loss = float(losses.mean())
    if trainer.diverged(losses).any():
        unknown = Evaluation(math.nan, math.nan, 0)
        return Branch(state, train_loss, unknown, math.nan)
    validation = trainer.evaluate(state, "validation")
    sound = np.isfinite(validation.loss) and trainer.is_finite(state)
    score = score_of(tuner, validation) if sound else math.nan
    return Branch(state, train_loss, validation, score)


def follow(run: Run, branches: list[Branch], tuner: Any, decision: Decision) -> Run:
    """The run after a decision: the branch it chose, never trained again.

    Where all diverged that is the last good state, with fresh randomness.
    """
    assert run.pending is not None
    trials, progress, _ = run.pending
    states = [branch.state for branch in branches] + run.held
    run = run._replace(
        held=[states[i] for i in decision.hold], tuner=tuner, pending=None
    )
    if decision.branch >= 0:
        return run._replace(
            score=branches[decision.branch].score,
            epoch=run.epoch + 1,
            attempts=0,
            step=run.step + progress.steps,
        )
    sound = np.isfinite([branch.score for branch in branches]).any()
    if trials.probe or sound:
        return run
    key = jax.random.fold_in(jax.random.wrap_key_data(run.key), run.attempts)
    return run._replace(attempts=run.attempts + 1, key=key_data(key))


def narrow(tuner: Strategy, run: Run, trials: Trials) -> Run:
    """The run, to go on with smaller learning rates than those of some trials.

    Not after the first attempt: most tuners then try something else by themselves.
    """
    if "learning_rate" not in trials.hparams:
        return run
    limit = NARROWER * float(trials.hparams["learning_rate"].max())
    axis = getattr(tuner, "space", {}).get("learning_rate")
    return run._replace(limit=max(limit, axis.low) if axis else limit)


def remember(run: Run, branch: Branch) -> Run:
    """The run after an accepted epoch, if that is the best so far; of equals the last.

    By accuracy, whatever the tuner goes by: a network that is too sure of itself has
    its least loss long before it has learned the most.
    """
    accuracy = branch.validation.accuracy
    if accuracy < run.best_accuracy:
        return run
    return run._replace(
        best=[branch.state], best_epoch=run.epoch - 1, best_accuracy=accuracy
    )


def average_or_end(trainer: Trainer, last: Branch) -> Branch:
    """The last epoch's network: an average of its path, if there is one, or the end of
    it, whichever has the smaller validation loss. After an anneal that is often the
    end, and a schedule that is played as it stands ends as it would have."""
    end = trainer.without_average(last.state)
    if end is last.state:
        return last
    validation = trainer.evaluate(end, "validation")
    if not validation.loss < last.validation.loss:
        return last
    return last._replace(state=end, validation=validation)


def finish(trainer: Trainer, run: Run, last: Branch) -> tuple[Run, dict[str, Any]]:
    """The run at its end, and what the last row of metrics.jsonl has more than others.

    It goes back to its best epoch if that was better than the last by more than the
    validation split could show by chance: the best of many epochs always looks better.
    """
    test = trainer.evaluate(last.state, "test")
    results = {"test_accuracy": test.accuracy, "test_loss": test.loss}
    fallen = run.best_accuracy - last.validation.accuracy
    others, examples = max(1, run.epoch - 1), last.validation.count
    if not run.best or fallen <= switch.smallest_gap(examples, comparisons=others):
        return run._replace(held=[last.state], best=[]), results
    best = trainer.evaluate(run.best[0], "test")
    results = {
        "test_accuracy": best.accuracy,
        "test_loss": best.loss,
        "best_epoch": run.best_epoch,  # of the network that was kept and tested
        "last_test_accuracy": test.accuracy,
    }
    return run._replace(held=run.best, best=[]), results


def decision_row(
    before: Run, after: Run, trials: Trials, scores: np.ndarray, decision: Decision
) -> dict[str, Any]:
    """A row of decisions.jsonl: what was tried, what came of it, and why."""
    extra = after.total_steps - before.total_steps - (after.step - before.step)
    return jsonl.decision_row(
        trials,
        scores,
        decision,
        score_before=before.score,
        extra_steps=extra,
        rollback=rollback(after),
    )


def rollback(run: Run) -> dict[str, Any] | None:
    """Where every branch diverged: the how many-th attempt that was, and the largest
    learning rate of the next, None without a limit."""
    if not run.attempts:
        return None
    return {"attempt": run.attempts, "learning_rate_limit": run.limit}


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
