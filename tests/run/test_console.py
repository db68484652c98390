"""The lines of a run on a terminal."""

from written_runs import DECISIONS, METRICS, A, Page, decision, make_run

from hyperdyn_jax import report
from hyperdyn_jax.run import console


def test_lines_of_probes_tell_their_losses():
    row = {
        "branch": -1,
        "trials": [{"learning_rate": 0.1}, {"learning_rate": 0.4}],
        "scores": [-2.1, None],
    }
    row |= {"epoch": 0, "score_before": -2.3, "posterior_mean": None}
    line = console.line(row, None, 3)
    assert line == "epoch 0/2  probed lr 0.1: validation loss 2.1; lr 0.4: diverged"


def test_a_line_and_the_page_give_the_same_reason(tmp_path):
    """Of every decision; where nothing was tried the line says nothing of it."""
    page = Page(report.write_report([make_run(tmp_path / "run")]))
    accepted = METRICS[0] | {"validation_loss": 1.0}
    for row, (_, told, _) in zip(DECISIONS, page.decisions(), strict=True):
        outcome, reason = told.split(": ")
        line = console.line(row, accepted, 4)
        assert f"{outcome.lower()}: {reason}" in line
    lone = decision(0, [A], [50.0], 49.0, 0)
    assert console.line(lone, accepted, 4).endswith("lr 0.1 momentum 0.9")
