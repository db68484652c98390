"""What the Gaussian process believed before each decision, computed again from its row.

A row of decisions.jsonl has the model's parameters, and the rows before it have all
that the model had seen; so the posterior can be had again, along every axis of the
search space. It counts only where it says of the trials what the row itself says.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from hyperdyn_jax.report.numbers import Run
from hyperdyn_jax.run import config_strategy
from hyperdyn_jax.run.jsonl import Row
from hyperdyn_jax.run.verdicts import prediction_of
from hyperdyn_jax.strategies import explore_then_commit, hyperdyn
from hyperdyn_jax.strategies.search import DoNothingControl
from hyperdyn_jax.system import compiler
from hyperdyn_jax.tuner import cpu_jit, gp
from hyperdyn_jax.tuner.interface import Trials
from hyperdyn_jax.tuner.search_space import SearchSpace

GRID = 25  # points along an axis
TOLERANCE = 1e-2  # of a deviation: the parameters in a row are rounded to float32

Tuner = hyperdyn.Hyperdyn | explore_then_commit.ExploreThenCommit


class Belief(NamedTuple):
    """The model at one moment, gains in the unit of the strategy's scores.

    row: index of the decision that was to come; the number of decisions after the last.
    seen: how many trials the model had seen, infeasible ones included.
    mean: f32[axes, GRID], expected gain along each axis of the space, with the other
      hyperparameters as the first trial has them.
    stddev: f32[axes, GRID], of the latent gain.
    noise: f32[axes, GRID], deviation of an observation of it.
    trials: f32[c, 2], mean and stddev at the trials.
    """

    row: int
    seen: int
    mean: np.ndarray
    stddev: np.ndarray
    noise: np.ndarray
    trials: np.ndarray


class Beliefs(NamedTuple):
    """All of a run.

    space: the axes. kinds: of each, as a config has it.
    observations: (index of its decision, number of its trial) of every trial that the
      model has seen, in order.
    """

    space: SearchSpace
    kinds: dict[str, str]
    observations: list[tuple[int, int]]
    steps: list[Belief]


def recompute(run: Run) -> Beliefs | None:
    """What the model of a run believed; None if it has none, or one that the run's rows
    do not determine (an earlier run's probes that are gone, another version's rows)."""
    modelled = (row for row in run.decisions if row.get("gp"))
    if not any(prediction_of(row, 0) for row in modelled):
        return None
    try:
        tuner = config_strategy.make_tuner(run.config, run.metrics[0]["step"])
    except (ValueError, TypeError, KeyError, AttributeError):  # damaged or edited
        return None
    tuner = tuner.tuner if isinstance(tuner, DoNothingControl) else tuner
    if not isinstance(tuner, Tuner):
        return None
    units = np.linspace(0, 1, GRID, dtype=np.float32)
    observations: list[tuple[int, int]] = []
    steps = list(_replay(tuner, run, units, observations))
    if not steps or not all(_agrees(run, step) for step in steps):
        return None
    names = {axis: kind for kind, axis in config_strategy.AXES.items()}
    kinds = {name: names[type(axis)] for name, axis in tuner.space.items()}
    return Beliefs(tuner.space, kinds, observations, steps)


def _agrees(run: Run, step: Belief) -> bool:
    """Whether a belief says of its trials what their row says."""
    if step.row == len(run.decisions):
        return True
    row = run.decisions[step.row]
    told = [prediction_of(row, i) for i in range(len(step.trials))]
    if None in told:
        return False
    apart = np.abs(np.array(told) - step.trials)
    return bool((apart <= TOLERANCE * (step.trials[:, 1:] + 1e-3)).all())


def _replay(
    tuner: Tuner, run: Run, units: np.ndarray, observations: list[tuple[int, int]]
) -> Iterator[Belief]:
    """The belief before every decision that has one; adds to what was observed."""
    probes = isinstance(tuner, explore_then_commit.ExploreThenCommit)
    data = tuner.init(jax.random.key(0), -1.0 if probes else 0.0).data
    last = None
    for index, row in enumerate(run.decisions):
        if probes and not _is_probe(row):
            continue
        last = row
        if row.get("gp"):
            yield _believe(tuner, row, data, units, (index, len(observations)))
        points = cpu_jit.to_unit(tuner, _trials(tuner, row).hparams)
        data = data.append(points, 0 if probes else row["epoch"], _gains(row, probes))
        observations += [(index, i) for i in range(len(row["trials"]))]
    if probes and last is not None and data.feasible.any():
        final = {**last, "gp": None, "trials": last["trials"][:1]}
        seen = (len(run.decisions), len(observations))
        yield _believe(tuner, final, data, units, seen)


def _is_probe(row: Row) -> bool:
    """Of those that explore learns from: not a pair, not an epoch that diverged."""
    return row["branch"] < 0 and not row.get("block") and not row.get("rollback")


def _trials(tuner: Tuner, row: Row) -> Trials:
    return Trials.of(
        {
            name: np.array([trial[name] for trial in row["trials"]], np.float32)
            for name in tuner.space
        }
    )


def _gains(row: Row, probes: bool) -> np.ndarray:
    """As the model is told them, f32[c]; NaN where a trial diverged."""
    scores = np.array([np.nan if s is None else s for s in row["scores"]], np.float32)
    before = np.float32(row["score_before"])
    return explore_then_commit.progress(before, scores) if probes else scores - before


def _believe(
    tuner: Tuner,
    row: Row,
    data: gp.Observations,
    units: np.ndarray,
    place: tuple[int, int],
) -> Belief:
    trials = cpu_jit.to_unit(tuner, _trials(tuner, row).hparams)
    count = trials.shape[1]
    slices = np.tile(trials[0], (count, len(units), 1))
    for axis in range(count):
        slices[axis, :, axis] = units
    points = np.concatenate([slices.reshape(-1, count), trials])
    if isinstance(tuner, hyperdyn.Hyperdyn):
        moment = (_parameters(tuner, row), data, points, np.float32(row["epoch"]))
        mean, stddev, noise = _predict(tuner, *moment)
    else:
        parameters = _parameters(tuner, row) if row["gp"] else None
        progress = _predict_probe(tuner, parameters, data, points)
        mean, stddev, noise = _in_nats(row, data, *progress)
    split = count * len(units)
    at_trials = np.stack([mean[split:], stddev[split:]], axis=1)
    mean, stddev, noise = (x[:split].reshape(count, -1) for x in (mean, stddev, noise))
    return Belief(*place, mean, stddev, noise, at_trials)


def _in_nats(
    row: Row, data: gp.Observations, mean: np.ndarray, stddev: np.ndarray, noise: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From logarithms to the scores' unit, as explore's own predictions are."""
    start = -np.float32(row["score_before"])
    left = start * np.exp(-mean)
    wide = left * np.float32(
        explore_then_commit.t_over_normal(int(data.feasible.sum()))
    )
    return start - left, wide * stddev, wide * noise


def _parameters(tuner: Tuner, row: Row) -> gp.KernelParams:
    model = row["gp"]
    scales = [math.log(model["length_scales"][name]) for name in tuner.space]
    amplitude, noise = math.log(model["amplitude"]), math.log(model["noise"])
    return gp.KernelParams(
        np.array(scales, np.float32), np.float32(amplitude), np.float32(noise)
    )


def _compiled(function: Any) -> Any:
    """As the tuner's programs, but compiled fast and not to be fast: they run a few
    times, and a run waits for its page."""
    return cpu_jit.compiled(function, compiler.RUNS_ONCE)


@_compiled
def _predict(
    tuner: hyperdyn.Hyperdyn,
    parameters: gp.KernelParams,
    data: gp.Observations,
    points: jax.Array,
    epoch: jax.Array,
) -> tuple[Any, ...]:
    """Mean, stddev and noise of the gains at points f32[n, d]: f32[n] each."""
    parameters, data, epoch = cpu_jit.double((parameters, data, epoch))
    posterior = gp.condition(parameters, data, *hyperdyn.kernels(tuner))
    return _at(posterior, parameters, points, epoch)


@_compiled
def _predict_probe(
    tuner: explore_then_commit.ExploreThenCommit,  # noqa: ARG001 (one program a tuner)
    parameters: gp.KernelParams | None,
    data: gp.Observations,
    points: jax.Array,
) -> tuple[Any, ...]:
    """The same of the progress of probes; None fits the parameters, as explore does
    before it chooses."""
    if parameters is None:
        parameters, data, posterior = gp.fit_afresh(data)
    else:
        data = cpu_jit.double(data)
        parameters = cpu_jit.double(parameters)
        posterior = gp.condition(parameters, data, *gp.USUAL)
    return _at(posterior, parameters, points, jax.numpy.zeros((), data.epochs.dtype))


def _at(
    posterior: gp.Posterior,
    parameters: gp.KernelParams,
    points: jax.Array,
    epoch: jax.Array,
) -> tuple[Any, ...]:
    mean, stddev = jax.vmap(lambda x: posterior.predict(gp.Query(x, epoch)))(
        cpu_jit.double(points)
    )
    noise = parameters.noise_stddev(posterior.scale)
    return cpu_jit.single((mean, stddev, jax.numpy.broadcast_to(noise, mean.shape)))
