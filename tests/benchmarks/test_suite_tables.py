"""The suite's tables and its performance profiles, from the records."""

import math

import pytest
import suite_tables
from suite.curves import load


@pytest.fixture
def _three(monkeypatch):
    """Times to the target of three methods on four problems."""
    times = {
        "race none": [200, 400, 300, math.inf],
        "quick": [100, 100, 600, math.inf],
        "late": [450, 400, math.inf, 500],
    }
    problems = [("mlp", seed) for seed in range(4)]
    rows = {
        name: {
            p: {"losses": [(0, 2.0), (t, 1.0)]}
            for p, t in zip(problems, of, strict=True)
        }
        for name, of in times.items()
    }
    monkeypatch.setattr(suite_tables, "methods", lambda: rows)
    target = load(suite_tables.FOLDER / "mlp-2.npz")
    monkeypatch.setitem(vars(target), "target", 1.5)
    monkeypatch.setattr(suite_tables, "curves", lambda _: target)


@pytest.mark.usefixtures("_three")
def test_a_profile_counts_problems_by_steps_in_those_of_the_fastest():
    def share(name, most):
        return max(y for x, y in suite_tables.profile(name) if x <= most)

    assert [share("race none", x) for x in (1, 2, 3, 4)] == [0.25, 0.5, 0.5, 0.75]
    assert [share("quick", x) for x in (1, 2, 4)] == [0.5, 0.75, 0.75]
    assert share("late", 4) == 0.5  # and never on the third


def test_a_peer_counts_as_it_is_better_at_a_constant_rate_or_along_a_cosine():
    found = suite_tables.methods()
    assert not [
        name for name in found if name.endswith("_cosine") and name[:-7] in found
    ]
    assert set(suite_tables.PEERS) < set(found)
    counts = {len(rows) for rows in found.values()}
    assert len(counts) == 1


def test_the_picture_has_a_line_for_every_method():
    chart = suite_tables.profiles()
    lines = [drawn for panel in chart.panels for drawn in panel.drawn]
    assert len(chart.keys) == len({key.look for key in chart.keys})
    assert {line.look for line in lines} == {key.look for key in chart.keys}
    assert all(0 <= y <= 1 for line in lines for _, y in line.points)


def test_a_loss_without_a_zero_is_told_in_what_is_gained_after_the_first_steps():
    table = load(suite_tables.FOLDER / "autoencoder-4.npz")
    assert table.start > 100  # nats, of an untrained network that is sure of itself
    assert 1 < table.unit < 5
    assert load(suite_tables.FOLDER / "mlp-2.npz").ratio(1.0) < 1
