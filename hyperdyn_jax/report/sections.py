"""The sections of a page that are of one run alone."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from hyperdyn_jax.report import charts, numbers, parts
from hyperdyn_jax.report.numbers import Run
from hyperdyn_jax.run import verdicts
from hyperdyn_jax.run.jsonl import Row

MANY = 60  # decisions, of which the table is shown when asked for


class Section(NamedTuple):
    """A headed part of the page, HTML but for its names.

    name: of its anchor.
    """

    name: str
    title: str
    body: str
    note: str = ""


def decisions(run: Run) -> Section:
    if not run.decisions:
        return Section("decisions", "Decisions", "", "No decision was recorded.")
    made = [row for row in run.decisions if verdicts.outcome(row) != "continued"]
    if not made:
        note = "No epoch had a trial: the schedule was given beforehand."
        return Section("decisions", "Decisions", "", note)
    foreseen = bool(numbers.predictions(run))
    columns = (*(["Predicted"] if foreseen else []), "Realised")
    top = "".join(
        f'<th scope="col">{x}</th>' for x in ("Epoch", "Decision", "Tried", *columns)
    )
    groups = itertools.groupby(made, _group)
    body = "\n".join(_decision(run, list(rows), foreseen) for _, rows in groups)
    grid = (
        f'<table class="cards decisions" data-table="decisions">'
        f"<thead><tr>{top}</tr></thead>\n{body}</table>"
    )
    notes = ["✓ marks the trial that the run went on from at last."]
    if foreseen:
        notes.append(
            "Predicted: the model's mean ± standard deviation, before the trial, of "
            "the gain without the noise of a score."
        )
    unit = numbers.unit(run)
    loss = "validation loss" if unit == "nats" else "validation accuracy"
    notes.append(
        f"Realised: by how much the {loss} got better since the run's before the "
        f"decision, in {unit}."
    )
    if len(made) < len(run.decisions):
        notes.append("Epochs without a trial are not listed.")
    body = parts.boxed(grid, "wide")
    if len(made) > MANY:
        body = parts.details(f"All {len(made)} decisions", body)
    return Section("decisions", "Decisions", body, " ".join(notes))


def _group(row: Row) -> tuple[int, int]:
    """The same for decisions that are told together: probes before one epoch."""
    return row["epoch"], 0 if verdicts.probed(row) else id(row)


def _decision(run: Run, rows: Sequence[Row], foreseen: bool) -> str:
    """Decisions with one outcome. foreseen: whether there is a column for it."""
    why = parts.escape(verdicts.reason(rows[0]))
    outcome = parts.escape(verdicts.outcome(rows[0]).capitalize())
    count = sum(len(row["trials"]) for row in rows)
    head = (
        f'<th scope="rowgroup" rowspan="{count}"><span class="unseen">Epoch </span>'
        f"{rows[0]['epoch']}</th>"
        f'<td rowspan="{count}"><b>{outcome}</b>: {why}</td>'
    )
    lines = [
        _trial(row, i, foreseen, i == run.taken(row))
        for row in rows
        for i in _in_order(row)
    ]
    lines[0] = head + lines[0]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<tbody class="decision">{body}</tbody>'


def _in_order(row: Row) -> list[int]:
    """The trials of a decision; the arms of a race by their rates."""
    trials = row["trials"]
    numbered = list(range(len(trials)))
    if verdicts.outcome(row) != "race":
        return numbered
    return sorted(numbered, key=lambda i: next(iter(trials[i].values()), 0))


def _trial(row: Row, index: int, foreseen: bool, taken: bool) -> str:
    gain = verdicts.gain_of(row, index)
    got = "diverged" if gain is None else verdicts.signed(gain)
    tick, look = "", ""
    if taken:
        tick, look = '<span class="tick-mark">✓</span> ', ' class="taken"'
    tried = f"{verdicts.role(row, index)}: {verdicts.setting(row['trials'][index])}"
    cells = f"<td{look}>{tick}{parts.escape(tried)}</td>"
    if foreseen:
        prediction = parts.predicted(verdicts.prediction_of(row, index))
        cells += f'<td data-label="predicted">{prediction}</td>'
    return f'{cells}<td data-label="realised">{got}</td>'


def calibration(run: Run) -> Section | None:
    made = numbers.predictions(run)
    if not made:
        return None
    groups = {"all": made}
    groups |= {
        kind: [p for p in made if p.challenger == challenger]
        for kind, challenger in (("incumbents", False), ("challengers", True))
    }
    rows = [
        [kind, str(held), str(len(group)), f"{held / len(group):.0%}"]
        for kind, group in groups.items()
        if group and (kind == "all" or len(group) < len(made))
        for held in [sum(p.held for p in group)]
    ]
    counts = parts.table(
        "Gains inside their 90% intervals",
        ["Predictions", "Held", "Of", "Share"],
        rows,
        name="calibration",
    )
    body = parts.figure(charts.gains([run])) + parts.boxed(counts)
    note = f"{numbers.coverage(made)}.".capitalize()
    return Section("calibration", "Predicted and realised", body, note)


def kept(run: Run) -> Section | None:
    """Where both branches of a decision are known, the one against the other."""
    found, unit = numbers.pairs(run), numbers.unit(run)
    if not found:
        return None
    lines = {
        f"The run {label}": [p.difference for p in found if p.kept == kept]
        for label, kept in (("kept", True), ("switched", False))
    }
    title = f"Mean difference in {unit}, with its 95% interval"
    body = _compared(title, "kept", "Incumbent", "Decisions", lines)
    note = (
        "Both branches of a decision started from the same state and saw the same "
        "batches. What is better for this one epoch may be worse for the run."
    )
    text = f"<p>{parts.escape(_hindsight(run, found))}</p>"
    return Section("kept", "Keep or switch, in hindsight", body + text, note)


def _compared(
    title: str, name: str, base: str, what: str, lines: Mapping[str, Sequence[float]]
) -> str:
    """A table of differences of scores, challenger minus base, a line a name."""
    head = ["", what, "Challenger ahead", "Equal", f"{base} ahead"]
    head.append(f"Challenger − {base.lower()}")
    rows = []
    for label, values in lines.items():
        ahead, behind = sum(x > 0 for x in values), sum(x < 0 for x in values)
        counts = map(str, (len(values), ahead, len(values) - ahead - behind, behind))
        if values:
            mean = parts.with_interval(*numbers.interval(values))
            rows.append([label, *counts, mean])
    return parts.boxed(parts.table(title, head, rows, "cards", name=name), "")


def _hindsight(run: Run, found: Sequence[numbers.Pair]) -> str:
    """What the branches taken were worth beside the incumbents', and beside the better
    ones."""
    unit = numbers.unit(run)
    switched = [pair.difference for pair in found if not pair.kept]
    missed = sum(max(0.0, p.difference if p.kept else -p.difference) for p in found)
    text = (
        f"Of {len(run.decisions)} decisions, {len(found)} have both branches trained "
        f"and scored. "
    )
    if switched:
        text += (
            f"Where the run switched, the branches taken scored "
            f"{verdicts.signed(sum(switched))} {unit} in sum against the incumbents'. "
        )
    else:
        text += "The run never switched. "
    return text + (
        f"The better of the two each time, known only afterwards, would have scored "
        f"{missed:.2f} {unit} more in sum; part of that is chance."
    )


def cost(run: Run) -> Section:
    last, spent, back = run.metrics[-1], numbers.seconds(run), numbers.taken_back(run)
    rows = [
        ["Accepted steps", f"{last['step']:,}"],
        ["Steps of trials", f"{numbers.extra(run) - back:,}"],
        *([["Steps taken back", f"{back:,}"]] if back else []),
        ["Total steps", f"{last['total_steps']:,}"],
        ["Overhead", numbers.overhead(run)],
        ["Seconds of training and deciding", f"{spent:,.1f}"],
        ["Seconds per accepted epoch, mean", f"{spent / len(run.metrics):,.2f}"],
    ]
    note = (
        "Steps are optimizer steps; overhead is total / accepted steps − 1. Seconds "
        "include those of all trials; start-up and checkpoints are not in them."
    )
    grid = parts.boxed(parts.table("", ["Cost", "Value"], rows, name="cost"))
    return Section("cost", "Cost", parts.figure(charts.cost([run])) + grid, note)


def alerts(run: Run) -> Section | None:
    """Roll-backs, diverged trials and records that were left out, if there are any."""
    lines = []
    for row in run.decisions:
        diverged = [
            verdicts.setting(trial)
            for trial, score in zip(row["trials"], row["scores"], strict=True)
            if score is None
        ]
        if row.get("rollback") or (diverged and row["branch"] < 0):
            lines.append(f"Epoch {row['epoch']}: {verdicts.reason(row)}")
        if diverged:
            lines.append(f"Epoch {row['epoch']}: diverged with {'; '.join(diverged)}")
    if skipped := run.metrics[-1].get("skipped_records"):
        lines.append(f"{skipped:,} records could not be read and were left out")
    if not lines:
        return None
    items = "".join(f"<li>{parts.escape(line)}</li>" for line in lines)
    return Section("alerts", "What went wrong", f'<ul class="alerts">{items}</ul>')


def settings(run: Run) -> Section:
    text = parts.escape(json.dumps(run.config, indent=1))
    body = parts.scroll(f"Settings of {run.label}", f"<pre>{text}</pre>")
    return Section("settings", "Settings", parts.details("The whole config", body))


SECTIONS: tuple[Callable[[Run], Section | None], ...] = (
    decisions,
    calibration,
    kept,
    cost,
    alerts,
    settings,
)
