"""The simulator of large runs against closed forms."""

import types

import numpy as np
import pytest
import simulator

from hyperdyn_jax.training import branch_parallel

QUIET = simulator.Machine(
    work=8.0,
    overhead=0.25,
    latency=1e-3,
    seconds_per_byte=1e-9,
    gradient=1e6,
    state=3e6,
)


def test_without_chance_time_is_exact():
    rng = np.random.default_rng(0)
    summed = 6 * 1e-3 + 2 * 7 / 8 * 1e6 * 1e-9
    assert simulator.step_time(QUIET, 8) == pytest.approx(1 + 0.25 + summed)
    in_turn = simulator.decide(QUIET, 8, 2, 10, 3, rng, parallel=False)
    np.testing.assert_allclose(in_turn, 20 * (1.25 + summed))
    # Two groups of four, side by side, and each other's branch.
    summed = 4 * 1e-3 + 2 * 3 / 4 * 1e6 * 1e-9
    groups = simulator.decide(QUIET, 8, 2, 10, 3, rng)
    np.testing.assert_allclose(groups, 10 * (2.25 + summed) + 1e-3 + 3e-3)
    # Four branches on processes of two: two waves of two.
    small = QUIET._replace(host=2)
    waves = simulator.decide(small, 8, 4, 10, 3, rng)
    np.testing.assert_allclose(waves, 20 * (2.25 + summed) + 1e-3 + 6e-3)


def test_one_device_sums_nothing():
    assert simulator.all_reduce(QUIET, 1, 1e6) == 0
    assert simulator.traffic(1, 1e6) == 0
    assert simulator.traffic(4096, 1e6) == pytest.approx(2e6, rel=1e-3)
    assert simulator.step_time(QUIET, 1) == 8.25


def test_virtual_devices_share_their_cores():
    shared = QUIET._replace(cores=2, latency=0.0, seconds_per_byte=0.0)
    assert simulator.step_time(shared, 8) == simulator.step_time(shared, 2) == 4.25


@pytest.mark.parametrize(
    ("devices", "branches", "host", "groups"),
    [
        (8, 2, 8, 2),
        (8, 5, 8, 1),  # in turn: three would be idle
        (8, 6, 8, 2),
        (2, 4, 8, 2),
        (1, 2, 8, 1),
        (4096, 2, 1, 1),  # a process of one device
        (4096, 4, 8, 4),
    ],
)
def test_groups_are_those_of_the_program(devices, branches, host, groups):
    assert simulator.groups(QUIET._replace(host=host), devices, branches) == groups
    here = [types.SimpleNamespace(process_index=0)] * min(devices, host)
    assert branch_parallel.groups(branches, here) == groups


@pytest.mark.parametrize("devices", [1, 2, 7, 4096])
def test_the_slowest_of_many_is_late_by_the_harmonic_number(devices):
    late = QUIET._replace(jitter=0.3, overhead=0.0, latency=0.0, seconds_per_byte=0.0)
    rng, steps = np.random.default_rng(1), 400
    drawn = simulator.train(late, devices, steps, 200, rng)
    expected = steps * simulator.step_time(late, devices)
    assert drawn.mean() == pytest.approx(expected, rel=0.01)
    one_by_one = rng.exponential(0.3, (20_000, min(devices, 64))).max(1)
    few = simulator.harmonic(min(devices, 64)) * 0.3
    assert one_by_one.mean() == pytest.approx(few, rel=0.02)
    assert drawn.std() > 0


def test_groups_wait_for_the_slowest_of_them():
    late = QUIET._replace(jitter=1.0, overhead=0.0, latency=0.0, seconds_per_byte=0.0)
    late = late._replace(state=0.0)
    drawn = simulator.decide(late, 2, 2, 1, 50_000, np.random.default_rng(2))
    # The largest of two, each 1 + Exp(1): 1 + 3/2.
    assert drawn.mean() == pytest.approx(8 * (1 + 1.5), rel=0.01)


FAILING = QUIET._replace(failures=3.0, restart=60.0, save=5.0)


def test_failures_cost_what_they_are_expected_to():
    pieces = np.full(20_000, 300.0)
    expected = simulator.with_failures(FAILING, 4, pieces)
    rate = 12 / 3600
    one = (1 / rate + 60) * (np.exp(rate * 305) - 1)
    assert expected == pytest.approx(20_000 * one)
    drawn = simulator.with_failures(FAILING, 4, pieces, np.random.default_rng(3))
    assert drawn == pytest.approx(expected, rel=0.02)
    none = FAILING._replace(failures=0.0)
    assert simulator.with_failures(none, 4, pieces) == 20_000 * 305


def test_youngs_interval_is_the_best_where_failures_are_rare():
    rare = FAILING._replace(failures=1e-3)
    best = simulator.best_interval(rare, 4)
    assert best == pytest.approx(np.sqrt(2 * 5 * 3600 / 4e-3))

    def cost(interval):
        count = int(1e7 / interval)
        return simulator.with_failures(rare, 4, np.full(count, 1e7 / count))

    costs = [cost(best * factor) for factor in (0.5, 0.8, 1.0, 1.25, 2.0)]
    assert min(costs) == costs[2]
    assert costs[0] > costs[1]
    assert costs[4] > costs[3]


def test_a_long_epoch_is_saved_inside():
    pieces = simulator.pieces_of(250.0, 3, 100.0)
    assert len(pieces) == 9
    assert pieces.sum() == pytest.approx(750)
    assert len(simulator.pieces_of(50.0, 3, 100.0)) == 3
