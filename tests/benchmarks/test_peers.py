"""Other optimizers in the place of a workload's own, and a race with a part missing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from archive import RESULTS

from benchmarks.suite import ablation, offline, peers, plain
from benchmarks.suite.curves import load
from benchmarks.suite.workload import Data, make
from benchmarks.suite.workloads import gru, multisteps


@pytest.fixture(autouse=True)
def _promotion():
    """What a user has; Optax's own optimizers need it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def line():
    """Least squares on a line, with clipped gradients: weights are w and b."""
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    data = Data((x, 3 * x + 1), (x, 3 * x + 1), (x, 3 * x + 1))

    def loss(params, _, x, y):
        return jnp.mean((params["w"] * x + params["b"] - y) ** 2)

    def init(_):
        return {"w": jnp.zeros(()), "b": jnp.zeros(())}

    return make(
        "line", data, init, loss, lambda rate: optax.sgd(rate, 0.9),
        batch=16, usual=0.1, rates=(1e-3, 10.0), steps=80, around=gru.clipped,
        family="sgd", decay=0.01,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["prodigy", "dadapt", "momo", "mechanic"])
def test_a_peer_learns_and_keeps_what_the_task_adds(line, name):
    peer = peers.PEERS[name]
    state = line.remade(peer.of(line)).init(jax.random.key(0))
    clip, _ = state.opt_state.inner_state
    assert isinstance(clip, optax.EmptyState)
    run = peers.run_peer(line, peer, peers.rate_of(peer, line), 0)
    assert run.loss < run.losses[0][1]
    assert [step for step, _ in run.losses] == list(range(0, 81, 2))


def test_schedule_free_is_scored_at_its_average_inside_of_accumulation():
    def of(rate):
        return multisteps.accumulated(optax.contrib.schedule_free_sgd(rate, b1=0.5))

    data = Data(*[(np.ones(8, np.float32),)] * 3)

    def loss(w, _, x):
        return jnp.mean((w - x) ** 2)

    task = make(
        "one", data, lambda _: jnp.zeros(()), loss, of,
        batch=4, usual=0.1, rates=(1e-3, 1.0),
    )  # fmt: skip
    state = task.init(jax.random.key(0))
    state = task.train(state, {"learning_rate": 0.1}, range(2 * multisteps.MICRO_STEPS))
    # z goes from 0 to 0.2, and on by 0.1 of the gradient at y, the middle of x and z.
    # The first x is the first z, and the second the mean of both.
    z = 0.2 + 0.1 * 2 * (1 - 0.2)
    assert float(peers.read_out(state).params) == pytest.approx((0.2 + z) / 2, rel=1e-5)
    assert float(state.params) == pytest.approx(((0.2 + z) / 2 + z) / 2, rel=1e-5)


def test_a_plain_run_counts_at_its_best_and_says_where_it_ended(line):
    run = plain.train(line, 0.2, "constant", 0)
    losses = [loss for _, loss in run.losses]
    assert run.loss == min(losses)
    assert run.last == losses[-1]
    assert run.test == pytest.approx(run.loss)  # the same data
    raised = plain.train(line, 0.2, "constant", 0, warmup=40)
    assert raised.losses[1][1] > run.losses[1][1]


def test_tuners_take_a_thousand_steps_in_all():
    space = offline.SearchSpace(learning_rate=offline.LogUniform(1e-3, 1.0))
    autolrs, epochs, each = peers.tuners(space)["autolrs"]
    stages = epochs / autolrs.stage
    probes = autolrs.probes * autolrs.probe_fraction * autolrs.stage
    assert stages * (probes + autolrs.stage) * each == 1000
    pb2, epochs, each = peers.tuners(space)["pb2"]
    assert pb2.population * epochs * each == 1000
    paper, epochs, each = peers.tuners(space)["hyperdyn"]
    assert (paper.initial_points + 2 * (epochs - 1)) * each == 1000


def test_without_its_model_a_race_takes_what_leads_early(monkeypatch):
    """While a warm-up lasts, too large a rate leads."""
    table = load(RESULTS / "suite" / "transformer_warmup-0.npz")
    whole = offline.play(table, table.best_rate, 0)
    monkeypatch.setattr(offline, "Race", ablation.ByScore)
    early = offline.play(table, table.best_rate, 0)
    assert early.rate > 2 * whole.rate
    assert early.ratio > whole.ratio


def test_with_one_horizon_all_arms_train_as_long(monkeypatch):
    table = load(RESULTS / "suite" / "transformer-0.npz")
    rounds = []

    class Watched(offline.Race):
        def _tell_round(self, state, scores):
            rounds.append((len(scores), int(state.following)))
            return super()._tell_round(state, scores)

    monkeypatch.setattr(offline, "Race", Watched)
    with ablation.one_horizon():
        played = offline.play(table, table.best_rate, 0)
    ((arms, steps),) = rounds
    assert arms >= 7
    assert steps >= 20
    assert played.overhead <= 0.2
