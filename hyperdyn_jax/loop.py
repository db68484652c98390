"""A run of a config: from w0 or its last checkpoint to its report."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperdyn_jax.distributed import collectives
from hyperdyn_jax.run import config as config_lib
from hyperdyn_jax.run import console, run_dir, trackers
from hyperdyn_jax.run.console import Display, folded
from hyperdyn_jax.run.engine import Engine
from hyperdyn_jax.run.jsonl import Row
from hyperdyn_jax.run.network import Network, forked, smallest_gap
from hyperdyn_jax.run.rows import Directory, InMemory, is_finished
from hyperdyn_jax.run.run_dir import RunDirectory
from hyperdyn_jax.run.state import Decided, Run
from hyperdyn_jax.system import files
from hyperdyn_jax.training.train_step import state_shapes
from hyperdyn_jax.training.trainer import Trainer


def train_and_evaluate(
    config: Mapping[str, Any], workdir: str | Path, display: Display | None = None
) -> list[dict[str, Any]]:
    """Trains a network while its hyperparameters are tuned, or goes on doing so.

    Args:
      config: nested settings, as `configs/` make them.
      workdir: the run directory. An unfinished run of the same config in it is
        resumed, and ends as it would have ended without the stop, to the bit.
      display: shows what happens.

    Returns:
      The rows of metrics.jsonl, one for each accepted epoch.

    Raises:
      ConfigError: with every problem of config and workdir; no file was changed.
      DivergedError: no setting could be found that trains with finite numbers.
      SaveError: the disk is full or the like; the newest checkpoint is as it was.
    """
    leads = collectives.first()
    setup, path = check(config, workdir), files.expand(workdir)
    setup = dataclasses.replace(setup, tuner=collectives.shared(setup.tuner))
    display = display or Display(quiet=not leads)
    # Opened first: what is wrong with it is noticed before anything is shared.
    opened = _directory(path, config, display) if leads else InMemory(path)
    with opened as directory:
        directory.rows = collectives.share_json(directory.rows)
        if is_finished(directory.rows):
            directory.resume()  # the last rows, if only the checkpoint has them
            display.say(f"{path} is finished already; nothing to do")
        else:
            for note in notes(config, setup):
                display.say(folded(f"note: {note}"))
            run_to_end(setup, directory, display)
    if leads:
        display.summary(directory.rows["metrics"], _report(path), setup.backtracking)
    return directory.rows["metrics"]


def _directory(path: Path, config: Row, display: Display) -> RunDirectory:
    """The run directory, which has TensorBoard's files whatever else is asked for."""
    names = ["tensorboard", *trackers.parse(config.get("trackers", ""))]
    return RunDirectory(path, config, display.say, list(dict.fromkeys(names)))


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
    if path and (problems := run_dir.problems(path, config)):
        raise config_lib.ConfigError(problems)
    if setup.fork and not (path and (path / "checkpoints").exists()):
        shape = setup.dataset.image_shape
        forked(setup.fork, state_shapes(setup.model, setup.optimizer, shape))
    return setup


def run_to_end(setup: config_lib.Setup, directory: Directory, display: Display) -> None:
    """From w0 or the last checkpoint to the last epoch."""
    trainer = Trainer(
        setup.model, setup.optimizer, setup.dataset,
        say=display.say, watch=display.inside,
    )  # fmt: skip
    network = Network(setup, trainer)
    engine = Engine(setup.tuner, network, setup.backtracking)

    def told(before: Run, decided: Decided) -> None:
        tell_skipped(setup, display)
        run = decided.run
        images = (run.total_steps - before.total_steps) * setup.dataset.batch_size
        assert before.pending is not None
        speed, left = images / before.pending.seconds, engine.length(run) - run.step
        where = console.at_step(run.step, engine.length(run))
        metrics = directory.rows["metrics"]
        display.decision(where, decided.rows, metrics, speed, left)

    with display.working("compiling"), contextlib.closing(setup.dataset):
        if run := network.resume(engine, directory):
            display.say(resuming(run, directory))
        else:
            run = network.begin()
        tell_skipped(setup, display)
        engine.run_to_end(run, directory, told)


def tell_skipped(setup: config_lib.Setup, display: Display) -> None:
    """A line for each record that was left out since the last call."""
    for line in setup.dataset.skips.news():
        display.say(f"warning: {line}; left out")


def notes(config: Mapping[str, Any], setup: config_lib.Setup) -> list[str]:
    """What a person should know of a run beforehand, a line each."""
    found = [small_validation(setup), getattr(setup.tuner, "note", "")]
    space: Mapping[str, Mapping[str, Any]] = config["search_space"]
    for name, axis in setup.tuner.searched.items():
        low, high = space[name]["low"], space[name]["high"]
        if axis.low < low or axis.high > high:
            own = axis.low if axis.low < low else axis.high
            found.append(
                f"your own {name}, {own:g}, is outside of its range, {low:g} to "
                f"{high:g}, so {axis.low:g} to {axis.high:g} is searched"
            )
    return [note for note in found if note]


COARSE = 2.0  # percentage points that a validation split should be able to tell


def small_validation(setup: config_lib.Setup) -> str | None:
    """A note where the validation split is too small for what the tuner has to tell."""
    examples = setup.dataset.size("validation")
    gap = smallest_gap(examples)
    by_loss = setup.tuner.metric == "loss"  # which tells more
    if gap <= COARSE or by_loss or not setup.tuner.searched:  # a schedule chooses none
        return None
    return (
        f"{examples:,} validation examples hardly tell apart accuracies less "
        f"than {gap:.1f} points from each other; more of them make better decisions"
    )


def resuming(run: Run, directory: Directory) -> str:
    """Where a run goes on."""
    step = f", step {run.pending.progress.steps}" if run.pending else ""
    return f"resuming {directory.path} at epoch {run.epoch}{step}"
