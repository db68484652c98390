"""Runs that earlier versions made are still read by report, compare and replay."""

import archive
import pytest

from hyperdyn_jax import compare, paper, replay, report
from hyperdyn_jax.report import charts, figures
from hyperdyn_jax.run import verdicts
from hyperdyn_jax.run.config_schema import current

STRATEGIES = ("autolrs", "cosine", "explore", "hyperband", "hyperdyn", "pb2", "plateau")


@pytest.fixture(scope="module")
def twin():
    return archive.unpacked("twin")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_report_reads_them(twin, tmp_path, strategy):
    run = report.load_run(twin / strategy / "seed0")
    last = run.metrics[-1]
    page = report.write_report([run.path], tmp_path).read_text(encoding="utf-8")
    assert f"<b>{last['test_accuracy']:.2f}%</b> test accuracy" in page
    made = (row for row in run.decisions if verdicts.outcome(row) != "continued")
    trials = sum(len(row["trials"]) for row in made)
    assert page.count('data-label="realised"') == trials
    drawn = {file.stem for file in (tmp_path / "figures").iterdir()}
    assert {"accuracy", "hyperparameters", "cost"} <= drawn
    assert ("belief" in drawn) == (strategy == "hyperdyn")


def test_every_chart_of_every_strategy_is_drawn(twin):
    for folder in sorted(twin.iterdir()):
        if (folder / "seed0").is_dir():
            run = report.load_run(folder / "seed0")
            panels = charts.accuracy([run]).panels
            assert len(figures.draw(charts.accuracy([run])).axes) == len(panels)
            assert charts.hyperparameters([run]).panels


def test_compare_and_paper_read_them(twin, tmp_path):
    runs = [twin / name for name in STRATEGIES]
    file, text = compare.write(runs, tmp_path)
    assert file.is_file()
    for name in STRATEGIES:
        assert f"| {name}" in text
    made = paper.make_all(report.find_runs([twin]), lambda _: None)
    assert {"table1", "figure1a", "figure2a", "figure3b"} <= set(made)


@pytest.mark.parametrize(
    ("study", "strategy"),
    [("characters", "explore"), ("digits", "hyperdyn"), ("characters", "cosine")],
)
def test_replay_reads_them(study, strategy):
    run = archive.unpacked(study) / strategy / "seed0"
    settings = replay.replay_config(run)
    assert settings["strategy"] == "replay"
    assert settings["replay"] == {"run": str(run)}
    assert settings["averaging"] == (5.0 if strategy == "explore" else None)


def test_an_explore_run_that_says_nothing_of_its_average_had_one():
    config = {"strategy": "explore", "explore": {}, "averaging": None}
    found = current(config, finished=True)
    assert (found["averaging"], found["backtracking"]) == (5.0, True)
    assert current(config | {"averaging": 2.0}, finished=True)["averaging"] == 2.0
    assert current(config) == config  # it is no strategy that could be trained
