"""The paper's claims beside runs at its own size, judged here on those of the twin."""

import re

import archive
import numpy as np
import paper_table
import pytest

from hyperdyn_jax import report
from hyperdyn_jax.report import paper_figures

TWIN = {
    "manual": "manual_sgd",
    "paper": "hyperdyn",
    "batch1000_paper": "batch1000_hyperdyn",
    "batch1000_epoch_bo": "batch1000_epoch_bo",
}


@pytest.fixture
def twin(monkeypatch):
    """Runs of one seed of the twin in place of those at the paper's size."""
    folder = archive.unpacked("twin")
    found = {
        name: [report.load_run(folder / there / "seed0")]
        for name, there in TWIN.items()
    }
    monkeypatch.setattr(paper_table, "runs", lambda: found)
    monkeypatch.setattr(paper_table, "_made", lambda: "")
    return found


def cells(table):
    rows = [line for line in table.splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ") for line in rows[2:]]


def test_without_runs_nothing_is_claimed(monkeypatch):
    monkeypatch.setattr(paper_table, "runs", dict)
    every = "\n".join(
        (paper_table.accuracies(), paper_table.claims(), paper_table.comparisons())
    )
    assert every.count("ot yet run") == len(paper_table.RUNS) + 11 + 4
    assert "holds" not in every
    assert "does not hold" not in every
    assert "![" not in every
    assert paper_table.pictures() == {}


def test_runs_that_are_there_are_told(twin):
    rows = {row[0]: row[1:] for row in cells(paper_table.accuracies())}
    assert len(rows) == len(paper_table.RUNS)
    for name, (run,) in twin.items():
        last = run.metrics[-1]
        one, validation, test, steps, *_ = rows[paper_table.RUNS[name]]
        assert one == "1"
        assert float(validation) == pytest.approx(last["validation_accuracy"], abs=0.05)
        assert float(test) == pytest.approx(last["test_accuracy"], abs=0.05)
        assert steps == f"{last['step']:,} / {last['total_steps']:,}"
    assert rows[paper_table.RUNS["race_0.1"]][0] == "not yet run"


def test_speed_ups_are_those_of_table_1(twin):
    runs = twin["manual"] + twin["paper"]
    expected = [row for row in cells(paper_figures.table1(runs)) if "SGD" in row[0]]
    found = [row for row in cells(paper_table.claims()) if row[0] == "Table 1"]
    assert len(found) == 3
    for (*_, claimed, accepted, total, reached), (_, _, verdict) in zip(
        expected, found, strict=False
    ):
        if reached == "0 of 1":
            assert re.match(r"does not hold: \d+\.\d% is not reached", verdict)
            continue
        assert f": {accepted}; {total} with" in verdict
        holds = float(accepted[:-1]) >= float(claimed[:-1])
        assert verdict.startswith("holds") == holds


def test_other_verdicts(twin):
    verdicts = {row[1]: row[2] for row in cells(paper_table.claims())}
    manual, paper = (twin[name][0] for name in ("manual", "paper"))
    better = verdicts["at batch 128 Hyperdyn generalizes better than manual tuning"]
    tests = [x.metrics[-1]["test_accuracy"] for x in (paper, manual)]
    assert f"{tests[0]:.1f}% against {tests[1]:.1f}%" in better
    assert better.startswith("does not hold")  # by 2.7 points
    rates = [x["hyperparams"]["learning_rate"] for x in paper.metrics]
    zero = verdicts["at batch 128 the learning rate tends to 0"]
    first, last = np.mean(rates[:6]), np.mean(rates[-6:])
    assert f"{first:.2g} in the first quarter, {last:.2g} in the last" in zero
    assert zero.startswith("holds") == (last < first / 10)
    varies = verdicts["random search 5x varies more than Hyperdyn"]
    assert varies == "cannot be told: not yet run"


def test_a_difference_that_chance_explains_is_none(twin):
    (run,) = twin["paper"]
    told = paper_table._ends_better([run], [run])
    assert told.startswith("cannot be told: ")
    # Two standard errors of a difference: 2 sqrt(2 p (1 - p) / 10,000), p = 0.47.
    assert "(1.4 points)" in told


def test_figures_have_the_curves_that_there_are(twin, monkeypatch):
    monkeypatch.setattr(paper_table.figures, "render", lambda _: b"picture")
    assert sorted(paper_table.pictures()) == [
        f"docs/paper/size/figure{x}.png" for x in ("1a", "1d", "2a")
    ]
    text = paper_table.comparisons()
    assert text.count("![Figure") == 3
    assert re.search(r"Figure 1b\.\*\* .*\n\nNot yet run\.", text)
    assert "| epoch-based BO | 1 |" in text
    assert "Hyperband variant |" not in text
    assert len(twin) == len(TWIN)
