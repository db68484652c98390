"""Data that a Gaussian process does not like, through everything that decides by it.

`faults_boundary.py` counts what comes of 10,000 cases each, `test_fuzz` of a few:

  model     the posterior and the fit alone, from a random corner of the parameters
  hyperdyn  ask, tell and ask again, from a state that holds the data
  race      a decision, in runs from the untrained network to the end
"""

import collections
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax import LogComplement, LogUniform, SearchSpace, Uniform
from hyperdyn_jax.strategies import Schedule
from hyperdyn_jax.strategies.hyperdyn import Hyperdyn
from hyperdyn_jax.strategies.race import RUN, CannotTellError, Race
from hyperdyn_jax.tuner import cpu_jit, gp
from hyperdyn_jax.tuner.interface import Trials

CAPACITY = 24  # observations: every program is compiled once for all cases
SPACES = (
    SearchSpace(learning_rate=LogUniform(1e-5, 10.0)),
    SearchSpace(learning_rate=LogUniform(1e-3, 1.0), momentum=LogComplement(0.0, 0.99)),
    SearchSpace(
        learning_rate=LogUniform(1e-6, 1.0),
        b1=LogComplement(0.0, 0.99),
        weight_decay=Uniform(0.0, 0.1),
    ),
)
KERNELS = tuple(gp.SPATIAL_KERNELS)
POINTS = ("spread", "duplicates", "one point", "cluster", "corners", "line")
GAINS = (
    "normal",
    "constant",
    "zero",
    "tiny",
    "huge",
    "huge and tiny",
    "outlier",
    "rising",
)
DIVERGED = ("none", "none", "one", "half", "all but one", "all")


class Tally(NamedTuple):
    """What has come of the cases so far.

    cases: how many. kinds: of data, by name. wrong: how many were, by what was.
    first: the first of each in words.
    """

    cases: collections.Counter[str]
    kinds: collections.Counter[str]
    wrong: collections.Counter[str]
    first: dict[str, str]

    @classmethod
    def empty(cls) -> "Tally":
        counters = (collections.Counter() for _ in range(3))
        return cls(*counters, {})

    def run(self, part: str, kind: str, case: Callable[[], Iterator[str]]) -> None:
        """Counts a case, and what is wrong with it; a warning is an exception."""
        self.cases[part] += 1
        self.kinds[kind] += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                problems = list(case())
        except Exception as error:
            problems = [f"exception: {type(error).__name__}: {error}"]
        for problem in problems:
            name = problem.partition(":")[0]
            self.wrong[name] += 1
            self.first.setdefault(name, f"{part}, {kind}: {problem}")


def points_of(kind: str, rng: np.random.Generator, count: int, d: int) -> np.ndarray:
    """f32[count, d] in the unit cube."""
    points = rng.random((count, d))
    if kind == "duplicates":
        points = points[rng.integers(0, max(1, count // 4), count)]
    elif kind == "one point":
        points = np.repeat(points[:1], count, axis=0)
    elif kind == "cluster":
        points = points[:1] + 10.0 ** -rng.integers(2, 12) * (points - 0.5)
    elif kind == "corners":
        points = np.round(points)
    elif kind == "line":
        points[:, 1:] = points[:1, 1:]
    return np.clip(points, 0, 1).astype(np.float32)


def numbers_of(kind: str, rng: np.random.Generator, count: int) -> np.ndarray:
    """f32[count], gains or scores."""
    normal = rng.standard_normal(count)
    sizes = np.where(rng.random(count) < 0.5, 1e30, 1e-30)
    numbers = {
        "normal": normal,
        "constant": np.full(count, normal[0]),
        "zero": np.zeros(count),
        "tiny": 1e-30 * normal,
        "huge": 1e30 * normal,
        "huge and tiny": sizes * normal,
        "outlier": np.where(np.arange(count) == 0, 1e30, normal),
        "rising": np.arange(count) * 10.0 ** rng.integers(-30, 30),
    }[kind]
    return numbers.astype(np.float32)


def with_diverged(
    kind: str, numbers: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The same with NaN or an infinity where a trial diverged."""
    count = len(numbers)
    share = {"none": 0.0, "half": 0.5, "all": 1.0}.get(kind, 0.0)
    lost = rng.random(count) < share
    lost[rng.integers(count)] |= kind == "one"
    if kind == "all but one":
        lost = np.arange(count) != rng.integers(count)
    return np.where(lost, rng.choice([np.nan, np.inf, -np.inf], count), numbers).astype(
        np.float32
    )


def draw(
    rng: np.random.Generator, dimensions: int, capacity: int = CAPACITY
) -> tuple[str, gp.Observations]:
    """Observations, and their kind in words."""
    kinds = [str(rng.choice(each)) for each in (POINTS, GAINS, DIVERGED)]
    count = int(rng.choice([1, 2, 3, capacity // 2, capacity]))
    points = points_of(kinds[0], rng, count, dimensions)
    gains = with_diverged(kinds[2], numbers_of(kinds[1], rng, count), rng)
    epochs = rng.choice([np.zeros(count), np.arange(count), np.full(count, 1e6)])
    data = gp.Observations.empty(capacity, dimensions)
    for point, epoch, gain in zip(points, epochs, gains, strict=True):
        data = data.append(point[None], int(epoch), gain[None])
    return ", ".join(kinds), data


# The model alone.


@cpu_jit.compiled
def _model(
    kernel: str, data: gp.Observations, start: gp.KernelParams, points: jax.Array
) -> tuple[Any, ...]:
    kinds = gp.SPATIAL_KERNELS[kernel], gp.TimeKernel()
    data = cpu_jit.double(data)
    fitted = gp.fit(data, cpu_jit.double(start), *kinds, max_steps=4)
    posterior = gp.condition(fitted, data, *kinds)
    queries = gp.Query(cpu_jit.double(points), jnp.full(len(points), 5.0, jnp.float64))
    mean, stddev = jax.vmap(posterior.predict)(queries)
    weight = jax.vmap(lambda q: gp.feasibility(q, fitted, data, *kinds))(queries)
    return fitted, mean, stddev, weight


def model_case(
    rng: np.random.Generator, data: gp.Observations
) -> Callable[[], Iterator[str]]:
    kernel = str(rng.choice(KERNELS))
    means, deviations = gp._prior(data.points.shape[1])
    corner = means + deviations * rng.uniform(-4, 4, len(means))
    start = gp.KernelParams(*np.split(corner.astype(np.float32), [-2, -1]))
    start = start._replace(log_amplitude=start[1][0], log_noise=start[2][0])
    points = np.concatenate([data.points, rng.random(data.points.shape)])
    return functools.partial(_check_model, kernel, data, start, points)


def _check_model(
    kernel: str, data: gp.Observations, start: gp.KernelParams, points: np.ndarray
) -> Iterator[str]:
    fitted, mean, stddev, weight = _model(kernel, data, start, np.float32(points))
    flat = np.concatenate([np.ravel(x) for x in fitted])
    means, deviations = gp._prior(points.shape[1])
    if not np.isfinite(flat).all():
        yield "NaN: in the fitted parameters"
    elif np.any(np.abs(flat - means) > (gp.PRIOR_RANGE + 1e-6) * deviations):
        yield f"out of bounds: fitted parameters {flat}"
    if not (np.isfinite(mean).all() and np.isfinite(stddev).all()):
        yield "NaN: in the posterior"
    elif not np.all(stddev > 0):
        yield "out of bounds: a standard deviation that is not positive"
    if not np.all((weight > 0) & (weight <= 1)):
        yield "out of bounds: a weight of feasibility"


# Tuners.


def check_trials(space: SearchSpace, trials: Trials, model: bool) -> Iterator[str]:
    """What is wrong with a proposal; its predictions only where a model made it."""
    for name, axis in space.items():
        values = trials.hparams[name].astype(np.float64)
        if not np.isfinite(values).all():
            yield f"NaN: {name} of {values}"
        elif np.any((values < axis.low) | (values > axis.high)):
            yield f"out of bounds: {name} of {values}"
    if not model:
        return
    predicted = np.stack(trials[3:6])
    if not np.isfinite(predicted).all():
        yield f"NaN: predictions {predicted.tolist()}"
    elif np.any(predicted[1:] < 0):
        yield f"out of bounds: predictions {predicted.tolist()}"


def check_state(state: Any, allowed: tuple[str, ...] = ()) -> Iterator[str]:
    """NaN in a tuner's state, but in fields that may have it."""
    for name, value in state._asdict().items():
        for leaf in jax.tree.leaves(value):
            known = name in allowed or np.asarray(leaf).dtype.kind != "f"
            if not known and not np.isfinite(leaf).all():
                yield f"NaN: in {name} of the state"


@functools.cache
def hyperdyn(space: SearchSpace) -> Hyperdyn:
    return Hyperdyn(space, capacity=CAPACITY)


def hyperdyn_case(
    rng: np.random.Generator, space: SearchSpace, data: gp.Observations
) -> Callable[[], Iterator[str]]:
    """From a state that holds the data."""
    kind, lost = str(rng.choice(GAINS)), str(rng.choice(DIVERGED))
    history = numbers_of(kind, rng, hyperdyn(space).window + 1)
    scores = with_diverged(lost, numbers_of(str(rng.choice(GAINS)), rng, 2), rng)
    key, unit = jax.random.key(int(rng.integers(2**31))), rng.random(len(space))
    epoch = np.int32(rng.integers(1, 2_000))
    return functools.partial(
        _check_hyperdyn, space, data, key, unit, epoch, history, scores
    )


def _check_hyperdyn(
    space: SearchSpace,
    data: gp.Observations,
    key: jax.Array,
    unit: np.ndarray,
    epoch: np.int32,
    history: np.ndarray,
    scores: np.ndarray,
) -> Iterator[str]:
    tuner = hyperdyn(space)
    point = tuner.space.from_unit(np.float32(unit))
    state = tuner.init(key, 0.0)._replace(
        epoch=epoch,
        incumbent={name: np.float32(value) for name, value in point.items()},
        history=history,
        data=data,
    )
    trials = tuner.ask(state)
    yield from check_trials(space, trials, model=True)
    state, decision = tuner.tell(state, trials, scores)
    finite = np.isfinite(scores)
    if decision.branch != -1 and not finite[decision.branch]:
        yield "out of bounds: a branch that diverged"
    if (decision.branch == -1) == finite.any():
        yield "out of bounds: a branch where there is none, or none where there is"
    if not np.array_equal(state.data.feasible[-2:], finite):
        yield "out of bounds: the model was given a trial that diverged"
    if not 0 <= decision.keep_probability <= 1:
        yield f"NaN: a keep probability of {decision.keep_probability}"
    yield from check_state(state)
    yield from check_trials(space, tuner.ask(state), model=True)


@functools.cache
def race(space: SearchSpace, anchored: bool) -> Race:
    middle = space.from_unit(np.full(len(space), 0.5, np.float32))
    start = {name: float(value) for name, value in middle.items()}
    base = Schedule.constant(**start) if anchored else None
    return Race(space, 12, 128, base=base)


def race_runs(rng: np.random.Generator, tally: Tally, decisions: int) -> None:
    """Whole runs, each with scores of its own kinds, until there are enough."""
    end = tally.cases["race"] + decisions
    while tally.cases["race"] < end:
        space = SPACES[rng.integers(len(SPACES))]
        tuner = race(space, bool(rng.integers(2)))
        kinds = str(rng.choice(GAINS)), str(rng.choice(DIVERGED))
        start = -np.float32(10.0 ** rng.choice([-30, -3, 0, 1, 30]))
        state = tuner.init(jax.random.key(int(rng.integers(2**31))), start)
        held: list[Any] = [state]
        for _ in range(40):
            step = functools.partial(_check_race, tuner, held, kinds, rng)
            tally.run("race", ", ".join(kinds), step)
            left = len(held) > 1 and tuner.accepted_steps(held[-1]) - held[-1].done
            if tally.cases["race"] >= end or not left > 0:
                break
            held = held[-1:]


def _check_race(
    tuner: Race, held: list[Any], kinds: tuple[str, str], rng: np.random.Generator
) -> Iterator[str]:
    """A decision from the state that is held, and the state after it."""
    state = held[-1]
    trials = tuner.ask(state)
    if state.phase != RUN:  # which cools down to rates below the space
        yield from check_trials(tuner.space, trials, model=False)
    numbers = numbers_of(kinds[0], rng, len(trials.parents))
    scores = with_diverged(kinds[1], numbers, rng)
    try:
        state, decision = tuner.tell(state, trials, scores)
    except CannotTellError:
        if tuner.base is not None or np.ptp(numbers) > 0:
            raise
        return
    held.append(state)
    if decision.branch >= 0 and not np.isfinite(scores[decision.branch]):
        yield "out of bounds: a branch that diverged"
    yield from check_state(state, allowed=("arms", "chosen", "first", "best"))
    if state.phase == RUN and not np.isfinite([*state.chosen, state.best]).all():
        yield f"NaN: chose {state.chosen} at {state.best}"
    if state.spent + state.done > tuner.budget:
        yield f"out of bounds: {state.spent} + {state.done} steps"


def run(cases: int, seed: int = 0) -> dict[str, Any]:
    """So many cases of each part, and what has come of them."""
    rng, tally = np.random.default_rng(seed), Tally.empty()
    for number in range(cases):
        space = SPACES[number % len(SPACES)]
        kind, data = draw(rng, len(space))
        tally.run("model", kind, model_case(rng, data))
        tally.run("hyperdyn", kind, hyperdyn_case(rng, space, data))
    race_runs(rng, tally, cases)
    return {
        "cases": dict(tally.cases),
        "kinds_of_data": len(tally.kinds),
        "exceptions": tally.wrong["exception"],
        "nan": tally.wrong["NaN"],
        "out_of_bounds": tally.wrong["out of bounds"],
        "first": tally.first,
    }
