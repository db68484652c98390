"""The story of a run: ask, train every branch, score them, tell, go on with one."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hyperdyn_jax import config as config_lib
from hyperdyn_jax import display as display_lib
from hyperdyn_jax import report, rundir, signals, switch
from hyperdyn_jax.display import Display
from hyperdyn_jax.host import key_data
from hyperdyn_jax.rundir import RunDirectory
from hyperdyn_jax.training import Evaluation, Trainer, TrainState
from hyperdyn_jax.types import Decision, Strategy, Trials

ATTEMPTS = 3  # at one epoch, before a run in which everything diverges gives up


class DivergedError(RuntimeError):
    """Every branch of an epoch diverged, in every attempt."""


class Run(NamedTuple):
    """Everything that a run needs to go on; a checkpoint holds it.

    held: states of the network that trials start from; the first is the run itself.
    best: with backtracking, the state of the epoch that was best on validation data.
    tuner: the tuner's state.
    key: u32[...], raw PRNG key of the augmentation.
    score: of the run on validation data, as the tuner measures it.
    epoch: decisions so far that took the run on, one an epoch for most tuners.
    attempts: decisions in a row, up to now, in which every branch diverged.
    step, total_steps: optimizer steps on the accepted path, and with every trial.
    best_epoch, best_accuracy: which epoch `best` is of, and its accuracy in percentage
      points.
    skipped: what is wrong with each record that was left out so far.
    """

    held: list[TrainState]
    best: list[TrainState]
    tuner: Any
    key: np.ndarray
    score: float
    epoch: int = 0
    attempts: int = 0
    step: int = 0
    total_steps: int = 0
    best_epoch: int = -1
    best_accuracy: float = 0.0
    skipped: Sequence[str] = ()


class Branch(NamedTuple):
    """A trial, trained and scored; the score of one that diverged is NaN."""

    state: TrainState
    train_loss: float
    validation: Evaluation
    score: float


def train_and_evaluate(
    config: Mapping[str, Any], workdir: str | Path, display: Display | None = None
) -> list[dict[str, Any]]:
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
    setup = check(config, Path(workdir))
    display = display or Display(setup.epochs)
    with RunDirectory(Path(workdir), config, display.say) as directory:
        if directory.is_finished():
            display.say(f"{workdir} is finished already; nothing to do")
        else:
            run_to_end(setup, directory, display)
    page = report.write_report([workdir])
    display.summary(directory.rows["metrics"], page)
    return directory.rows["metrics"]


def check(config: Mapping[str, Any], workdir: Path) -> config_lib.Setup:
    """The parts of the run, if there is no problem with config and workdir."""
    problems = rundir.problems(workdir, config)
    try:
        setup = config_lib.build(config)
    except config_lib.ConfigError as error:
        problems = error.problems + problems
    if problems:
        raise config_lib.ConfigError(problems)
    return setup


def run_to_end(
    setup: config_lib.Setup, directory: RunDirectory, display: Display
) -> None:
    """From w0 or the last checkpoint to the last epoch."""
    trainer = Trainer(setup.model, setup.optimizer, setup.dataset)
    if note := small_validation(setup):
        display.say(note)
    with display.working("compiling"), contextlib.closing(setup.dataset):
        run = resume(start(setup, trainer), trainer, directory)
        if run.epoch:
            display.say(f"resuming {directory.path} at epoch {run.epoch}")
        setup.dataset.skips.resume(run.skipped)
        tell_skipped(setup, display)
        while run.step < setup.accepted_steps(run.tuner):
            if run.attempts >= ATTEMPTS:  # also when the same command is given again
                raise DivergedError(diverged(run, directory))
            signals.check()
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


def diverged(run: Run, directory: RunDirectory) -> str:
    """Why a run cannot go on."""
    tried = directory.rows["decisions"][-1]["trials"]
    settings = "; ".join(map(display_lib.setting, tried))
    return (
        f"every branch of epoch {run.epoch} ended with numbers that are not finite, "
        f"{ATTEMPTS} times in a row, last at {settings}; lower the upper bounds of "
        f"config.search_space and take another --workdir"
    )


def start(setup: config_lib.Setup, trainer: Trainer) -> Run:
    """A run that has not begun: w0, scored."""
    weights, tuner, augmentation = jax.random.split(jax.random.key(setup.seed), 3)
    state = trainer.init(weights)
    score = score_of(setup.tuner, trainer.evaluate(state, "validation"))
    tuner_state = setup.tuner.init(tuner, score)
    return Run([state], [], tuner_state, key_data(augmentation), score)


def advance(
    setup: config_lib.Setup,
    trainer: Trainer,
    run: Run,
    directory: RunDirectory,
    display: Display,
) -> Run:
    """One decision: an epoch of Algorithm 4, or the random start."""
    began = time.perf_counter()
    trials = setup.tuner.ask(run.tuner)
    steps = max(1, round(trials.epochs * trainer.dataset.steps_per_epoch))
    steps = min(steps, setup.accepted_steps(run.tuner) - run.step)
    branches = try_out(setup.tuner, trainer, run, trials, steps)
    trained = time.perf_counter() - began
    scores = np.array([branch.score for branch in branches], np.float32)
    tuner, decision = setup.tuner.tell(run.tuner, trials, scores)
    new = follow(run, branches, tuner, decision, steps)

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
        rows["metrics"]["seconds"] = time.perf_counter() - began
        if setup.dataset.skips.limit:
            rows["metrics"]["skipped_records"] = len(setup.dataset.skips.lines)
    new = new._replace(skipped=tuple(setup.dataset.skips.lines))
    tell_skipped(setup, display)
    directory.record(rows)
    save(new, directory)

    steps = setup.accepted_steps(new.tuner)
    display.epochs = -(-steps // trainer.dataset.steps_per_epoch)
    images = (new.total_steps - run.total_steps) * trainer.dataset.batch_size
    display.decision(rows, directory.rows["metrics"], images / trained)
    return new


def try_out(
    tuner: Strategy, trainer: Trainer, run: Run, trials: Trials, steps: int
) -> list[Branch]:
    """Trains every branch on the same batches and scores it on validation data."""
    count, skipped = len(trials.parents), trials.block * steps
    states, losses = trainer.train(
        [trainer.skip(run.held[parent], skipped) for parent in trials.parents],
        [trials.setting(i) for i in range(count)],
        steps,
        jax.random.wrap_key_data(run.key),
    )
    branches = []
    for state, loss in zip(states, losses, strict=True):
        validation = trainer.evaluate(state, "validation")
        finite = np.isfinite([loss, validation.loss]).all()
        sound = finite and trainer.is_finite(state)
        score = score_of(tuner, validation) if sound else np.nan
        branches.append(Branch(state, float(loss), validation, score))
    return branches


def score_of(tuner: Strategy, validation: Evaluation) -> float:
    """What the tuner maximises: accuracy in percentage points, or minus the loss."""
    loss = tuner.metric == "loss"
    return -validation.loss if loss else validation.accuracy


def follow(
    run: Run, branches: list[Branch], tuner: Any, decision: Decision, steps: int
) -> Run:
    """The run after a decision: the branch it chose, never trained again."""
    states = [branch.state for branch in branches] + run.held
    run = run._replace(
        held=[states[i] for i in decision.hold],
        tuner=tuner,
        total_steps=run.total_steps + steps * len(branches),
    )
    if decision.branch < 0:  # a failed attempt, or a probe that led back here
        failed = not np.isfinite([branch.score for branch in branches]).any()
        return run._replace(attempts=run.attempts + 1 if failed else 0)
    return run._replace(
        score=branches[decision.branch].score,
        epoch=run.epoch + 1,
        attempts=0,
        step=run.step + steps,
    )


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
    if not run.best or fallen <= switch.smallest_gap(last.validation.count):
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
    count = len(trials.parents)
    extra = after.total_steps - before.total_steps - (after.step - before.step)
    model = dict(trials.model)
    if "length_scale" in model:
        scales = zip(trials.hparams, model.pop("length_scale"), strict=True)
        model["length_scales"] = dict(scales)
    return {
        "epoch": decision.epoch,
        "trials": [trials.setting(i) for i in range(count)],
        "scores": scores,
        "score_before": before.score,
        "branch": decision.branch,
        "kept": decision.kept,
        "keep_probability": decision.keep_probability,
        "draw": decision.draw,
        "posterior_mean": trials.posterior_mean,
        "posterior_stddev": trials.posterior_stddev,
        "expected_improvement": trials.expected_improvement,
        "block": trials.block,
        "p_value": decision.p_value,
        "gp": model or None,
        "extra_steps": extra,
    }


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


def save(run: Run, directory: RunDirectory) -> None:
    """One checkpoint of everything: network, tuner, keys and counts together."""
    arrays, facts = _split(run)
    counts = {"held": len(run.held), "best": len(run.best)}
    directory.checkpoint(arrays, facts | counts)


def resume(begin: Run, trainer: Trainer, directory: RunDirectory) -> Run:
    """The run of the newest checkpoint, or its beginning if there is none."""
    facts = directory.resume()
    if facts is None:
        return begin
    states = {name: begin.held * facts[name] for name in ("held", "best")}
    like, names = _split(begin._replace(**states))
    arrays = directory.checkpoints.restore(like)
    states = {
        name: [trainer.replicate(TrainState(*state)) for state in arrays.pop(name)]
        for name in states
    }
    facts = {name: facts[name] for name in names if name in facts}
    return Run(**states, **arrays, **facts)


def _split(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a run that are arrays, and those that are numbers."""
    arrays = {name: getattr(run, name) for name in ("held", "best", "tuner", "key")}
    facts = {name: x for name, x in run._asdict().items() if name not in arrays}
    return arrays, facts
