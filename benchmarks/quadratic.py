"""The noisy quadratic of Wu et al. 2018: explore-then-commit against tuned cosine.

    python benchmarks/quadratic.py

SGD on a loss of 200 independent coordinates, in expectation and without sampling: 50
epochs of 100 steps in all, with every probe counted, learning rates from 1e-3 to 10.
Several spectra and noise levels, because one of each could be won by luck. The peer is
a cosine to zero whose learning rate is the best of 60 for that very problem.
"""

import math
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import record

from hyperdyn_jax import LogUniform, SearchSpace
from hyperdyn_jax.strategies import Schedule
from hyperdyn_jax.strategies.explore_then_commit import (
    COMMIT,
    ExploreState,
    ExploreThenCommit,
)

RESULTS = Path(__file__).with_name("results")
DIMENSIONS, EPOCHS, STEPS_PER_EPOCH, DRAWS = 200, 50, 100, 200
SPECTRA = {
    "log-spaced, condition 1,000": np.logspace(-3, 0, DIMENSIONS),
    "1 / i": 1 / np.arange(1.0, DIMENSIONS + 1),
}
NOISES = (1.0, 0.1, 0.01, 0.001)
MEASUREMENT_NOISES = (0.0, 0.02)
SPACE = SearchSpace(learning_rate=LogUniform(1e-3, 10.0))
RATES = np.geomspace(1e-3, 10, 60)  # of the peers


class Moments(NamedTuple):
    """Second moments of SGD and of its average, f64[..., d] each.

    path: E[w^2] of the last step. cross: E[w a], a the average. average: E[a^2].
    """

    path: np.ndarray
    cross: np.ndarray
    average: np.ndarray


class NoisyQuadratic(NamedTuple):
    """Loss 1/2 sum h w^2 with gradient h w + noise (Wu et al. 2018, section 2).

    curvature: h, f64[d]. variance: of the gradient's noise, f64[d].
    """

    curvature: np.ndarray
    variance: np.ndarray

    def start(self, shape: tuple[int, ...] = ()) -> Moments:
        """Every coordinate at distance one."""
        return Moments(*[np.ones((*shape, len(self.curvature)))] * 3)

    def step(
        self, now: Moments, rate: np.ndarray | float, time: int, power: float
    ) -> Moments:
        """One step w' = (1 - rate h) w - rate xi, and a' = a + (w' - a) weight.

        Args:
          now: before it.
          rate: f64[...] or a number.
          time: of this step; the first is 1.
          power: of the polynomial average.
        """
        rate = np.asarray(rate)[..., None]
        weight = (power + 1) / (time + power)
        with np.errstate(over="ignore", invalid="ignore"):
            shrink = 1 - rate * self.curvature
            path = shrink**2 * now.path + rate**2 * self.variance
            mixed = shrink * now.cross
            rest = 1 - weight
            average = rest**2 * now.average + 2 * weight * rest * mixed
            return Moments(
                path, rest * mixed + weight * path, average + weight**2 * path
            )

    def loss(self, moment: np.ndarray) -> np.ndarray:
        """Expected loss, f64[...], infinite where it is no number."""
        with np.errstate(over="ignore", invalid="ignore"):
            loss = 0.5 * np.sum(self.curvature * moment, axis=-1)
        return np.where(np.isfinite(loss) & (loss < 1e30), loss, np.inf)


def cosine(problem: NoisyQuadratic, rates: np.ndarray, steps: int) -> np.ndarray:
    """Final losses of cosine schedules to zero: f64[n] for learning rates f64[n]."""
    now = problem.start(rates.shape)
    for i in range(steps):
        factor = 0.5 * (1 + math.cos(math.pi * (i + 0.5) / steps))
        now = problem.step(now, rates * factor, i + 1, 0.0)
    return problem.loss(now.path)


def greedy(problem: NoisyQuadratic, epochs: int, steps: int) -> float:
    """Final loss if every epoch has the rate with the least loss at its end."""
    now = problem.start()
    for _ in range(epochs):
        tried = Moments(*(np.repeat(x[None], len(RATES), 0) for x in now))
        for i in range(steps):
            tried = problem.step(tried, RATES, i + 1, 0.0)
        best = np.argmin(problem.loss(tried.path))
        now = Moments(*(x[best] for x in tried))
    return float(problem.loss(now.path))


def tuner(seed: int) -> ExploreThenCommit:
    """The recommended mode, anchored on a constant rate drawn from the whole range."""
    low, high = SPACE["learning_rate"].low, SPACE["learning_rate"].high
    rate = np.exp(np.random.default_rng([seed, 1]).uniform(np.log(low), np.log(high)))
    base = Schedule.constant(learning_rate=float(rate))
    return ExploreThenCommit(SPACE, EPOCHS, STEPS_PER_EPOCH, base=base)


def explore(
    problem: NoisyQuadratic, tuner: ExploreThenCommit, noise: float, seed: int
) -> tuple[np.ndarray, ExploreState]:
    """Plays a tuner against the problem.

    Args:
      problem: what is trained.
      tuner: with learning_rate as its one axis.
      noise: of a measured loss, relative.
      seed: of the tuner and the noise.

    Returns:
      The learning rate of every step of the accepted path, and the tuner's last state.
    """
    rng = np.random.default_rng([seed, 0])
    begin = float(problem.loss(problem.start().path))
    state, path = tuner.init(jax.random.key(seed), -begin), []
    while len(path) < tuner.accepted_steps(state):
        trials = tuner.ask(state)
        rates = np.float64(trials.hparams["learning_rate"])
        steps = round(trials.epochs * STEPS_PER_EPOCH)
        if state.phase == COMMIT:
            path += [float(rates[0])] * min(
                steps, tuner.accepted_steps(state) - len(path)
            )
            state, _ = tuner.tell(state, trials, np.float32([-begin]))
            continue
        now = problem.start(rates.shape)
        for i in range(steps):
            now = problem.step(now, rates, i + 1, tuner.averaging)
        losses = problem.loss(now.average) * (1 + noise * rng.normal(size=len(rates)))
        scores = np.where(np.isfinite(losses), -losses, np.nan)
        state, _ = tuner.tell(state, trials, scores.astype(np.float32))
    return np.array(path), state


def commit(problem: NoisyQuadratic, paths: np.ndarray, power: float) -> np.ndarray:
    """Final losses of the average: f64[n] for the rates of every step, f64[steps, n].

    A path that has ended has rates of NaN, and its loss is that of its end.
    """
    now = problem.start(paths.shape[1:])
    for i, rates in enumerate(paths):
        new = problem.step(now, rates, i + 1, power)
        going = np.isfinite(rates)[:, None]
        now = Moments(*(np.where(going, a, b) for a, b in zip(new, now, strict=True)))
    return problem.loss(now.average)


def run(problem: NoisyQuadratic, noise: float) -> tuple[np.ndarray, list[float]]:
    """Final losses of all draws, and the rates that they committed to."""
    paths = []
    for seed in range(DRAWS):
        path, _ = explore(problem, tuner(seed), noise, seed)
        paths.append(path)
    padded = np.full((EPOCHS * STEPS_PER_EPOCH, DRAWS), np.nan)
    for i, path in enumerate(paths):
        padded[: len(path), i] = path
    return commit(problem, padded, 5.0), [float(path[0]) for path in paths]


def main() -> None:
    budget = EPOCHS * STEPS_PER_EPOCH
    rows = []
    for spectrum, curvature in SPECTRA.items():
        for noise in NOISES:
            problem = NoisyQuadratic(curvature, noise * curvature)
            tuned = cosine(problem, RATES, budget)
            behind = greedy(problem, EPOCHS, STEPS_PER_EPOCH) / tuned.min()
            for measured in MEASUREMENT_NOISES:
                losses, rates = run(problem, measured)
                ratios = losses / tuned.min()
                rows.append(
                    {
                        "spectrum": spectrum,
                        "gradient_noise": noise,
                        "measurement_noise": measured,
                        "median": float(np.median(ratios)),
                        "p90": float(np.quantile(ratios, 0.9)),
                        "rates": np.quantile(rates, (0.1, 0.5, 0.9)).tolist(),
                        "cosine_rate": float(RATES[np.argmin(tuned)]),
                        "greedy": behind,
                        "ratios": np.round(ratios, 4).tolist(),
                    }
                )
                print({k: v for k, v in rows[-1].items() if k != "ratios"}, flush=True)
    record.write(RESULTS / "quadratic.json", ("jax", "tinygp", "numpy"), rows)


if __name__ == "__main__":
    main()
