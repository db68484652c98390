"""A few of the cases that `benchmarks/faults_boundary.py` counts by the thousand."""

import fuzz
import numpy as np
import pytest

pytestmark = pytest.mark.slow


def test_nothing_comes_of_ill_posed_data(monkeypatch):
    monkeypatch.setattr(fuzz, "SPACES", fuzz.SPACES[1:2])  # each compiles for seconds
    monkeypatch.setattr(fuzz, "KERNELS", ("matern52",))
    found = fuzz.run(40, seed=5)
    assert found["cases"] == {"model": 40, "hyperdyn": 40, "race": 40}
    assert found["kinds_of_data"] > 30
    assert found["first"] == {}
    wrong = (found["exceptions"], found["nan"], found["out_of_bounds"])
    assert wrong == (0, 0, 0)


def test_what_is_wrong_is_counted():
    tally = fuzz.Tally.empty()

    def bad():
        yield "NaN: learning_rate"
        np.log(np.zeros(1))  # warns

    def strange():
        yield "NaN: again"

    for case in (bad, strange, lambda: iter(())):
        tally.run("part", "kind", case)
    assert tally.wrong == {"NaN": 1, "exception": 1}
    assert tally.cases["part"] == 3
    assert "divide by zero" in tally.first["exception"]


def test_every_kind_of_data_is_drawn():
    rng = np.random.default_rng(0)
    kinds, counts, infeasible = set(), set(), set()
    for _ in range(300):
        kind, data = fuzz.draw(rng, 2)
        kinds |= set(kind.split(", "))
        valid = data.feasible | data.infeasible
        counts.add(int(valid.sum()))
        infeasible.add(bool(data.feasible.any()))
        assert np.isfinite(data.gains).all()
        assert ((data.points >= 0) & (data.points <= 1)).all()
    assert kinds == {*fuzz.POINTS, *fuzz.GAINS, *fuzz.DIVERGED}
    assert counts == {1, 2, 3, 12, 24}
    assert infeasible == {True, False}
