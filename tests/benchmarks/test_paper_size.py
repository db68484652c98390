"""The paper's experiment at its own size: its runs, and what is kept of them."""

import json
import re
import subprocess

import archive
import paper_size
import paper_table
import pytest
import strategies
from paths import ROOT

from hyperdyn_jax.run import config as config_lib
from hyperdyn_jax.run.config_errors import ConfigError

# Validation accuracies that the short runs end with: the second rate is the best.
ENDS = {"cosine_0.03": 50.0, "cosine_0.1": 61.0, "cosine_0.3": 40.0}


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Makes runs without training them, and tells which, with their configs."""
    runs = {}

    def pretend(configs, seeds, work):
        for name, config in configs.items():
            for seed in seeds:
                folder = work / name / f"seed{seed}"
                assert "commits" in (folder / "machine.json").read_text()
                (folder / "config.json").write_text(json.dumps(config))
                row = {"validation_accuracy": ENDS.get(name, 1.0), "test_accuracy": 1.0}
                (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
                runs[name, seed] = config

    monkeypatch.setattr(paper_size, "make_runs", pretend)
    monkeypatch.setattr(paper_size.study, "check_runs", lambda *_: None)
    monkeypatch.setattr(strategies, "RESULTS", tmp_path)
    return runs


def make(tmp_path, *names, seeds=(0,)):
    size = paper_size.SIZES["cpu"]
    paper_size.make(names, seeds, size, "DATA", tmp_path / "work")


def test_every_run_can_be_made():
    configs = paper_size.configs(paper_size.SIZES["cpu"], "")
    for name, config in configs.items():
        setup = config_lib.build(config, chips=1)
        assert setup.dataset.batch_size == (1000 if "1000" in name else 128)
    rates = {
        name: config["optimizer"]["learning_rate"] for name, config in configs.items()
    }
    assert rates["race_0.01"] == 0.01
    assert rates["cosine_0.3"] == 0.3
    assert rates["manual"] == 0.1


def test_the_page_asks_for_runs_that_there_are():
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    listed = re.findall(r"--only=([\w.,]+)|for run in ([^;]+);", text)
    names = {name for found in listed for name in re.split("[, ]", "".join(found))}
    assert len(names) >= 4
    assert names <= set(paper_table.RUNS)
    assert set(paper_table.RUNS) == set(paper_size.configs(paper_size.SIZES["cpu"], ""))


def test_the_cosine_has_the_rate_whose_short_runs_end_best(made, tmp_path):
    make(tmp_path, "cosine_0.03", "cosine_0.1", "cosine_0.3", "cosine", seeds=(0, 1))
    assert len(made) == 8
    assert made["cosine", 1]["optimizer"]["learning_rate"] == 0.1
    assert made["cosine", 1]["epochs"] == 3 * made["cosine_0.1", 1]["epochs"]


def test_a_run_that_is_missing_is_told_before_the_first(made, tmp_path):
    make(tmp_path, "cosine_0.03")
    with pytest.raises(ConfigError, match=r"cosine needs .*cosine_0.1/seed0, which"):
        make(tmp_path, "manual", "cosine", "cosine_0.1", "cosine_0.3")
    with pytest.raises(ConfigError, match=r"no run 'manuel', but manual, paper, "):
        make(tmp_path, "manual", "manuel")
    assert list(made) == [("cosine_0.03", 0)]


@pytest.mark.usefixtures("made")
def test_a_run_tells_the_commits_that_made_it(tmp_path, monkeypatch):
    run = tmp_path / "work" / "manual" / "seed0"
    monkeypatch.setattr("sys.argv", ["paper_size.py", f"--workdir={tmp_path}/work"])
    for commit in ("one", "two", "two"):
        monkeypatch.setattr(paper_size, "commit", lambda commit=commit: commit)
        paper_size.sign(run)
    make(tmp_path, "manual")
    monkeypatch.setattr(paper_size, "commit", lambda: "three")
    make(tmp_path, "manual", "paper")  # the first is finished
    kept = archive.read(tmp_path / "paper_size.jsonl.gz")
    assert sorted(kept) == [".", "manual/seed0", "paper/seed0"]
    found = [json.loads(kept[x]["machine.json"])["results"] for x in sorted(kept)[1:]]
    assert found == [{"commits": ["one", "two"]}, {"commits": ["three"]}]
    assert str(tmp_path).encode() not in kept["manual/seed0"]["machine.json"]
    assert json.loads(kept["manual/seed0"]["config.json"])["data_dir"] == "DATA_DIR"


def test_code_that_was_changed_is_told(monkeypatch):
    name = paper_size.commit().partition(" ")[0]
    assert len(name) == 40
    for code, text in ((0, name), (1, f"{name} with changes")):
        done = subprocess.CompletedProcess([], code)
        monkeypatch.setattr(
            paper_size.subprocess, "check_output", lambda *_, **__: name
        )
        monkeypatch.setattr(paper_size.subprocess, "run", lambda _, done=done: done)
        assert paper_size.commit() == text
