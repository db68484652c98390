"""Table 1 and the figures of the paper, from runs whose numbers are known."""

import errno
import os

import numpy as np
import pytest
from written_runs import write_run

from hyperdyn_jax import paper

MANUAL = [10, 40, 50, 60, 86, 91, 95, 100]  # best: 100


def cells(text):
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
    return [line for line in lines if len(line) > 3 and line[0] != "---"]


def test_speed_up_is_the_ratio_of_steps_to_the_same_accuracy(tmp_path):
    # Manual reaches 85, 90 and 95 after 5, 6 and 7 epochs.
    write_run(tmp_path / "m0", MANUAL, "manual_sgd", seed=0)
    write_run(tmp_path / "m1", MANUAL, "manual_sgd", seed=1)
    # Here after 2, 3 and never; and after 5, 5 and 8. Two trials an epoch.
    fast = [10, 85, 90, 94, 94, 94, 94, 94]
    slow = [10, 20, 30, 40, 90, 90, 90, 95]
    write_run(tmp_path / "h0", fast, "hyperdyn", seed=0, trials=2)
    write_run(tmp_path / "h1", slow, "hyperdyn", seed=1, trials=2)
    write_run(tmp_path / "h2", slow, "hyperdyn", seed=2, trials=2)  # has no partner
    rows = cells(paper.table1(paper.find_runs([tmp_path])))
    assert len(rows) == 1 + 9

    def expected(values):
        return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}x"

    label = "CIFAR-10, SGD"
    a, b = np.array([5 / 2, 5 / 5]), np.array([6 / 3, 6 / 5])
    assert rows[1] == [label, "85%", "1.5x", expected(a), expected(a / 2), "2 of 2"]
    assert rows[2] == [label, "90%", "2x", expected(b), expected(b / 2), "2 of 2"]
    assert rows[3] == [label, "95%", "2x", "0.88x", "0.44x", "1 of 2"]
    for row in rows[4:]:
        assert row[3:] == ["not measured", "not measured", "0"]


def test_papers_own_numbers_are_those_of_its_table(tmp_path):
    write_run(tmp_path / "m0", MANUAL, "manual_sgd")
    write_run(tmp_path / "h0", MANUAL, "hyperdyn")
    rows = cells(paper.table1(paper.find_runs([tmp_path])))[1:]
    claimed = [row[2] for row in rows]
    assert claimed == ["1.5x", "2x", "2x", "1x", "1x", "2x", "1.5x", "4x", "4x"]


def everything(folder):
    """Runs of every kind that a figure shows, two seeds each."""
    kinds = {
        (*kind[1:], figure.data): kind
        for figure in paper.FIGURES.values()
        for kind in figure.kinds
    }
    for number, ((*_, data), kind) in enumerate(kinds.items()):
        for seed in (0, 1):
            write_run(
                folder / f"run{number}" / f"seed{seed}",
                [10, 20 + seed, 40 + 2 * seed],
                kind.strategy,
                seed,
                optimizer=kind.optimizer,
                batch_size=kind.batch_size,
                dataset=data,
            )


def test_one_command_makes_everything(tmp_path, capsys):
    everything(tmp_path / "runs")
    command = ["all", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
    assert paper.main(command) == 0
    names = ["table1", *paper.FIGURES]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {f"{name}.png" for name in paper.FIGURES}
    assert written == pictures | {f"{name}.md" for name in names}
    for name in paper.FIGURES:
        image = (tmp_path / "out" / f"{name}.png").read_bytes()
        assert image.startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for name in names:
        assert (tmp_path / "out" / f"{name}.md").read_text().strip() in printed


def test_table_beside_a_figure_has_spread_and_both_counts(tmp_path):
    everything(tmp_path)
    runs = paper.find_runs([tmp_path])
    text, _ = paper.make("figure1a", runs)
    spread = f"{np.sqrt(2):.1f}"
    row = ["Hyperdyn", "2", f"41.0 ± {spread}", f"40.0 ± {spread}", "30 / 30"]
    assert cells(text)[1] == row
    assert "The paper says: Hyperdyn is always faster" in text
    text, _ = paper.make("figure2a", runs)
    mean = np.mean([0.1, 0.05, 0.1 / 3])
    row = ["batch 128", "learning_rate", "2"]
    row += [f"{mean:.3g} ± 0", "0.1 ± 0", f"{0.1 / 3:.3g} ± 0"]
    assert cells(text)[1] == row


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (
            "figure1b",
            "figure1b needs finished runs on cifar10 of hyperdyn with sgd at ",
        ),
        (
            "figure4",
            "figure4 needs finished runs on imagenet of hyperdyn with sgd at b",
        ),
    ],
)
def test_missing_runs_are_named(tmp_path, figure, message, capsys):
    write_run(tmp_path / "run", MANUAL, "manual_sgd")
    command = [figure, str(tmp_path / "run"), "--output", str(tmp_path / "out")]
    assert paper.main(command) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n"), error[: len("error: ")]) == ("", 1, "error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_all_makes_what_it_can_and_names_the_rest(tmp_path, capsys):
    write_run(tmp_path / "manual", MANUAL, "manual_sgd")
    write_run(tmp_path / "hyperdyn", MANUAL, "hyperdyn")
    write_run(tmp_path / "other", MANUAL, "hyperdyn", dataset="characters")
    out = tmp_path / "out"
    assert paper.main(["all", str(tmp_path), f"--output={out}"]) == 0
    text, notes = capsys.readouterr()
    assert {path.name for path in out.iterdir()} == {
        "figure1a.md",
        "figure1a.png",
        "table1.md",
    }
    assert text.splitlines()[-1] == f"written to {out}/: table1, figure1a"
    left_out = [name for name in paper.FIGURES if name != "figure1a"]
    starts = [f"note: left out: {name} needs finished runs" for name in left_out]
    assert len(notes.splitlines()) == len(starts)
    for line, start in zip(notes.splitlines(), starts, strict=True):
        assert line.startswith(start)


def test_all_of_nothing_is_an_error(tmp_path, capsys):
    write_run(tmp_path / "run", MANUAL, "cosine")
    out = tmp_path / "out"
    for what in ("all", "table1"):
        assert paper.main([what, str(tmp_path / "run"), f"--output={out}"]) == 2
        text, error = capsys.readouterr()
        assert (text, error.count("\n")) == ("", 1)
        assert "table1 needs finished runs of the same seed of manual_sgd" in error
    assert not out.exists()


def test_what_cannot_be_written_is_not_said_to_be(tmp_path, capsys, monkeypatch):
    everything(tmp_path / "runs")
    (tmp_path / "file").write_text("")
    words = ["figure1a", str(tmp_path / "runs")]
    for place in ("file", "file/out"):
        assert paper.main([*words, f"--output={tmp_path / place}"]) == 2
        text, error = capsys.readouterr()
        assert (text, error.count("\n")) == ("", 1)
        assert error.startswith(f"error: --output={tmp_path / place} cannot be written")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(paper.arguments.jsonl, "replace_bytes", full)
    assert paper.main([*words, f"--output={tmp_path / 'out'}"]) == 2
    text, error = capsys.readouterr()
    assert "written" not in text
    assert error.endswith("figure1a.png cannot be written: No space left on device\n")


def test_runs_of_other_programs_are_passed_over(tmp_path, capsys):
    everything(tmp_path / "runs")
    write_run(tmp_path / "runs" / "own", MANUAL, "hyperdyn")
    (tmp_path / "runs" / "own" / "config.json").write_text('{"seed": 7}')
    words = ["figure1a", str(tmp_path / "runs"), f"--output={tmp_path / 'out'}"]
    assert paper.main(words) == 0
    assert "| Hyperdyn | 2 |" in capsys.readouterr().out


def test_folders_without_a_finished_run_are_refused(tmp_path, capsys):
    write_run(tmp_path / "run", MANUAL, "manual_sgd")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[:-1]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(rows))
    assert paper.main(["table1", str(tmp_path)]) == 2
    assert "no finished run in or below" in capsys.readouterr().err


def test_runs_that_cannot_be_told_apart_are_refused(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"{seed}", MANUAL[seed:], "manual_sgd", seed=seed)
    runs = paper.find_runs([tmp_path])
    with pytest.raises(ValueError, match=r"runs of manual_sgd .* differ in epochs, 7,"):
        paper.table1(runs)
    write_run(tmp_path / "a" / "b", MANUAL, "hyperdyn", seed=0)
    write_run(tmp_path / "a" / "c", MANUAL, "hyperdyn", seed=1, dataset="cifar10_twin")
    with pytest.raises(ValueError, match="differ in dataset, cifar10,"):
        paper.table1(paper.find_runs([tmp_path / "a"]))
