"""The oracle itself, against scikit-learn and SciPy: it is what the rest is held to."""

import math

import numpy as np
import oracle
import pytest
from scipy import integrate, stats
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

SCALES = np.array([0.4, 1.3, 0.7])
PEERS = {
    "rbf": kernels.RBF(SCALES, "fixed"),
    "matern32": kernels.Matern(SCALES, "fixed", nu=1.5),
    "matern52": kernels.Matern(SCALES, "fixed", nu=2.5),
}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.random((20, 3)), rng.normal(5, 3, 20), rng.random((7, 3))


@pytest.mark.parametrize("kind", PEERS)
def test_posterior_is_that_of_scikit_learn(kind, data):
    """All in one epoch, where the time kernel is one."""
    U, y, U_star = data
    kernel = kernels.ConstantKernel(1.7, "fixed") * PEERS[kind]
    peer = GaussianProcessRegressor(kernel, alpha=0.05, normalize_y=True)
    mean, stddev = peer.fit(U, y).predict(U_star, return_std=True)
    settings = {"length_scales": SCALES, "amplitude": 1.7, "noise": 0.05}
    found = oracle.posterior(U, np.zeros(20), y, U_star, 0.0, kind=kind, **settings)
    np.testing.assert_allclose(found, (mean, stddev), rtol=1e-9)
    np.testing.assert_allclose(oracle.k1(kind, SCALES, U, U), PEERS[kind](U))
    likelihood = oracle.log_marginal_likelihood(
        [*np.log(SCALES), math.log(1.7), math.log(0.05)], U, np.zeros(20), y, kind=kind
    )
    assert likelihood == pytest.approx(peer.log_marginal_likelihood(), rel=1e-9)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.5), (2.5, 3.0)])
def test_time_kernel_is_a_mixture_of_decays(alpha, beta):
    """With a Gamma prior on the rate: what the formula stands for."""
    for lag in (0.0, 0.3, 1.0, 4.0):
        mixture, _ = integrate.quad(
            lambda rate, lag=lag: (
                math.exp(-rate * lag) * stats.gamma.pdf(rate, alpha, scale=1 / beta)
            ),
            0,
            np.inf,
        )
        assert oracle.k2(alpha, beta, 0.0, lag)[0, 0] == pytest.approx(mixture)


@pytest.mark.parametrize("z", [-25.0, -19.0, -6.0, -1.0, -0.5, 0.0, 2.0])
def test_expected_improvement_is_the_integral(z):
    """In units of phi(z), which underflows in the tail."""
    value, _ = integrate.quad(
        lambda x: x * math.exp(z * x - x * x / 2), 0, 60 / (1 + abs(z)) + 8
    )
    found = oracle.log_expected_improvement(z, 1.0, 0.0) - stats.norm.logpdf(z)
    assert found == pytest.approx(math.log(value), abs=1e-9)
