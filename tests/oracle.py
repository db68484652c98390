"""Independent reference implementation of the tuner's arithmetic, for the tests.

Written from the conventions alone (numpy and scipy, float64), sharing no code with the
library. Scores, gains, posterior means and standard deviations are in percentage
points; amplitude and noise are variances in standardised units; epochs are plain
numbers; settings are mapped to the unit cube, one axis a hyperparameter.

Shapes: n observations, m query points, d axes, c trials in one decision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

LENGTH_SCALE_PRIOR = (math.log(0.5), 0.75)
AMPLITUDE_PRIOR = (0.0, 1.0)
NOISE_PRIOR = (-4.0, 1.0)
BOX_DEVIATIONS = 4.0
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)

Setting = Mapping[str, float]
Axes = Mapping[str, tuple[str, float, float]]


# ---------------------------------------------------------------- axis maps


def to_unit(axis_kind, low, high, x):
    """Map hyperparameter values x (any shape) to [0, 1], elementwise."""
    x = np.asarray(x, dtype=np.float64)
    if axis_kind == "uniform":
        return (x - low) / (high - low)
    if axis_kind == "log_uniform":
        return np.log(x / low) / np.log(high / low)
    if axis_kind == "log_complement":
        return np.log((1.0 - x) / (1.0 - low)) / np.log((1.0 - high) / (1.0 - low))
    raise ValueError(f"unknown axis kind {axis_kind!r}")


def from_unit(axis_kind, low, high, u):
    """Map unit coordinates u (any shape) back to hyperparameter values."""
    u = np.asarray(u, dtype=np.float64)
    if axis_kind == "uniform":
        return low + u * (high - low)
    if axis_kind == "log_uniform":
        return low * (high / low) ** u
    if axis_kind == "log_complement":
        return 1.0 - (1.0 - low) * ((1.0 - high) / (1.0 - low)) ** u
    raise ValueError(f"unknown axis kind {axis_kind!r}")


def settings_to_unit(axes: Axes, settings: Sequence[Setting]) -> np.ndarray:
    """Map c settings to unit points [c, d], columns in the order of `axes`."""
    rows = [
        [float(to_unit(*axes[name], setting[name])) for name in axes]
        for setting in settings
    ]
    return np.array(rows, dtype=np.float64).reshape(len(settings), len(axes))


# ---------------------------------------------------------------- kernels


def k1(kind, length_scales, U, V):
    """Correlation of settings: U [n, d], V [m, d] -> [n, m], 1 where U equals V.

    length_scales: [d], or one number for all axes.
    """
    U = np.atleast_2d(np.asarray(U, dtype=np.float64))
    V = np.atleast_2d(np.asarray(V, dtype=np.float64))
    scaled = (U[:, None, :] - V[None, :, :]) / np.asarray(length_scales, np.float64)
    r = np.sqrt(np.sum(scaled**2, axis=-1))
    if kind == "rbf":
        return np.exp(-(r**2) / 2.0)
    if kind == "matern32":
        return (1.0 + math.sqrt(3.0) * r) * np.exp(-math.sqrt(3.0) * r)
    if kind == "matern52":
        polynomial = 1.0 + math.sqrt(5.0) * r + 5.0 * r**2 / 3.0
        return polynomial * np.exp(-math.sqrt(5.0) * r)
    raise ValueError(f"unknown kernel kind {kind!r}")


def k2(alpha, beta, s, t):
    """Correlation of epochs: s [n], t [m] -> [n, m]."""
    s = np.atleast_1d(np.asarray(s, dtype=np.float64))
    t = np.atleast_1d(np.asarray(t, dtype=np.float64))
    distance = np.abs(s[:, None] - t[None, :])
    return beta**alpha / (distance + beta) ** alpha


def product_kernel(kind, length_scales, alpha, beta, U, s, V, t):
    """K1 * K2 without the amplitude: U [n, d], s [n], V [m, d], t [m] -> [n, m]."""
    return k1(kind, length_scales, U, V) * k2(alpha, beta, s, t)


# ---------------------------------------------------------------- posterior


def standardise(y):
    """Gains y [n] in points -> (standardised [n], mean, scale), population sd."""
    y = np.asarray(y, dtype=np.float64)
    if y.size == 0:
        return y, 0.0, 1.0
    mean = float(np.mean(y))
    scale = float(np.sqrt(np.mean((y - mean) ** 2)))
    if scale == 0.0 or scale <= 1e-12 * float(np.max(np.abs(y))):
        scale = 1.0
    return (y - mean) / scale, mean, scale


def posterior(
    U,
    t,
    y,
    U_star,
    t_star,
    *,
    kind="matern52",
    length_scales,
    amplitude,
    noise,
    alpha=1.0,
    beta=0.5,
):
    """Posterior (mean [m], stddev [m]) of the latent gain at U_star, t_star, in points.

    U [n, d], t [n], y [n] in points are the feasible observations only; U_star [m, d];
    t_star [m] or one number. Without observations: mean 0, stddev sqrt(amplitude).
    """
    U_star = np.atleast_2d(np.asarray(U_star, dtype=np.float64))
    t_star = np.broadcast_to(np.asarray(t_star, np.float64), (len(U_star),))
    y = np.asarray(y, dtype=np.float64)
    if not np.all(np.isfinite(y)):
        raise ValueError("infeasible observations never enter the GP")
    if y.size == 0:
        return np.zeros(len(U_star)), np.full(len(U_star), math.sqrt(amplitude))
    z, shift, scale = standardise(y)
    kernel = (kind, length_scales, alpha, beta)
    covariance = amplitude * product_kernel(*kernel, U, t, U, t)
    cross = amplitude * product_kernel(*kernel, U, t, U_star, t_star)
    lower = np.linalg.cholesky(covariance + noise * np.eye(y.size))
    half_cross = np.linalg.solve(lower, cross)
    half_z = np.linalg.solve(lower, z)
    variance = amplitude - np.sum(half_cross**2, axis=0)
    mean = shift + scale * (half_cross.T @ half_z)
    return mean, scale * np.sqrt(np.maximum(variance, 0.0))


# ---------------------------------------------------------------- MAP fit


@dataclass(frozen=True)
class GPParameters:
    """What the fit chooses; amplitude and noise are standardised variances."""

    length_scales: tuple[float, ...]
    amplitude: float
    noise: float

    def to_log(self) -> np.ndarray:
        """[d + 2]: ln length scales, ln amplitude, ln noise variance."""
        return np.log(np.array([*self.length_scales, self.amplitude, self.noise]))

    @classmethod
    def from_log(cls, log_params) -> GPParameters:
        """Inverse of to_log."""
        values = np.exp(np.asarray(log_params, dtype=np.float64))
        scales = tuple(float(v) for v in values[:-2])
        return cls(scales, float(values[-2]), float(values[-1]))


def log_prior_moments(dimension):
    """Prior (mean [d + 2], sd [d + 2]) of the log parameters."""
    rows = [LENGTH_SCALE_PRIOR] * dimension + [AMPLITUDE_PRIOR, NOISE_PRIOR]
    table = np.array(rows, dtype=np.float64)
    return table[:, 0], table[:, 1]


def parameter_box(dimension):
    """Closed box of the log parameters: (lower [d + 2], upper [d + 2])."""
    mean, deviation = log_prior_moments(dimension)
    return mean - BOX_DEVIATIONS * deviation, mean + BOX_DEVIATIONS * deviation


def log_marginal_likelihood(
    log_params, U, t, y, *, kind="matern52", alpha=1.0, beta=0.5
):
    """Log density of the standardised gains, with the -n/2 ln(2 pi) term."""
    z, _, _ = standardise(y)
    if z.size == 0:
        return 0.0
    gp = GPParameters.from_log(log_params)
    correlation = product_kernel(kind, gp.length_scales, alpha, beta, U, t, U, t)
    covariance = gp.amplitude * correlation + gp.noise * np.eye(z.size)
    lower = np.linalg.cholesky(covariance)
    half_z = np.linalg.solve(lower, z)
    log_determinant = 2.0 * np.sum(np.log(np.diag(lower)))
    fit = -0.5 * (half_z @ half_z) - 0.5 * log_determinant
    return float(fit - z.size * LOG_SQRT_2PI)


def log_posterior_density(log_params, U, t, y, *, kind="matern52", alpha=1.0, beta=0.5):
    """Log marginal likelihood plus log priors, less the priors' constants.

    log_params [d + 2]: ln length scales, ln amplitude, ln noise variance. The prior
    part is -1/2 sum ((p - mean) / sd)^2; the normal priors' own normalisation is left
    out, the box is not applied here.
    """
    log_params = np.asarray(log_params, dtype=np.float64)
    mean, deviation = log_prior_moments(log_params.size - 2)
    log_prior = -0.5 * float(np.sum(((log_params - mean) / deviation) ** 2))
    kernel = {"kind": kind, "alpha": alpha, "beta": beta}
    return log_marginal_likelihood(log_params, U, t, y, **kernel) + log_prior


def map_fit(
    U, t, y, *, kind="matern52", alpha=1.0, beta=0.5, dimension=None, starts=8, seed=0
):
    """Maximise log_posterior_density in the box: (best value, log_params [d + 2]).

    The first start is the prior mean, the others are prior draws of sd 1.5 prior sd
    clipped to the box. Each is run by L-BFGS-B (central differences); the best is
    polished by Nelder-Mead. dimension is needed only when U does not show it.
    """
    U = np.asarray(U, dtype=np.float64)
    d = U.shape[1] if dimension is None else dimension
    mean, deviation = log_prior_moments(d)
    lower, upper = parameter_box(d)
    kernel = {"kind": kind, "alpha": alpha, "beta": beta}

    def loss(log_params):
        return -log_posterior_density(log_params, U, t, y, **kernel)

    rng = np.random.default_rng(seed)
    points = mean + 1.5 * deviation * rng.standard_normal((starts, d + 2))
    points[0] = mean
    bounds = list(zip(lower, upper, strict=True))
    fits = [
        optimize.minimize(
            loss,
            point,
            method="L-BFGS-B",
            jac="3-point",
            bounds=bounds,
            options={"ftol": 1e-14, "gtol": 1e-8, "maxiter": 500},
        )
        for point in np.clip(points, lower, upper)
    ]
    best = min(fits, key=lambda fit: fit.fun)
    polished = optimize.minimize(
        loss,
        best.x,
        method="Nelder-Mead",
        bounds=bounds,
        options={"xatol": 1e-7, "fatol": 1e-12, "maxfev": 4000},
    )
    best = min(best, polished, key=lambda fit: fit.fun)
    return -float(best.fun), np.asarray(best.x, dtype=np.float64)


# ---------------------------------------------------------------- acquisition


def _log_unit_improvement(z):
    """ln(phi(z) + z Phi(z)) elementwise, to about 1e-13 relative in the EI itself."""
    z = np.asarray(z, dtype=np.float64)
    result = np.empty_like(z)
    near = z > -1.0
    far = z < -20.0
    middle = ~(near | far)

    w = z[near]
    density = np.exp(-0.5 * w**2 - LOG_SQRT_2PI)
    result[near] = np.log(density + w * special.ndtr(w))

    # Phi(z) / phi(z) = sqrt(pi/2) erfcx(-z / sqrt 2): the shared phi is taken out
    w = z[middle]
    mills = math.sqrt(math.pi / 2.0) * special.erfcx(-w / math.sqrt(2.0))
    result[middle] = -0.5 * w**2 - LOG_SQRT_2PI + np.log1p(w * mills)

    # 1 + z Phi/phi = x (1 - 3x (1 - 5x (1 - 7x ...))), x = 1/z^2: no cancellation
    w = z[far]
    x = 1.0 / w**2
    tail = np.ones_like(x)
    for odd in range(21, 1, -2):
        tail = 1.0 - odd * x * tail
    result[far] = -0.5 * w**2 - LOG_SQRT_2PI + np.log(x * tail)
    return result


def log_expected_improvement(mean, stddev, best):
    """Natural log of expected_improvement (broadcasting; -inf where EI is 0)."""
    mean, stddev, best = np.broadcast_arrays(
        *(np.asarray(v, dtype=np.float64) for v in (mean, stddev, best))
    )
    positive = stddev > 0.0
    safe = np.where(positive, stddev, 1.0)
    smooth = np.log(safe) + _log_unit_improvement((mean - best) / safe)
    with np.errstate(divide="ignore"):
        certain = np.log(np.maximum(mean - best, 0.0))
    return np.where(positive, smooth, certain)


def expected_improvement(mean, stddev, best):
    """E[max(g - best, 0)] for g ~ N(mean, stddev^2), in points (broadcasting).

    Accurate relative to its size until it underflows (z below about -38).
    """
    return np.exp(log_expected_improvement(mean, stddev, best))


def expected_improvement_monte_carlo(mean, stddev, best, n, seed):
    """Monte Carlo EI of one point from n draws: (estimate, standard error)."""
    rng = np.random.default_rng(seed)
    gains = mean + stddev * rng.standard_normal(n)
    improvement = np.maximum(gains - best, 0.0)
    error = np.std(improvement, ddof=1) / math.sqrt(n)
    return float(np.mean(improvement)), float(error)


def feasibility_weight(
    U,
    t,
    feasible,
    U_star,
    t_star,
    *,
    kind="matern52",
    length_scales,
    alpha=1.0,
    beta=0.5,
):
    """(1 + sum over feasible k) / (1 + sum over all k), k = K1 * K2 -> [m].

    U [n, d], t [n], feasible [n] (bool) are all observations, infeasible ones too;
    t_star [m] or one number. It is 1 where nothing is infeasible.
    """
    U_star = np.atleast_2d(np.asarray(U_star, dtype=np.float64))
    feasible = np.asarray(feasible, dtype=bool)
    if feasible.size == 0:
        return np.ones(len(U_star))
    t_star = np.broadcast_to(np.asarray(t_star, np.float64), (len(U_star),))
    k = product_kernel(kind, length_scales, alpha, beta, U, t, U_star, t_star)
    return (1.0 + k[feasible].sum(axis=0)) / (1.0 + k.sum(axis=0))


# ---------------------------------------------------------------- trend test


def keep_probability(history, window, temperature, offset):
    """min(1, exp((y_last - y_{last-window}) / temperature - offset)).

    history: accuracies in points of the accepted states, oldest first; with fewer than
    window + 1 of them the oldest stands in.
    """
    if len(history) == 0:
        raise ValueError("the untrained network's accuracy is always in the history")
    earlier = history[max(0, len(history) - 1 - window)]
    exponent = (history[-1] - earlier) / temperature - offset
    return 1.0 if exponent >= 0.0 else math.exp(exponent)


# ---------------------------------------------------------------- replay


@dataclass(frozen=True)
class Observations:
    """D: units [n, d], epochs [n], gains [n] in points (NaN = infeasible), feasible."""

    units: np.ndarray
    epochs: np.ndarray
    gains: np.ndarray
    feasible: np.ndarray

    @classmethod
    def empty(cls, dimension: int) -> Observations:
        """No observations in `dimension` axes."""
        nothing = np.zeros(0)
        return cls(np.zeros((0, dimension)), nothing, nothing, nothing.astype(bool))

    def extended(self, units, epoch, gains) -> Observations:
        """D with c more observations: units [c, d], one epoch, gains [c]."""
        gains = np.asarray(gains, dtype=np.float64)
        epochs = np.full(gains.size, float(epoch))
        return Observations(
            np.concatenate([self.units, units]),
            np.concatenate([self.epochs, epochs]),
            np.concatenate([self.gains, gains]),
            np.concatenate([self.feasible, np.isfinite(gains)]),
        )

    def finite(self):
        """The GP's data: (units, epochs, gains) of the feasible observations."""
        keep = self.feasible
        return self.units[keep], self.epochs[keep], self.gains[keep]

    def best(self) -> float:
        """Best feasible gain in points; 0 (the prior mean) where there is none."""
        gains = self.gains[self.feasible]
        return float(np.max(gains)) if gains.size else 0.0


@dataclass(frozen=True)
class Decision:
    """One recorded decision, as the run wrote it down.

    scores: points, None or non-finite = infeasible. draw and parameters are None for
    the random start; parameters are those in force when the trials were proposed.
    """

    trials: Sequence[Setting]
    scores: Sequence[float | None]
    draw: float | None = None
    parameters: GPParameters | None = None


@dataclass(frozen=True)
class ReplayedDecision:
    """What the oracle finds for one decision; arrays are [c] unless noted.

    before, after: D without and with this decision's own observations. mean, stddev,
    expected_improvement, log_expected_improvement, feasibility are at each trial given
    `before` (NaN without parameters); best is over `before`, in points. The trend test
    fields are None for a random start. history is after the decision, untrained
    network first; score is its last entry. incumbent: the setting accepted last (None
    before any).
    """

    epoch: int
    units: np.ndarray  # [c, d]
    before: Observations
    after: Observations
    score_before: float
    gains: np.ndarray
    mean: np.ndarray
    stddev: np.ndarray
    best: float
    expected_improvement: np.ndarray
    log_expected_improvement: np.ndarray
    feasibility: np.ndarray
    keep_probability: float | None
    kept: bool | None
    branch: int
    score: float
    history: tuple[float, ...]
    incumbent: Setting | None


def weighted_log_expected_improvement(
    units, epoch, data, parameters, *, kind="matern52", alpha=1.0, beta=0.5
):
    """Log EI plus log feasibility weight at units [m, d], one epoch -> [m].

    data: Observations (D when the trials were proposed); parameters: GPParameters.
    """
    kernel = {"kind": kind, "alpha": alpha, "beta": beta}
    mean, stddev = _posterior_at(units, epoch, data, parameters, kernel)
    weight = _weight_at(units, epoch, data, parameters, kernel)
    return log_expected_improvement(mean, stddev, data.best()) + np.log(weight)


def choose_best(scores):
    """Random start: index of the best feasible score, first on a tie, else -1."""
    branch = -1
    for index, score in enumerate(scores):
        if np.isfinite(score) and (branch < 0 or score > scores[branch]):
            branch = index
    return branch


def choose_branch(kept, scores):
    """0 if kept, else the best feasible of the others; the other way round if there is
    none; -1 if all are infeasible."""
    challenger = 1 + choose_best(scores[1:])  # 0 where all of them are infeasible
    branch = 0 if kept and np.isfinite(scores[0]) else challenger
    return branch if np.isfinite(scores[branch]) else -1


def replay(
    axes: Axes,
    untrained_score: float,
    decisions: Sequence[Decision],
    *,
    window: int = 4,
    temperature: float = 1.0,
    offset: float = 0.01,
    kind: str = "matern52",
    alpha: float = 1.0,
    beta: float = 0.5,
) -> list[ReplayedDecision]:
    """Recompute a run from its record; decision i is epoch i, 0 the random start.

    A decision without a draw takes its best score; one with a draw is a trend test
    between trial 0 (the setting in force) and trial 1 (the proposal). After branch -1
    the state is unchanged and its score is repeated in the history.
    """
    kernel = {"kind": kind, "alpha": alpha, "beta": beta}
    data = Observations.empty(len(axes))
    history = (float(untrained_score),)
    incumbent = None
    replayed = []
    for epoch, decision in enumerate(decisions):
        units = settings_to_unit(axes, decision.trials)
        scores = _finite_or_nan(decision.scores)
        gains = scores - history[-1]
        chance = kept = None
        if decision.draw is None:
            branch = choose_best(scores)
        else:
            chance = keep_probability(history, window, temperature, offset)
            kept = decision.draw < chance
            branch = choose_branch(kept, scores)
        score = history[-1] if branch < 0 else float(scores[branch])
        if branch >= 0:
            incumbent = decision.trials[branch]
        after = data.extended(units, epoch, gains)
        entry = ReplayedDecision(
            epoch=epoch,
            units=units,
            before=data,
            after=after,
            score_before=history[-1],
            gains=gains,
            best=data.best(),
            keep_probability=chance,
            kept=kept,
            branch=branch,
            score=score,
            history=(*history, score),
            incumbent=incumbent,
            **_predictions(units, epoch, data, decision.parameters, kernel),
        )
        replayed.append(entry)
        data, history = after, entry.history
    return replayed


def _finite_or_nan(scores):
    """Recorded scores as float64 [c], NaN wherever infeasible."""
    values = [math.nan if score is None else float(score) for score in scores]
    array = np.array(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, math.nan)


def _posterior_at(units, epoch, data, parameters, kernel):
    """Posterior (mean [m], stddev [m]) at units [m, d], one epoch, given D."""
    return posterior(
        *data.finite(),
        units,
        epoch,
        length_scales=parameters.length_scales,
        amplitude=parameters.amplitude,
        noise=parameters.noise,
        **kernel,
    )


def _weight_at(units, epoch, data, parameters, kernel):
    """Feasibility weight [m] at units [m, d], one epoch, given D."""
    observed = (data.units, data.epochs, data.feasible)
    scales = parameters.length_scales
    return feasibility_weight(*observed, units, epoch, length_scales=scales, **kernel)


def _predictions(units, epoch, data, parameters, kernel):
    """The fields of ReplayedDecision that need the GP; NaN without parameters."""
    if parameters is None:
        unknown = np.full(len(units), math.nan)
        mean = stddev = improvement = log_improvement = weight = unknown
    else:
        mean, stddev = _posterior_at(units, epoch, data, parameters, kernel)
        improvement = expected_improvement(mean, stddev, data.best())
        log_improvement = log_expected_improvement(mean, stddev, data.best())
        weight = _weight_at(units, epoch, data, parameters, kernel)
    return {
        "mean": mean,
        "stddev": stddev,
        "expected_improvement": improvement,
        "log_expected_improvement": log_improvement,
        "feasibility": weight,
    }
