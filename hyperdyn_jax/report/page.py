"""The page of runs: what came of them, what the model believed, what was decided."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from hyperdyn_jax.report import believed, numbers, parts
from hyperdyn_jax.report.numbers import Z90, Row, Run
from hyperdyn_jax.report.svg import Panel, extent

DOTTED = 60  # epochs up to which each is a dot of its own

# Sections of a run -------------------------------------------------------------------


def summary(run: Run) -> dict[str, str]:
    """The results of a run, by their names."""
    last = run.metrics[-1]
    return {
        "Test (%)": numbers.number(last.get("test_accuracy"), ".2f"),
        "Validation (%)": numbers.number(last["validation_accuracy"], ".2f"),
        "Accepted steps": f"{last['step']:,}",
        "Total steps": f"{last['total_steps']:,}",
        "Overhead": numbers.overhead(run),
        "Training (h:mm:ss)": str(timedelta(seconds=round(numbers.seconds(run)))),
    }


def headline(run: Run) -> str:
    """The results of a run in a sentence or two, HTML."""
    last = run.metrics[-1]
    strategy = f"<b>{parts.escape(run.config.get('strategy', '–'))}</b>"
    count = (
        f"<b>{last['step']:,}</b> accepted steps, <b>{last['total_steps']:,}</b> total "
        f"steps with every trial ({numbers.overhead(run)} overhead)"
    )
    if last.get("test_accuracy") is None:
        accuracy = numbers.number(last["validation_accuracy"], ".2f")
        return (
            f"Not finished. {strategy} is at {accuracy}% validation accuracy after "
            f"{count}."
        )
    text = (
        f"{strategy} ends at <b>{last['test_accuracy']:.2f}%</b> test accuracy after "
        f"{count}."
    )
    if last.get("best_epoch", last["epoch"]) != last["epoch"]:
        text += (
            f" The network of epoch {last['best_epoch']} was tested: the last one was "
            f"worse by more than chance."
        )
    return text


def accuracy(runs: Sequence[Run]) -> str:
    charts = []
    for column, name in (("validation_accuracy", "validation accuracy (%)"), LOSS):
        kind = "log_uniform" if column == "train_loss" else "uniform"
        up = extent((row[column] for run in runs for row in run.metrics), kind)
        for count, what in STEPS:
            most = max(run.metrics[-1][count] for run in runs) or 1
            chart = Panel(
                f"{name} over {what}. {_in_words(runs, column, count)}",
                what,
                name,
                (0, most * 1.02),
                up,
                y_kind=kind,
            )
            for i, run in enumerate(runs):
                x = [row[count] for row in run.metrics]
                y = [row[column] for row in run.metrics]
                chart.line(x, y, parts.look_of(i))
                if len(x) <= DOTTED:
                    chart.points(x, y, f"c{i % 6}", size=2.2)
            charts.append(chart)
    keys = (
        [parts.line_key(i, run.label) for i, run in enumerate(runs)] if runs[1:] else []
    )
    tables = (_values(run) for run in runs)
    caption = (
        "Left, over the steps of the accepted path; right, over all steps that were "
        "paid for, every trial in them. The training loss has a logarithmic axis."
    )
    return parts.section(
        "accuracy", "Accuracy", parts.panels(charts, caption, keys), *tables
    )


LOSS = ("train_loss", "training loss (nats)")
STEPS = (("step", "accepted steps"), ("total_steps", "total steps, trials included"))


def _in_words(runs: Sequence[Run], column: str, count: str) -> str:
    return "; ".join(
        f"{run.label}: from {numbers.number(run.metrics[0][column])} to "
        f"{numbers.number(run.metrics[-1][column])} at {run.metrics[-1][count]:,}"
        for run in runs
    )


def _values(run: Run) -> str:
    """Every row of metrics.jsonl."""
    names = run.hyperparameters
    head = ["Epoch", "Accepted steps", "Total steps", "Training loss"]
    head += ["Validation loss", "Validation accuracy (%)", *names, "Seconds"]
    rows = [
        [
            str(row["epoch"]),
            f"{row['step']:,}",
            f"{row['total_steps']:,}",
            numbers.number(row["train_loss"]),
            numbers.number(row.get("validation_loss")),
            numbers.number(row["validation_accuracy"], ".2f"),
            *(numbers.number(row["hyperparams"].get(name)) for name in names),
            numbers.number(row["seconds"], ".2f"),
        ]
        for row in run.metrics
    ]
    title = f"Every accepted epoch of {run.label}"
    return parts.details(
        title, parts.scroll(title, parts.table("", head, rows, name="metrics"))
    )


def paths(runs: Sequence[Run], beliefs: Any = None) -> str:
    """Hyperparameters over epochs; of a single run over what its model believed."""
    names = dict.fromkeys(name for run in runs for name in run.hyperparameters)
    charts = [_path(runs, name, beliefs) for name in names]
    shaded = any("<image" in str(chart) for chart in charts)
    keys = (
        [parts.line_key(i, run.label) for i, run in enumerate(runs)] if runs[1:] else []
    )
    keys += [] if runs[1:] else [parts.line_key(0, "accepted")]
    fates = {fate for run in runs for fate in FATES if numbers.challengers(run, fate)}
    for fate, shape in FATES.items():
        if fate in fates:
            look = "ink" if runs[1:] else "c1"
            keys.append(parts.key(parts.mark(shape, look), FATE_WORDS[fate]))
    if shaded:
        shade = '<rect class="shade" width="30" height="14"/>'
        keys.append(parts.key(shade, "expected gain"))
    caption = "Marks are settings that were tried." if fates else ""
    if shaded:
        caption += (
            " Behind the path is what the model expected before each epoch, along this "
            "axis with the rest as it was: the deeper the shade, the larger the gain, "
            "each epoch on its own scale from the least to the largest."
        )
    body = parts.panels(charts, caption, keys)
    return parts.section("hyperparameters", "Hyperparameters", body)


FATE_WORDS = {
    "accepted": "tried and taken",
    "rejected": "tried, not taken",
    "diverged": "tried, diverged",
}
FATES = {"accepted": "triangle", "rejected": "ring", "diverged": "cross"}


def _path(runs: Sequence[Run], name: str, beliefs: Any) -> Panel:
    kind = min({run.kind(name) for run in runs} - {"uniform"}, default="uniform")
    tried = [
        (row["epoch"], trial.get(name))
        for run in runs
        for row in run.decisions
        for trial in row["trials"]
    ]
    values = [row["hyperparams"].get(name) for run in runs for row in run.metrics]
    up = extent([*values, *(value for _, value in tried)], kind)
    last = max(run.metrics[-1]["epoch"] for run in runs)
    shades = None
    if beliefs is not None and name in beliefs.space and len(runs) == 1:
        shades = _shades(runs[0], beliefs, name, kind)
        axis = beliefs.space[name]
        up = (axis.low, axis.high) if shades is not None else up
    text = " and ".join(_path_in_words(run, name) for run in runs)
    chart = Panel(
        f"{name} over accepted epochs: {text}",
        "accepted epoch",
        name,
        (-0.5, last + 0.5),
        up,
        y_kind=kind,
    )
    if shades is not None:
        chart.image(shades, f"shade-{name}")
    for i, run in enumerate(runs):
        epochs = [row["epoch"] for row in run.metrics]
        path = [row["hyperparams"].get(name) for row in run.metrics]
        chart.line(epochs, path, parts.look_of(i), steps=True)
        if len(epochs) <= DOTTED:
            chart.points(epochs, path, f"c{i % 6}", size=2.0)
        look = "c1" if len(runs) == 1 else f"c{i % 6}"
        for fate, shape in FATES.items():
            found = numbers.challengers(run, fate)
            x, y = [e for e, _ in found], [s.get(name) for _, s in found]
            chart.points(x, y, look, shape, 3.6 if len(epochs) <= DOTTED else 2.2)
    return chart


def _path_in_words(run: Run, name: str) -> str:
    path = [row["hyperparams"].get(name) for row in run.metrics]
    first, last = numbers.number(path[0]), numbers.number(path[-1])
    return f"{run.label} from {first} to {last}"


def _shades(run: Run, beliefs: Any, name: str, kind: str) -> np.ndarray | None:
    """Where the model expected the most, f64[grid, epochs] in [0, 1]; None where it
    is not a belief of every epoch, or on another axis."""
    if beliefs.kinds[name] != kind:
        return None
    axis, epochs = list(beliefs.space).index(name), len(run.metrics)
    shades = np.zeros((beliefs.steps[0].mean.shape[1], epochs))
    for step in beliefs.steps:
        if step.row >= len(run.decisions) or run.decisions[step.row]["branch"] < 0:
            continue
        mean, epoch = step.mean[axis], int(run.decisions[step.row]["epoch"])
        width = mean.max() - mean.min()
        if epoch < epochs and width > 0:
            shades[:, epoch] = (mean - mean.min()) / width
    return shades if shades.any() else None


# Decisions ---------------------------------------------------------------------------


def decisions(run: Run, number: int, level: int) -> str:
    name = f"decisions-{number}"
    if not run.decisions:
        return parts.section(
            name, "Decisions", note="No decision was recorded.", level=level
        )
    head = ["Epoch", "Decision", "Tried", "Predicted", "Realised"]
    top = "".join(f'<th scope="col">{x}</th>' for x in head)
    body = "\n".join(map(_decision, run.decisions))
    title = f"Decisions of {run.label}"
    grid = (
        f'<table class="cards decisions" data-table="decisions">'
        f"<thead><tr>{top}</tr></thead>\n{body}</table>"
    )
    note = (
        "✓ marks the branch that became the run. Predicted: mean ± standard deviation "
        "of the latent gain, made before the trial was trained. Realised: its score "
        f"less the score that all branches started from, in {numbers.unit(run)}."
    )
    body = parts.scroll(title, grid)
    if {numbers.outcome(row) for row in run.decisions} == {"scheduled"}:
        note = (
            "Every epoch had one setting, given beforehand; nothing was to be decided."
        )
        body = parts.details("Every epoch", body)
    return parts.section(name, "Decisions", body, note=note, level=level)


def _decision(row: Row) -> str:
    count, why = len(row["trials"]), parts.escape(numbers.reason(row))
    head = (
        f'<th scope="rowgroup" rowspan="{count}"><span class="unseen">Epoch </span>'
        f"{row['epoch']}</th>"
        f'<td rowspan="{count}">'
        f"<b>{parts.escape(numbers.outcome(row).capitalize())}</b>: {why}</td>"
    )
    lines = []
    for i in range(count):
        foreseen, gain = numbers.prediction_of(row, i), numbers.gain_of(row, i)
        got = "diverged" if gain is None else numbers.signed(gain)
        taken = i == row["branch"]
        tick = '<span class="tick-mark">✓</span> ' if taken else ""
        look = ' class="taken"' if taken else ""
        tried = f"{numbers.role(row, i)}: {numbers.setting(row['trials'][i])}"
        lines.append(
            f"<tr>{head if i == 0 else ''}<td{look}>{tick}{parts.escape(tried)}</td>"
            f"<td>{parts.predicted(foreseen)}</td>"
            f"<td>{got}</td></tr>"
        )
    return f'<tbody class="decision">{"".join(lines)}</tbody>'


# What came of it ---------------------------------------------------------------------


def calibration(run: Run, number: int, level: int) -> str:
    made, name = numbers.predictions(run), f"calibration-{number}"
    if not made:
        return ""
    chart = _calibration_chart(run, made)
    groups = {"all": made}
    groups |= {
        kind: [p for p in made if p.challenger == challenger]
        for kind, challenger in (("incumbents", False), ("challengers", True))
    }
    rows = [
        [kind, str(sum(p.held for p in group)), str(len(group)), _share(group)]
        for kind, group in groups.items()
        if group and (kind == "all" or len(group) < len(made))
    ]
    head = ["Predictions", "Held", "Of", "Share"]
    counts = parts.table(
        "Gains inside their 90% intervals", head, rows, name="calibration"
    )
    keys = [
        parts.key(parts.mark(shape, look), text)
        for look, shape, text in (
            ("c2", "dot", "incumbents"),
            ("c1", "triangle", "challengers" if rows[1:] else "probes"),
        )
        if rows[1:] or look == "c1"
    ]
    caption = (
        "A bar that crosses the dashed line held the gain. Intervals are predictive: "
        "of the latent gain, with the fitted noise added. Diverged trials have no gain."
    )
    body = parts.panels([chart], caption, keys) + parts.boxed(counts)
    note = f"{numbers.coverage(made)}.".capitalize()
    return parts.section(name, "Predicted and realised", body, note=note, level=level)


def _share(group: Sequence[numbers.Prediction]) -> str:
    return f"{sum(p.held for p in group) / len(group):.0%}"


def _calibration_chart(run: Run, made: Sequence[numbers.Prediction]) -> Panel:
    lows = [p.mean - Z90 * p.stddev for p in made]
    highs = [p.mean + Z90 * p.stddev for p in made]
    across, up = extent(p.gain for p in made), extent([*lows, *highs])
    unit = numbers.unit(run)
    chart = Panel(
        f"Predicted over realised gains in {unit}: {numbers.coverage(made)}",
        f"realised gain ({unit})",
        f"predicted gain ({unit})",
        across,
        (min(up[0], across[0]), max(up[1], across[1])),
    )
    chart.line(across, across, "ink thin dashed")
    for look, shape, challenger in (("c2", "dot", False), ("c1", "triangle", True)):
        mine = [p for p in made if p.challenger == challenger]
        gains, halves = [p.gain for p in mine], [Z90 * p.stddev for p in mine]
        means = [p.mean for p in mine]
        ends = list(zip(means, halves, strict=True))
        chart.intervals(gains, [m - h for m, h in ends], [m + h for m, h in ends], look)
        chart.points(gains, means, look, shape)
    return chart


def kept(run: Run, number: int, level: int) -> str:
    """Had we kept: where both branches are known, the one against the other."""
    found, name, unit = numbers.pairs(run), f"kept-{number}", numbers.unit(run)
    if not found:
        return switch_test(run, number, level)
    rows = [
        [
            f"The run {label}",
            *_compared([p.difference for p in found if p.kept == kept]),
        ]
        for label, kept in (("kept", True), ("switched", False))
        if any(p.kept == kept for p in found)
    ]
    title = f"Mean difference in {unit}, with its 95% interval"
    body = parts.boxed(parts.table(title, _COMPARED, rows, "cards", name="kept"), "")
    note = (
        "Both branches of a decision started from the same state and saw the same "
        "batches. This is one epoch ahead only: what is better for an epoch may be "
        "worse for the run, and differences of epochs do not add up to one at its end."
    )
    text = f"<p>{parts.escape(_hindsight(run, found))}</p>"
    return parts.section(name, "Had we kept", body, text, note=note, level=level)


_COMPARED = ["", "Decisions", "Challenger ahead", "Level", "Incumbent ahead"]
_COMPARED += ["Challenger less incumbent"]


def _compared(differences: Sequence[float]) -> Sequence[str]:
    ahead, behind = sum(x > 0 for x in differences), sum(x < 0 for x in differences)
    count = len(differences)
    return [
        *map(str, (count, ahead, count - ahead - behind, behind)),
        parts.with_interval(*numbers.interval(differences)),
    ]


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
            f"{numbers.signed(sum(switched))} {unit} in sum against the incumbents'. "
        )
    else:
        text += "The run never switched, so it is the one that always keeps. "
    return text + (
        f"The better of the two each time, known only afterwards, would have been "
        f"{missed:.2f} {unit} in sum ahead of the branches taken; part of that is the "
        f"luck of a finite validation split."
    )


def switch_test(run: Run, number: int, level: int) -> str:
    """The pairs of probes that decide whether explore leaves its base."""
    rows = [row for row in run.decisions if row.get("block")]
    known = [row for row in rows if None not in row["scores"]]
    if not known:
        return ""
    differences = [row["scores"][1] - row["scores"][0] for row in known]
    base, challenger = (numbers.setting(trial) for trial in rows[-1]["trials"])
    name = f"kept-{number}"
    head = ["Challenger less base", *_COMPARED[1:4], "Base ahead", "Mean"]
    title = f"Scores in {numbers.unit(run)}, with the 95% interval of their mean"
    line = [["Pairs of probes", *_compared(differences)]]
    body = parts.boxed(parts.table(title, head, line, "cards", name="switch"), "")
    p_value = rows[-1].get("p_value")
    told = f", p\u00a0=\u00a0{p_value:.3f}" if p_value is not None else ""
    taken = run.metrics[0]["hyperparams"]
    left = all(taken.get(k) == x for k, x in rows[-1]["trials"][1].items())
    verdict = "left its base for the challenger" if left else "stayed with its base"
    text = f"Base: {base}. Challenger: {challenger}. The run {verdict}{told}."
    note = (
        "Both probes of a pair start from the untrained network and see the same "
        "batches, each pair fresh ones. The challenger has to be ahead by more than a "
        "margin, by a test of known level."
    )
    body += f"<p>{parts.escape(text)}</p>"
    return parts.section(name, "The switch test", body, note=note, level=level)


def cost(run: Run, number: int, level: int) -> str:
    last, name, spent = run.metrics[-1], f"cost-{number}", numbers.seconds(run)
    extra = last["total_steps"] - last["step"]
    epochs = [row["epoch"] for row in run.metrics]
    accepted = [row["step"] for row in run.metrics]
    total = [row["total_steps"] for row in run.metrics]
    chart = Panel(
        f"Cumulative optimizer steps: {numbers.steps(run)}",
        "accepted epoch",
        "cumulative steps",
        (-0.5, epochs[-1] + 0.5),
        (0, (total[-1] or 1) * 1.05),
    )
    chart.band(epochs, [0] * len(epochs), accepted, "c0")
    if extra:
        chart.band(epochs, accepted, total, "c1")
        chart.line(epochs, total, "c1 dashed")
    chart.line(epochs, accepted, "c0")
    rows = [
        ["Accepted steps", f"{last['step']:,}"],
        ["Steps of trials beyond them", f"{extra:,}"],
        ["Total steps", f"{last['total_steps']:,}"],
        ["Overhead", numbers.overhead(run)],
        ["Seconds in accepted epochs", f"{spent:,.1f}"],
        ["Seconds an accepted epoch, mean", f"{spent / len(run.metrics):,.2f}"],
    ]
    dashes = '<path class="line c1 dashed" d="M0 7H30"/>'
    keys = [
        parts.line_key(0, "accepted path"),
        parts.key(dashes, "total, every trial in it"),
    ]
    note = (
        "Steps are optimizer steps; overhead is total over accepted, less one. Seconds "
        "are of training and deciding in accepted epochs; start-up, checkpoints and "
        "probes that leave the run where it was are not in them."
    )
    grid = parts.boxed(parts.table("", ["Cost", "Value"], rows, name="cost"))
    body = parts.panels([chart], "", keys if extra else keys[:1]) + grid
    return parts.section(name, "Cost", body, note=note, level=level)


def alerts(run: Run, number: int, level: int) -> str:
    """Roll-backs, diverged trials and records that were left out, if there are any."""
    lines = []
    for row in run.decisions:
        diverged = [
            numbers.setting(trial)
            for trial, score in zip(row["trials"], row["scores"], strict=True)
            if score is None
        ]
        if row.get("rollback") or (diverged and row["branch"] < 0):
            lines.append(f"Epoch {row['epoch']}: {numbers.reason(row)}")
        if diverged:
            which = "; ".join(diverged)
            lines.append(f"Epoch {row['epoch']}: diverged with {which}")
    if skipped := run.metrics[-1].get("skipped_records"):
        lines.append(f"{skipped:,} records could not be read and were left out")
    if not lines:
        return ""
    items = "".join(f"<li>{parts.escape(line)}</li>" for line in lines)
    body = f'<ul class="alerts">{items}</ul>'
    return parts.section(f"alerts-{number}", "What went wrong", body, level=level)


def settings(run: Run, number: int, level: int) -> str:
    text = json.dumps(run.config, indent=1)
    body = parts.scroll(f"Settings of {run.label}", f"<pre>{parts.escape(text)}</pre>")
    body = parts.details("The whole config", body)
    return parts.section(f"settings-{number}", "Settings", body, level=level)


def of_run(run: Run, beliefs: Any, number: int, level: int) -> list[str]:
    """The sections that are of one run alone."""
    rest = (decisions, calibration, kept, cost, alerts, settings)
    return [
        believed.section(run, beliefs, number, level),
        *(part(run, number, level) for part in rest),
    ]


def page(runs: Sequence[Run], beliefs: Sequence[Any], version: str) -> str:
    """The whole page.

    Args:
      runs: at least one.
      beliefs: what the model of each believed, or None.
      version: of the program.
    """
    sources = ", ".join(str(run.path) for run in runs)
    footer = f"Made by hyperdyn_jax {version} from {sources}."
    if len(runs) == 1:
        run, results = runs[0], parts.facts(summary(runs[0]))
        lead = f'<p class="lead">{headline(run)}</p>{results}'
        sections = [accuracy(runs), paths(runs, beliefs[0])]
        sections += of_run(run, beliefs[0], 0, 2)
        return parts.assemble(run.label, "Run report", lead, sections, footer)
    names = ", ".join(run.label for run in runs)
    lead = f'<p class="lead">{parts.escape(names)}: together, then one by one.</p>'
    sections = [_results(runs), accuracy(runs), paths(runs)]
    for i, (run, held) in enumerate(zip(runs, beliefs, strict=True)):
        body = (f"<p>{headline(run)}</p>", *of_run(run, held, i, 3))
        sections.append(parts.section(f"run-{i}", run.label, *body))
    return parts.assemble(f"{len(runs)} runs", "Run report", lead, sections, footer)


def _results(runs: Sequence[Run]) -> str:
    head = ["Run", "Strategy", *summary(runs[0])]
    rows = [
        [run.label, str(run.config.get("strategy", "–")), *summary(run).values()]
        for run in runs
    ]
    grid = parts.boxed(parts.table("", head, rows, "cards", name="summary"), "wide")
    return parts.section("results", "Results", grid)
