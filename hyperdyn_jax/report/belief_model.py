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
from hyperdyn_jax.strategies import hyperdyn
from hyperdyn_jax.strategies.search import DoNothingControl
from hyperdyn_jax.system import compiler
from hyperdyn_jax.tuner import cpu_jit, gp
from hyperdyn_jax.tuner.interface import Trials
from hyperdyn_jax.tuner.search_space import SearchSpace

GRID = 25  # points along an axis
TOLERANCE = 1e-2  # of a deviation: the parameters in a row are rounded to float32


class Belief(NamedTuple):
    """The model at one moment, gains in the unit of the strategy's scores.

    row: index of the decision that was to come.
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
    do not determine, as of another version."""
    modelled = (row for row in run.decisions if row.get("gp"))
    if not any(prediction_of(row, 0) for row in modelled):
        return None
    try:
        tuner = config_strategy.make_tuner(run.config, run.metrics[0]["step"])
    except (ValueError, TypeError, KeyError, AttributeError):  # damaged or edited
        return None
    tuner = tuner.tuner if isinstance(tuner, DoNothingControl) else tuner
    if not isinstance(tuner, hyperdyn.Hyperdyn):
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
    row = run.decisions[step.row]
    told = [prediction_of(row, i) for i in range(len(step.trials))]
    if None in told:
        return False
    apart = np.abs(np.array(told) - step.trials)
    return bool((apart <= TOLERANCE * (step.trials[:, 1:] + 1e-3)).all())


def _replay(
    tuner: hyperdyn.Hyperdyn,
    run: Run,
    units: np.ndarray,
    observations: list[tuple[int, int]],
) -> Iterator[Belief]:
    """The belief before every decision that has one; adds to what was observed."""
    data = tuner.init(jax.random.key(0), 0.0).data
    for index, row in enumerate(run.decisions):
        if row.get("gp"):
            yield _believe(tuner, row, data, units, (index, len(observations)))
        points = cpu_jit.to_unit(tuner, _trials(tuner, row).hparams)
        data = data.append(points, row["epoch"], _gains(row))
        observations += [(index, i) for i in range(len(row["trials"]))]


def _trials(tuner: hyperdyn.Hyperdyn, row: Row) -> Trials:
    return Trials.of(
        {
            name: np.array([trial[name] for trial in row["trials"]], np.float32)
            for name in tuner.space
        }
    )


def _gains(row: Row) -> np.ndarray:
    """As the model is told them, f32[c]; NaN where a trial diverged."""
    scores = np.array([np.nan if s is None else s for s in row["scores"]], np.float32)
    return scores - np.float32(row["score_before"])


def _believe(
    tuner: hyperdyn.Hyperdyn,
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
    moment = (_parameters(tuner, row), data, points, np.float32(row["epoch"]))
    mean, stddev, noise = _predict(tuner, *moment)
    split = count * len(units)
    at_trials = np.stack([mean[split:], stddev[split:]], axis=1)
    mean, stddev, noise = (x[:split].reshape(count, -1) for x in (mean, stddev, noise))
    return Belief(*place, mean, stddev, noise, at_trials)


def _parameters(tuner: hyperdyn.Hyperdyn, row: Row) -> gp.KernelParams:
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
    mean, stddev = jax.vmap(lambda x: posterior.predict(gp.Query(x, epoch)))(
        cpu_jit.double(points)
    )
    noise = parameters.noise_stddev(posterior.scale)
    return cpu_jit.single((mean, stddev, jax.numpy.broadcast_to(noise, mean.shape)))
