r"""What a race has seen, and what it says of the whole run.

A Gaussian process on the scores of arms over settings x and log horizon t, with the
product kernel of the paper (eq. 2), in coordinates that move with the horizon:

.. math:: k = K_1(x + \delta t e, x' + \delta t' e) \, K_2(t, t') + 30 \, [t = t']

where e is the axis of the rate: the best rate drifts as the horizon to the power of
minus delta. K_2 hardly forgets: from 1% of a run to its end it falls to 0.92. The last
term, in units of the amplitude, leaves the level of every horizon open, so that only
differences between arms at one horizon count. Drift, length scale and noise are
integrated out over a grid, and the amplitude exactly. Priors and constants are from
learning curves of `benchmarks/suite`, seeds 0 to 3. The drift is carried on over a
fixed share of the way to the end of the run, 0.7 (`CARRIED`).

Whether scores depend on the rate at all is decided by a permutation test
(`order_by_chance`): the model would take noise that stays with an arm for a signal.

In NumPy, as nothing here is worth compiling: n is at most 64.
"""

import math
from typing import NamedTuple

import numpy as np
import threadpoolctl

from hyperdyn_jax.tuner.acquisition import additive_steps

# Priors. Lengths are of the logarithm of the rate.
DRIFTS = np.linspace(-0.4, 1.2, 9)
# Weight, mean and deviation: of most training, and of what is still warming up, where
# the best rate is one over the horizon.
DRIFT_PRIOR = ((0.8, 0.1, 0.2), (0.2, 1.0, 0.2))
LENGTHS = (1.0, 1.6, 2.6)
LENGTH_PRIOR = (1.6, 0.5)  # median, deviation of the logarithm
NOISES = (0.01, 0.05, 0.25)  # variances as shares of the amplitude
NOISE_PRIOR = (0.05, 1.5)
AMPLITUDE_PRIOR = (2.0, 4.0)  # inverse gamma
FORGETTING = 50.0  # beta of K2, of the logarithm of the horizon
LEVEL_VARIANCE = 30.0  # of the level of a horizon
SATURATION = 3.0  # scores further behind than this are all alike
SAMPLES = 64
# Of the way from the last horizon to the end, in logarithms, over which the drift is
# carried on. On the first learning curves none or all of it ended worse; no record was
# kept.
CARRIED = 0.7
COMPONENTS = 24  # of the mixture, at most
LEVEL = 0.05  # of the test that scores depend on the rate, at each look
LENIENT = 0.2  # the same where there is no base to lose
SHUFFLES = 2000  # of it
SURE = 0.9  # probability of a better place, to leave a base that leads or warms up
# Times the steps of a known warm-up until which the best rate falls as one over the
# horizon: on learning curves about 1 (perceptron), 1.5 (GRU) and 3 (transformer).
# What is too large costs more than what is too small, so long ones weigh more.
FALLS = (1.5, 3.0, 4.0, 4.0, 4.0)
WARMING = 0.6  # drift of what is still warming up
GRID, CLOUD = 64, 192  # places that are compared, on one axis and on several


class Belief(NamedTuple):
    """What is expected at the end of the run.

    differ: not all scores are the same.
    told_apart: scores depend on the rate, at the level of the test.
    p_value: of that test (`order_by_chance`).
    best: f64[d], the place with the best expected score.
    ahead: probability that it is better than the base.
    leaves_base: it is better than the base by more than noise.
    warming: probability that the best rate drifts as fast as where something is still
      warming up.
    rising: a known warm-up still makes rates that are too large look better.
    places: f64[s, d], where samples of the score at the end have their best.
    drifts, falls: f64[s], the drift of each of them, and the log horizon until which a
      warm-up lowers its best rate.
    end, last, axis: log horizon that the drift is carried on to, and of the end of the
      run; the axis that drifts.
    noise: of a score, in its own unit.
    """

    differ: bool
    told_apart: bool
    p_value: float
    best: np.ndarray
    ahead: float
    leaves_base: bool
    warming: float
    rising: bool
    places: np.ndarray
    drifts: np.ndarray
    falls: np.ndarray
    end: float
    last: float
    axis: int
    noise: float

    def optima(self, log_horizon: float) -> np.ndarray:
        """Where samples have their best at another horizon, f64[s, d]."""
        places = self.places.copy()
        places[:, self.axis] += self.drifts * (self.end - log_horizon)
        places[:, self.axis] -= _fall(log_horizon, self.last, self.falls)
        return places


def believe(
    points: np.ndarray,
    times: np.ndarray,
    scores: np.ndarray,
    *,
    axis: int,
    spans: np.ndarray,
    end: float,
    base: np.ndarray | None,
    base_leads: bool,
    seed: int,
    warmup: float = 0.0,
) -> Belief:
    """The belief after some rounds.

    Args:
      points: f[n, d] settings, a unit being a factor of e of the rate.
      times: f[n] logarithms of the horizon.
      scores: f[n], more is better; -inf where an arm diverged.
      axis: which of the d is the rate.
      spans: f[d], points are from 0 to these.
      end: logarithm of the steps of the whole run.
      base: f[d], the user's own setting.
      base_leads: it has the best score at the last horizon.
      seed: of the samples.
      warmup: steps over which rates are known to rise to what the points say.
    """
    points, times, scores = (np.asarray(x, np.float64) for x in (points, times, scores))
    rng = np.random.default_rng(seed)
    chance = order_by_chance(points[:, axis], times, scores, rng)
    apart = chance <= (LEVEL if base is not None else LENIENT)
    last, end = end, times.max() + CARRIED * (end - times.max())
    places = _places(spans, points, base)
    gains, unit = standardized(times, scores)
    with threadpoolctl.threadpool_limits(1, "blas"):
        mixture = _mixture(points, times, gains, axis, end, places, last, warmup)
        values = mixture.samples(rng)
    expected = mixture.weights @ mixture.means
    best = int(expected.argmax())
    leaves, ahead = False, 1.0
    warming = float(mixture.weights @ (mixture.drifts > WARMING))
    rising = bool(warmup) and times.max() < math.log(FALLS[-1] * warmup)
    if base is not None:  # the last place
        gain = expected[best] - expected[-1]
        ahead = float(np.mean(values[:, best] > values[:, -1]))
        # That the base leads means little where something is still warming up.
        moving = mixture.weights @ mixture.drifts > WARMING
        # And while rates are known to rise, much that looks better ends worse.
        sure = SURE if rising or (base_leads and not moving) else 0.5
        leaves = bool(apart and gain > mixture.noise and ahead > sure)
    return Belief(
        differ=bool(np.ptp(gains) > 0),
        told_apart=apart,
        p_value=chance,
        best=places[best],
        ahead=ahead,
        leaves_base=leaves,
        warming=warming,
        rising=rising,
        places=places[values.argmax(1)],
        drifts=mixture.drifts[mixture.draws],
        falls=mixture.falls[mixture.draws],
        end=end,
        last=last,
        axis=axis,
        noise=float(mixture.noise * unit),
    )


def standardized(times: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, float]:
    """By how much every score is behind the best at its horizon, f64[n], at most 0.

    In units of the gap between the best and the third best of the fullest round, and
    saturating: how bad the bad ones are says nothing of where the best is.
    """
    gaps = np.zeros_like(scores)
    for time in np.unique(times):
        here = times == time
        gaps[here] = scores[here].max() - scores[here]
    ranked = np.sort(gaps[_fullest(times)])
    unit = ranked[min(2, len(ranked) - 1)]
    if not 0 < unit < np.inf:
        known = gaps[np.isfinite(gaps) & (gaps > 0)]
        unit = float(np.median(known)) if len(known) else 1.0
    return -SATURATION * -np.expm1(-gaps / unit / SATURATION), unit


def order_by_chance(
    places: np.ndarray, times: np.ndarray, scores: np.ndarray, rng: np.random.Generator
) -> float:
    """The p-value of a permutation test that scores do not depend on the setting.

    Where they do, they rise to the best along the axis of the rate and fall after it.
    The statistic is the number of pairs that are out of that order, at one horizon: the
    last of those with the most arms. So one look is exact however the noise of an arm
    is distributed, and however much of it stays with the arm. A race looks again each
    time that its arms have trained for twice as long.
    """
    here = _fullest(times)
    _, ranks = np.unique(scores[here][np.argsort(places[here])], return_inverse=True)
    shuffled = [ranks, *(rng.permutation(ranks) for _ in range(SHUFFLES))]
    found = _out_of_order(np.array(shuffled))
    return float(np.mean(found <= found[0]))


def _fullest(times: np.ndarray) -> np.ndarray:
    """Which rows are of the last horizon with the most arms: bool[n]."""
    horizons, counts = np.unique(times, return_counts=True)
    last: np.ndarray = times == np.max(horizons[counts == np.max(counts)])
    return last


def _out_of_order(ranks: np.ndarray) -> np.ndarray:
    """Pairs that do not rise to a peak and fall after it, of the best peak: i64[p]."""
    steps = np.sign(ranks[:, None, :] - ranks[:, :, None])
    later = np.triu(np.ones(steps.shape[1:], bool), 1)
    falls, rises = (steps < 0) & later, (steps > 0) & later
    peaks = range(ranks.shape[1])
    return np.min(
        [
            falls[:, : k + 1, : k + 1].sum((1, 2)) + rises[:, k:, k:].sum((1, 2))
            for k in peaks
        ],
        axis=0,
    )


class _Mixture(NamedTuple):
    """The posterior at the end of the run, a Gaussian for every component kept.

    weights: f64[p]; means: f64[p, q]; factors: f64[p, q, q] of the covariances.
    drifts, falls: f64[p].
    noise: f64[], standard deviation of a standardised score.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray
    drifts: np.ndarray
    falls: np.ndarray
    noise: float

    @property
    def draws(self) -> np.ndarray:
        """The component of each sample, i64[s], in proportion to the weights."""
        edges = np.cumsum(self.weights)
        found = np.searchsorted(edges, (np.arange(SAMPLES) + 0.5) / SAMPLES)
        return np.minimum(found, len(self.weights) - 1)

    def samples(self, rng: np.random.Generator) -> np.ndarray:
        """Standardised scores at the end, f64[s, q]."""
        normal = rng.standard_normal((SAMPLES, self.means.shape[1]))
        scattered = np.einsum("sij,sj->si", self.factors[self.draws], normal)
        return self.means[self.draws] + scattered


def _mixture(
    points: np.ndarray,
    times: np.ndarray,
    gains: np.ndarray,
    axis: int,
    end: float,
    places: np.ndarray,
    last: float,
    warmup: float,
) -> _Mixture:
    count, (prior, drifts, lengths, noises, falls) = len(gains), _components(warmup)
    time = _time_kernel(times[:, None] - times[None])
    level = LEVEL_VARIANCE * (times[:, None] == times[None])
    moved = np.repeat(points[None], len(drifts), 0)
    moved[:, :, axis] += drifts[:, None] * (times - end)[None]
    moved[:, :, axis] += _fall(times, last, falls[:, None])
    lengths = lengths[:, None, None]
    near = _matern52(_distances(moved, moved) / lengths)
    covariance = near * time + noises[:, None, None] * np.eye(count) + level
    evidence, inverse, squares = _evidence(covariance, gains)
    posterior = evidence + prior
    weights = np.exp(posterior - posterior.max())
    kept = np.argsort(-weights, kind="stable")[:COMPONENTS]
    kept = kept[weights[kept] > 1e-3]
    weights = weights[kept] / weights[kept].sum()
    inverse, lengths = inverse[kept], lengths[kept]
    targets = np.repeat(places[None], len(kept), 0)
    cross = _matern52(_distances(moved[kept], targets) / lengths)
    cross = inverse @ (cross * _time_kernel(times - end)[None, :, None])
    means = np.einsum("pnq,pn->pq", cross, np.einsum("pnm,m->pn", inverse, gains))
    shape, scale = AMPLITUDE_PRIOR
    scales = (scale + squares[kept] / 2) / (shape + count / 2 - 1)
    apart = _distances(places[None], places[None])
    covariances = _matern52(apart / lengths) - np.swapaxes(cross, 1, 2) @ cross
    covariances = covariances + 1e-6 * np.eye(len(places))
    factors = np.linalg.cholesky(covariances) * np.sqrt(scales)[:, None, None]
    noise = math.sqrt(float(weights @ (noises[kept] * scales)))
    return _Mixture(weights, means, factors, drifts[kept], falls[kept], noise)


def _fall(times: float | np.ndarray, last: float, falls: np.ndarray) -> np.ndarray:
    """By how much a warm-up has still to lower the best rate, as a logarithm, at most
    0: that falls as one over the horizon until the log horizon `falls`."""
    change: np.ndarray = np.minimum(times - falls, 0) - np.minimum(last - falls, 0)
    return change


def _components(warmup: float) -> tuple[np.ndarray, ...]:
    """Log prior weights, drifts, lengths, noises and falls of the models."""
    until = [math.log(times * warmup) for times in FALLS] if warmup else [-math.inf]
    grid = np.meshgrid(DRIFTS, LENGTHS, NOISES, until, indexing="ij")
    drifts, lengths, noises, falls = (axis.ravel() for axis in grid)
    ordinary, warming = (
        math.log(weight / deviation) - 0.5 * ((drifts - mean) / deviation) ** 2
        for weight, mean, deviation in DRIFT_PRIOR
    )
    # What is known to warm up falls by `falls`.
    log_prior = ordinary if warmup else np.logaddexp(ordinary, warming)
    log_prior = log_prior - 0.5 * (
        (np.log(lengths / LENGTH_PRIOR[0]) / LENGTH_PRIOR[1]) ** 2
        + (np.log(noises / NOISE_PRIOR[0]) / NOISE_PRIOR[1]) ** 2
    )
    log_prior -= np.logaddexp.reduce(log_prior, keepdims=True)
    return log_prior, drifts, lengths, noises, falls


def _evidence(
    covariances: np.ndarray, gains: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log marginal likelihoods f64[p], the amplitude integrated out; the inverse
    Cholesky factors f64[p, n, n]; and y^T K^-1 y, f64[p]."""
    factors = np.linalg.cholesky(covariances)
    inverse = np.linalg.inv(factors)
    squares = ((inverse @ gains) ** 2).sum(-1)
    logs = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(-1)
    shape, scale = AMPLITUDE_PRIOR
    power = shape + len(gains) / 2
    return -logs - power * np.log(scale + squares / 2), inverse, squares


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """f64[p, n, m] of f64[p, n, d] and f64[p, m, d]."""
    distances: np.ndarray = np.sqrt(((a[:, :, None] - b[:, None]) ** 2).sum(-1))
    return distances


def _matern52(distance: np.ndarray) -> np.ndarray:
    """K1, as `gp.SPATIAL_KERNELS` has it."""
    scaled = math.sqrt(5) * distance
    return (1 + scaled + scaled**2 / 3) * np.exp(-scaled)


def _time_kernel(lag: np.ndarray) -> np.ndarray:
    """K2, as `gp.TimeKernel(1.0, FORGETTING)` has it."""
    kernel: np.ndarray = 1 / (1 + np.abs(lag) / FORGETTING)
    return kernel


def _places(
    spans: np.ndarray, points: np.ndarray, base: np.ndarray | None
) -> np.ndarray:
    """Where scores are compared, f64[q, d]: a grid, the arms, and the base at last."""
    if len(spans) == 1:
        places = np.linspace(0, spans[0], GRID)[:, None]
    else:
        steps = additive_steps(len(spans))
        cloud = (0.5 + np.arange(CLOUD)[:, None] * steps) % 1.0
        places = np.concatenate([cloud * spans, np.unique(points, axis=0)])
    return places if base is None else np.concatenate([places, base[None]])
