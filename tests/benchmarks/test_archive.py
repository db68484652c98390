"""Records of studies: nothing is lost in an archive, and no damage goes unnoticed."""

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import archive
import numpy as np
import pytest
import strategies

from hyperdyn_jax import replay, report, schedule

CONFIG = '{"seed": 0, "data_dir": "/somewhere", "name": "α"}\n'
METRICS = '{"test_accuracy": 50.0}\r\n{"torn": '
DAMAGED = r"study.jsonl.gz, line [1-5]: damaged: "
STUDY = {
    ".": {"machine.json": b"{}\n"},
    "cosine_1e-05/seed0": {"config.json": CONFIG.encode(), "decisions.jsonl": b""},
    "hyperdyn/seed0": {"metrics.jsonl": METRICS.encode(), "config.json": b"{}"},
    "hyperdyn/seed1": {"config.json": b'{"seed": 1}\xe2\x80\xa8\n'},
}


@pytest.fixture
def study(tmp_path):
    """A folder of runs, and its archive."""
    for path, files in STUDY.items():
        (tmp_path / "runs" / path).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (tmp_path / "runs" / path / name).write_bytes(content)
    file = tmp_path / "study.jsonl.gz"
    assert archive.main(["pack", str(tmp_path / "runs"), str(file)]) == 0
    return file


def tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(capsys, *words):
    """The one line that a command says instead of working."""
    capsys.readouterr()
    assert archive.main(list(map(str, words))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


def lines_of(file):
    text = gzip.decompress(file.read_bytes()).decode()
    return [json.loads(line) for line in text.split("\n")[:-1]]


def rewritten(file, change):
    """An archive that is whole, but for what is in its lines."""
    lines = lines_of(file)
    change(lines)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    file.write_bytes(archive.HEADER + gzip.compress(text.encode())[10:])


def test_unpacked_files_are_those_that_were_packed(study, tmp_path, capsys):
    copy = tmp_path / "copy"
    assert archive.main(["unpack", str(study), str(copy)]) == 0
    assert capsys.readouterr().out.endswith(f"{copy}: 3 runs, 6 files\n")
    assert tree(copy) == tree(tmp_path / "runs")
    assert archive.read(study) == STUDY
    lines = lines_of(study)
    assert [line["path"] for line in lines] == list(STUDY)
    digest = lines[2]["files"]["metrics.jsonl"]["sha256"]
    assert digest == hashlib.sha256(METRICS.encode()).hexdigest()


def test_replay_takes_a_run_that_was_unpacked_with_its_schedule(tmp_path, capsys):
    file, folder = archive.RESULTS / "digits.jsonl.gz", tmp_path / "digits"
    words = ["unpack", str(file), str(folder), "--schedules"]
    assert archive.main(words) == 0, capsys.readouterr().err
    run = folder / "hyperdyn" / "seed0"
    assert replay.replay_config(run)["replay"] == {"run": str(run)}
    ends, values = schedule.read_schedule(run)
    metrics = report.load_run(run).metrics
    assert list(ends) == [row["step"] for row in metrics]
    rates = [row["hyperparams"]["learning_rate"] for row in metrics]
    assert list(values["learning_rate"]) == list(np.float32(rates))
    assert not list(archive.unpacked("digits").rglob("schedule.json"))  # only if asked


def test_the_same_runs_are_the_same_bytes(study, tmp_path):
    backwards = {path: dict(reversed(STUDY[path].items())) for path in reversed(STUDY)}
    archive.write(tmp_path / "another name", backwards)
    assert (tmp_path / "another name").read_bytes() == study.read_bytes()
    assert study.read_bytes()[4:8] == bytes(4)  # no time
    assert b"study" not in study.read_bytes()[:20]  # no name


def test_every_damaged_byte_is_found(study):
    whole = study.read_bytes()
    for i in range(len(whole)):
        study.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        with pytest.raises(ValueError, match=DAMAGED):
            archive.read(study)
    for spoilt in (b"", whole[:-1], whole[: len(whole) // 2], whole + b"\0", b"{}\n"):
        study.write_bytes(spoilt)
        with pytest.raises(ValueError, match=DAMAGED):
            archive.read(study)
    study.write_bytes(whole)
    assert archive.read(study) == STUDY


def other_text(lines):
    lines[2]["files"]["metrics.jsonl"]["text"] += " "


def other_digest(lines):
    lines[2]["files"]["config.json"]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_text, "hyperdyn/seed0/metrics.jsonl differs from its SHA-256 digest"),
        (other_digest, "hyperdyn/seed0/config.json differs from its SHA-256 digest"),
        (lambda lines: lines[2].pop("path"), "the line cannot be read"),
        (lambda lines: lines[2].update(path=3), "the line cannot be read"),
        (lambda lines: lines.insert(2, []), "the line cannot be read"),
        (lambda lines: lines.insert(2, lines[1]), "'cosine_1e-05/seed0' is not in ord"),
        (lambda lines: lines.insert(2, lines.pop()), "'hyperdyn/seed0' is not in o"),
    ],
)
def test_damage_is_a_line_with_its_place_and_what_to_do(study, capsys, change, told):
    rewritten(study, change)
    line = refused(capsys, "verify", study)
    number = 4 if "hyperdyn/seed0' is not" in told else 3
    assert line.startswith(f"error: {study}, line {number}: damaged: {told}")
    assert line.endswith(
        f"; restore it (git checkout -- {study}), or pack the runs again"
    )
    assert refused(capsys, "unpack", study, study.with_name("out")) == line
    assert not study.with_name("out").exists()


def test_every_damaged_archive_is_told(study, tmp_path, capsys):
    torn, none = tmp_path / "torn.jsonl.gz", tmp_path / "none.jsonl.gz"
    torn.write_bytes(study.read_bytes()[:-9])
    capsys.readouterr()
    assert archive.main(["verify", *map(str, (torn, study, none))]) == 2
    out, err = capsys.readouterr()
    assert out == f"{study}: 3 runs, 6 files, every digest is right\n"
    first, second = err.splitlines()
    assert "torn.jsonl.gz, line " in first
    assert second == f"error: {none}: No such file or directory"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("../out", "config.json"),
        ("hyperdyn/../../out", "config.json"),
        ("/tmp/out", "config.json"),
        ("..", "config.json"),
        ("hyperdyn", "../config.json"),
        ("hyperdyn", "/tmp/config.json"),
        ("hyperdyn", "seed0/config.json"),
        ("hyperdyn", ".."),
        ("hyperdyn", ""),
        ("hyperdyn\0", "config.json"),
    ],
)
def test_nothing_leaves_the_folder(tmp_path, capsys, path, name):
    study = tmp_path / "study.jsonl.gz"
    archive.write(study, {"a": {"config.json": b"{}"}, path: {name: b"{}"}})
    line = refused(capsys, "unpack", study, tmp_path / "inner" / "folder")
    assert "leads out of the folder; nothing was unpacked" in line
    assert list(tmp_path.iterdir()) == [study]


def test_a_folder_that_is_in_use_is_left_alone(study, tmp_path, capsys):
    before = tree(tmp_path)
    line = refused(capsys, "unpack", study, tmp_path / "runs")
    assert line.endswith("runs is not empty; give a new folder to unpack to")
    line = refused(capsys, "unpack", study, study)
    assert line == f"error: {study}: Not a directory"
    assert tree(tmp_path) == before


def test_pack_takes_rows_alone_and_says_so(study, tmp_path, capsys):
    runs, new = tmp_path / "runs", tmp_path / "new"
    (runs / "hyperdyn" / "seed0" / "checkpoints").mkdir()
    (runs / "hyperdyn" / "seed0" / "checkpoints" / "state").write_bytes(b"\xff")
    assert archive.main(["pack", str(runs), str(new)]) == 0
    state = runs / "hyperdyn" / "seed0" / "checkpoints" / "state"
    assert f"left out: 1 files, such as {state}: " in capsys.readouterr().out
    assert new.read_bytes() == study.read_bytes()
    (runs / "hyperdyn" / "seed0" / "config.json").write_bytes(b"\xff")
    line = refused(capsys, "pack", runs, new)
    assert line == "error: hyperdyn/seed0/config.json is not UTF-8 text"
    assert new.read_bytes() == study.read_bytes()
    (tmp_path / "none").mkdir()
    line = refused(capsys, "pack", tmp_path / "none", new)
    assert line.startswith(f"error: {tmp_path / 'none'} holds no config.json, ")
    line = refused(capsys, "pack", tmp_path / "nothing", new)
    assert line == f"error: {tmp_path / 'nothing'} is not a folder"


def test_a_study_keeps_its_runs_and_gains_those_that_are_finished(
    study, tmp_path, monkeypatch
):
    monkeypatch.setattr(strategies, "RESULTS", tmp_path)
    work = tmp_path / "runs"
    old = {"new/old": {"config.json": b"{}"}, "new": {"fresh.json": b""}}
    archive.write(study, old)
    strategies.keep(work, (0, 1), "study", "new")
    found = archive.read(study)
    # Neither has seed1 a test accuracy, nor cosine_1e-05 any metrics.
    assert list(found) == ["new", "new/hyperdyn/seed0", "new/old"]
    run = found["new/hyperdyn/seed0"]
    assert run["metrics.jsonl"] == METRICS.encode()
    assert json.loads(run["config.json"]) == {"data_dir": "DATA_DIR"}
    assert found["new"]["fresh.json"] == b""
    assert json.loads(found["new"]["machine.json"])["results"] == {"seeds": [0, 1]}
    strategies.keep(work, (0, 1), "other")
    assert list(archive.read(tmp_path / "other.jsonl.gz")) == [".", "hyperdyn/seed0"]


def test_committed_archives_verify_and_hold_runs():
    command = [sys.executable, archive.__file__, "verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    names = sorted(path.name for path in archive.RESULTS.glob("*.gz"))
    assert [Path(line.partition(":")[0]).name for line in lines] == names
    assert len(names) >= 6
    assert all(line.endswith("files, every digest is right") for line in lines)
    assert report.load_run(archive.unpacked("digits") / "race" / "seed0").metrics
    assert [*archive.RESULTS.rglob("metrics.jsonl")] == []  # all runs are in archives
