"""The noisy quadratic of Wu et al. 2018: the race against tuned cosine.

    python benchmarks/quadratic.py

SGD on a loss of 200 independent coordinates, in expectation and without sampling: 50
epochs of 100 steps in all, with every trial counted, learning rates from 1e-3 to 10.
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
from hyperdyn_jax.strategies.race import Race

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


def tuner(seed: int) -> Race:
    """The race, told a constant rate that is drawn from the whole range."""
    low, high = SPACE["learning_rate"].low, SPACE["learning_rate"].high
    rate = np.exp(np.random.default_rng([seed, 1]).uniform(np.log(low), np.log(high)))
    base = Schedule.constant(learning_rate=float(rate))
    return Race(SPACE, EPOCHS, STEPS_PER_EPOCH, base=base)


class Played(NamedTuple):
    """A run to its end.

    rates: of every step of the accepted path, f64[steps]. total: steps of everything.
    loss: expected, of the average or of the end of the path, whichever is less.
    """

    rates: np.ndarray
    total: int
    loss: float


def play(problem: NoisyQuadratic, tuner: Race, noise: float, seed: int) -> Played:
    """Plays a tuner against the problem.

    Args:
      problem: what is trained.
      tuner: with learning_rate as its one axis.
      noise: of a measured loss, relative.
      seed: of the tuner and the noise.
    """
    rng = np.random.default_rng([seed, 0])
    start = problem.start()
    state = tuner.init(jax.random.key(seed), -float(problem.loss(start.path)))
    held: list[tuple[Moments, list[float]]] = [(start, [])]
    total = 0
    while len(held[0][1]) < tuner.accepted_steps(state):
        trials = tuner.ask(state)
        parents = [held[i] for i in trials.parents]
        rates, begin = np.float64(trials.hparams["learning_rate"]), len(parents[0][1])
        steps = round(trials.epochs * STEPS_PER_EPOCH)
        steps = min(steps, tuner.accepted_steps(state) - begin)
        now = Moments(*map(np.stack, zip(*(path for path, _ in parents), strict=True)))
        for i in range(begin, begin + steps):
            now = problem.step(now, rates, i + 1, tuner.averaging)
        total += steps * len(rates)
        losses = problem.loss(now.average) * (1 + noise * rng.normal(size=len(rates)))
        scores = np.where(np.isfinite(losses), -losses, np.nan)
        state, decision = tuner.tell(state, trials, scores.astype(np.float32))
        branches = [
            (Moments(*(x[i] for x in now)), parents[i][1] + [rate] * steps)
            for i, rate in enumerate(map(float, rates))
        ]
        held = [[*branches, *held][i] for i in decision.hold]
    end, path = held[0]
    loss = min(float(problem.loss(x)) for x in (end.average, end.path))
    return Played(np.array(path), total, loss)


def main() -> None:
    budget = EPOCHS * STEPS_PER_EPOCH
    rows = []
    for spectrum, curvature in SPECTRA.items():
        for noise in NOISES:
            problem = NoisyQuadratic(curvature, noise * curvature)
            tuned = cosine(problem, RATES, budget)
            behind = greedy(problem, EPOCHS, STEPS_PER_EPOCH) / tuned.min()
            for measured in MEASUREMENT_NOISES:
                played = [
                    play(problem, tuner(seed), measured, seed) for seed in range(DRAWS)
                ]
                ratios = np.array([run.loss for run in played]) / tuned.min()
                rates = [run.rates.max() for run in played]
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
