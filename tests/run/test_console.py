"""The lines of a run on a terminal."""

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from written_runs import DECISIONS, METRICS, A, Page, decision, make_run

from hyperdyn_jax import report
from hyperdyn_jax.run import console, verdicts


def test_lines_of_probes_tell_their_losses():
    row = {
        "branch": -1,
        "trials": [{"learning_rate": 0.1}, {"learning_rate": 0.4}],
        "scores": [-2.1, None],
    }
    row |= {"epoch": 0, "score_before": -2.3, "posterior_mean": None}
    line = console.told("step 7/9", row, [])
    assert line == "step 7/9  probed lr 0.1: validation loss 2.1; lr 0.4: diverged"


def test_a_probe_tells_how_many_there_are():
    row = {"branch": -1, "trials": [{"learning_rate": 0.042}], "scores": [-1.6534]}
    row |= {"epoch": 0, "score_before": -2.3, "probe": "3 of 10, part 4 of 4"}
    line = console.told("step 7/9", row, [])
    assert (
        line == "step 7/9  probe 3 of 10, part 4 of 4: lr 0.042, validation loss 1.653"
    )
    assert verdicts.role(row, 0) == "probe 3 of 10, part 4 of 4"


def test_a_line_and_the_page_give_the_same_reason(tmp_path):
    """Of every decision; where nothing was tried the line says nothing of it."""
    page = Page(report.write_report([make_run(tmp_path / "run")]))
    accepted = METRICS[0] | {"validation_loss": 1.0}
    for row, (_, told, _) in zip(DECISIONS, page.decisions(), strict=True):
        outcome, reason = told.split(": ")
        line = console.told("step 7/9", row, [accepted])
        assert f"{outcome.lower()}: {reason}" in line
    lone = decision(0, [A], [50.0], 49.0, 0)
    line = console.told("step 7/9", lone, [accepted])
    assert line.endswith("lr 0.1 momentum 0.9")


def test_what_stays_the_same_is_not_told_again():
    rows = [METRICS[0] | {"hyperparams": A | {"learning_rate": x}} for x in (0.1, 0.2)]
    lone = decision(0, [A], [50.0], 49.0, 0)
    assert "lr 0.2" in console.told("step 7/9", lone, rows)
    assert "momentum" not in console.told("step 7/9", lone, rows)
    assert "lr 0.1 momentum 0.9" in console.told("step 7/9", lone, rows[:1] * 2)


@given(st.lists(st.text("ab /-:\n", max_size=60), max_size=8), st.integers(0, 150))
def test_no_line_is_longer_than_a_hundred_columns(parts, length):
    path = "x" * length
    lines = console.folded(" ".join([*parts, path])).splitlines()
    assert all(len(line) <= 100 or line.strip() == path for line in lines)
    words = " ".join([*parts, path]).split()
    assert " ".join(lines).split() == words


def test_training_between_decisions_is_told():
    losses = np.array([0.5, np.nan, 1.25], np.float32)
    assert console.training(1200, losses) == (
        "training 3 settings, step 1,200: losses 0.5000 to 1.2500"
    )
    assert console.training(7, losses[:1]) == "training, step 7: loss 0.5000"
    assert console.training(7, losses[1:2]) == "training, step 7: diverged"


def test_a_file_is_told_of_it_once_a_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    file = Console(file=io.StringIO(), soft_wrap=True)
    display = console.Display(file)
    losses = np.ones(1, np.float32)
    with display.working("compiling"):
        for second in range(0, 150, 10):
            now[0] = second
            display.inside(second, losses)
    assert file.file.getvalue().splitlines() == [
        "compiling ...",
        "training, step 70: loss 1.0000",
        "training, step 140: loss 1.0000",
    ]


def test_below_the_lines_of_a_terminal_stands_where_the_run_is():
    terminal = Console(
        force_terminal=True, file=io.StringIO(), highlight=False, soft_wrap=True
    )
    display = console.Display(terminal)
    accepted = METRICS[0] | {"validation_loss": 1.0}
    with display.working("compiling"):
        status = display._status
        assert status.status == "compiling"
        rows = {"decisions": DECISIONS[0], "metrics": accepted}
        display.decision(console.at_step(7, 681), rows, [accepted], 100.0, 674)
        assert status.status == "after step   7/681"
        display.inside(48, np.float32([2.5]))
        assert status.status == "training, step 48: loss 2.5000"
    line = next(x for x in terminal.file.getvalue().splitlines() if "img/s" in x)
    assert "step   7/681  loss" in line


def accepted(step, seconds, trials=0.0):
    row = {"step": step, "seconds": seconds, "trial_seconds": trials}
    return METRICS[0] | row


def test_the_time_to_come_is_that_of_the_last_steps():
    first = accepted(10, 100.0)  # with the compilation in it
    assert console.remaining([first], 90, alone=True) == ""
    rows = [first, accepted(20, 2.0, 1.0), accepted(40, 4.0, 2.0)]
    assert console.remaining(rows, 600, alone=True) == "  ETA 0:01:00"
    assert console.remaining(rows, 600, alone=False) == "  ETA 0:02:00"


def test_going_back_does_not_spoil_the_time_to_come():
    rows = [accepted(10, 1.0), accepted(110, 10.0), accepted(50, 14.0)]
    rows[-1]["path"] = [[10, A]]
    assert console.remaining(rows, 100, alone=True) == "  ETA 0:00:10"
    assert "every trial and what was taken back (" in console.spent(
        [row | {"total_steps": 150} for row in rows]
    )
