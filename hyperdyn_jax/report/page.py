"""The page: one HTML file with everything in it, that asks nobody for anything.

A Content-Security-Policy forbids whatever is not in the file, by the digests of its
style and its script. Every chart has its values in a table or in data attributes.
"""

import base64
import hashlib
import html
import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from string import Template
from typing import Any

import numpy as np

from hyperdyn_jax.report import numbers
from hyperdyn_jax.report.numbers import Z90, Row, Run
from hyperdyn_jax.report.svg import LEFT, RIGHT, WIDTH, Panel, Scale, extent

MOST_BELIEFS = 200  # on the slider; of more, as many evenly spread
GLANCES = 12  # of them printed
DOTTED = 60  # epochs up to which each is a dot of its own

Cells = Sequence[str]


def _text(value: object) -> str:
    return html.escape(str(value))


def _resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8")


def assemble(
    title: str,
    eyebrow: str,
    lead: str,
    sections: Iterable[str],
    footer: str,
    data: str = "",
) -> str:
    """A page around sections.

    Args:
      title, eyebrow, footer: plain text.
      lead, sections, data: HTML; data are JSON in script elements.
    """
    style, script = _resource("page.css"), _resource("page.js")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return Template(_resource("page.html")).substitute(
        policy=policy,
        title=_text(title),
        eyebrow=_text(eyebrow),
        lead=lead,
        sections="\n".join(sections),
        footer=_text(footer),
        data=data,
        style=style,
        script=script,
    )


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def embed(name: str, value: Any) -> str:
    """JSON that a script can read by its name, and nothing can end early."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


# Parts ------------------------------------------------------------------------------


def section(name: str, title: str, *parts: str, note: str = "", level: int = 2) -> str:
    """A headed part of the page. name: of its anchor. note: a line below the title."""
    head = f'<h{level} id="{name}-title">{_text(title)}</h{level}>'
    head += f'\n<p class="note">{note}</p>' if note else ""
    body = "\n".join(part for part in parts if part)
    return f'<section aria-labelledby="{name}-title">\n{head}\n{body}\n</section>'


def table(
    caption: str, head: Cells, rows: Iterable[Cells], look: str = "", name: str = ""
) -> str:
    """A table whose first column heads the rows; figures are set to the right.

    Args:
      caption: plain text, "" for none.
      head, rows: plain text.
      look: its classes; with "cards" a row is a card on a phone.
      name: of its data, in `data-table`.
    """
    numeric = [False] + [True] * (len(head) - 1)
    top = "".join(
        f'<th scope="col"{_right(right)}>{_text(x)}</th>'
        for x, right in zip(head, numeric, strict=True)
    )
    lines = []
    for row in rows:
        first = f'<th scope="row">{_text(row[0])}</th>'
        cells = zip(head[1:], row[1:], numeric[1:], strict=True)
        rest = "".join(
            f"<td{_labelled(label, look)}{_right(right)}>{_text(x)}</td>"
            for label, x, right in cells
        )
        lines.append(f"<tr>{first}{rest}</tr>")
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    body = "\n".join(lines)
    return (
        f'<table class="{look}" data-table="{name}">{title}<thead><tr>{top}</tr>'
        f"</thead>\n<tbody>{body}</tbody></table>"
    )


def _labelled(label: str, look: str) -> str:
    """What a cell of a card is."""
    return f' data-label="{_text(label)}"' if "cards" in look else ""


def _right(right: bool) -> str:
    return ' class="n"' if right else ""


def _scroll(label: str, body: str) -> str:
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(label)}">'
        f"{body}</div>"
    )


def _plain(body: str, look: str = "narrow") -> str:
    return f'<div class="plain {look}">{body}</div>'


def details(summary: str, body: str) -> str:
    return f"<details><summary>{_text(summary)}</summary>{body}</details>"


def panels(charts: Sequence[Panel], caption: str = "", keys: Cells = ()) -> str:
    """Charts beside each other, as many as there is room for. keys: HTML of legends."""
    look = "panels one" if len(charts) == 1 else "panels"
    text = f"<figcaption>{caption}</figcaption>" if caption else ""
    legend = f'<ul class="key">{"".join(keys)}</ul>' if keys else ""
    body = "".join(map(str, charts))
    return f'<figure><div class="{look}">{body}</div>{legend}{text}</figure>'


def key(mark: str, text: str) -> str:
    """A line of a legend. mark: SVG in a box of 30 by 14."""
    picture = f'<svg viewBox="0 0 30 14" aria-hidden="true">{mark}</svg>'
    return f"<li>{picture}{_text(text)}</li>"


def look_of(index: int) -> str:
    """Colour and dashes of the how many-th curve."""
    return f"c{index % 6} d{index % 4}"


def line_key(index: int, text: str) -> str:
    """The line of a legend of a curve."""
    return key(f'<path class="line {look_of(index)}" d="M0 7H30"/>', text)


def facts(values: Mapping[str, str]) -> str:
    """Figures to be seen first."""
    items = (
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


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
    last, strategy = run.metrics[-1], run.config.get("strategy", "–")
    count = (
        f"<b>{last['step']:,}</b> accepted steps, <b>{last['total_steps']:,}</b> total "
        f"steps with every trial ({numbers.overhead(run)} overhead)"
    )
    if last.get("test_accuracy") is None:
        accuracy = numbers.number(last["validation_accuracy"], ".2f")
        return (
            f"Not finished. <b>{_text(strategy)}</b> is at {accuracy}% validation "
            f"accuracy after {count}."
        )
    text = (
        f"<b>{_text(strategy)}</b> ends at <b>{last['test_accuracy']:.2f}%</b> test "
        f"accuracy after {count}."
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
                chart.line(x, y, look_of(i))
                if len(x) <= DOTTED:
                    chart.points(x, y, f"c{i % 6}", size=2.2)
            charts.append(chart)
    keys = [line_key(i, run.label) for i, run in enumerate(runs)] if runs[1:] else []
    tables = (_values(run) for run in runs)
    caption = (
        "Left, over the steps of the accepted path; right, over all steps that were "
        "paid for, every trial in them. The training loss has a logarithmic axis."
    )
    return section("accuracy", "Accuracy", panels(charts, caption, keys), *tables)


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
    return details(title, _scroll(title, table("", head, rows, name="metrics")))


def paths(runs: Sequence[Run], beliefs: Any = None) -> str:
    """Hyperparameters over epochs; of a single run over what its model believed."""
    names = dict.fromkeys(name for run in runs for name in run.hyperparameters)
    charts = [_path(runs, name, beliefs) for name in names]
    shaded = any("<image" in str(chart) for chart in charts)
    keys = [line_key(i, run.label) for i, run in enumerate(runs)] if runs[1:] else []
    keys += [] if runs[1:] else [line_key(0, "accepted")]
    fates = {fate for run in runs for fate in FATES if numbers.challengers(run, fate)}
    for fate, shape in FATES.items():
        mark = Panel("", "", "", (0, 1), (0, 1), width=30, height=14)
        if fate in fates:
            keys.append(key(_mark(mark, shape), FATE_WORDS[fate]))
    if shaded:
        shade = '<rect class="shade" width="30" height="14"/>'
        keys.append(key(shade, "expected gain"))
    caption = "Marks are settings that were tried."
    if shaded:
        caption += (
            " Behind the path is what the model expected before each epoch, along this "
            "axis with the rest as it was: the deeper the shade, the larger the gain, "
            "each epoch on its own scale from the least to the largest."
        )
    body = panels(charts, caption, keys)
    return section("hyperparameters", "Hyperparameters", body)


FATE_WORDS = {
    "accepted": "tried and taken",
    "rejected": "tried, not taken",
    "diverged": "tried, diverged",
}
FATES = {"accepted": "triangle", "rejected": "ring", "diverged": "cross"}


def _mark(panel: Panel, shape: str) -> str:
    panel.to_x, panel.to_y = Scale(0, 1, 0, 30), Scale(0, 1, 14, 0)
    panel.points([0.5], [0.5], "c1", shape, 4)
    return panel.parts[-1]


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
        chart.line(epochs, path, look_of(i), steps=True)
        if len(epochs) <= DOTTED:
            chart.points(epochs, path, f"c{i % 6}", size=2.0)
        look = "c1" if len(runs) == 1 else f"c{i % 6}"
        for fate, shape in FATES.items():
            found = numbers.challengers(run, fate)
            x, y = [e for e, _ in found], [s.get(name) for _, s in found]
            chart.points(x, y, look, shape, 3.6)
    return chart


def _path_in_words(run: Run, name: str) -> str:
    path = [row["hyperparams"].get(name) for row in run.metrics]
    first, last = numbers.number(path[0]), numbers.number(path[-1])
    return f"{run.label} from {first} to {last}"


def _shades(run: Run, beliefs: Any, name: str, kind: str) -> np.ndarray | None:
    """Where the model expected the most, f64[grid, epochs] in [0, 1]; None where it
    is not a belief of every epoch, or on another axis."""
    if f"{type(beliefs.space[name]).__name__}" != KINDS[kind]:
        return None
    axis, epochs = list(beliefs.space).index(name), len(run.metrics)
    shades = np.zeros((beliefs.grid[name].shape[0], epochs))
    for step in beliefs.steps:
        if step.row >= len(run.decisions) or run.decisions[step.row]["branch"] < 0:
            continue
        mean, epoch = step.mean[axis], int(run.decisions[step.row]["epoch"])
        width = mean.max() - mean.min()
        if epoch < epochs and width > 0:
            shades[:, epoch] = (mean - mean.min()) / width
    return shades if shades.any() else None


KINDS = {
    "uniform": "Uniform",
    "log_uniform": "LogUniform",
    "log_complement": "LogComplement",
}


# What the model believed -------------------------------------------------------------


def belief(run: Run, beliefs: Any, number: int, level: int) -> tuple[str, str]:
    """The section, and the data that its script reads."""
    name = f"belief-{number}"
    if beliefs is None:
        if not any(row.get("gp") for row in run.decisions):
            return "", ""
        note = (
            "The rows of this strategy do not hold what its model was told, so what it "
            "believed cannot be computed again here."
        )
        return section(name, "What the model believed", note=note, level=level), ""
    data = _belief_data(run, beliefs)
    count = len(data["steps"])
    look = "panels one" if len(data["axes"]) == 1 else "panels"
    dial = (
        f'<figure class="dialled" data-source="{name}-data" hidden><div class="dial">'
        f'<label for="{name}-dial">Before the decision of</label>'
        f'<input type="range" id="{name}-dial" min="0" max="{count - 1}" '
        f'value="{count - 1}" step="1">'
        f'<output for="{name}-dial"></output></div>'
        f'<p class="told" aria-live="polite"></p><div class="{look}"></div>'
        f'<ul class="key">{_belief_keys(run)}</ul></figure>'
    )
    note = (
        "A Gaussian process, computed again from the rows of decisions.jsonl: its mean "
        "and the interval in which it expected 90% of trials, along each axis with the "
        "other hyperparameters as they were. Move the slider, also with the arrow keys."
    )
    if numbers.unit(run) == "nats":
        note += " To the model, a probe that lost has gained nothing."
    glance = _glances(data)
    parts = (dial, glance)
    data_text = embed(f"{name}-data", data)
    return section(name, "What the model believed", *parts, note=note, level=level), (
        data_text
    )


def _belief_keys(run: Run) -> str:
    keys = [
        key(
            '<rect class="band c0" width="30" height="14"/>'
            '<path class="line c0" d="M0 7H30"/>',
            "expected gain, 90% interval",
        ),
        key('<circle class="dot ink" cx="15" cy="7" r="2.6"/>', "earlier trials"),
    ]
    if any(numbers.has_incumbent(row) and row["trials"][1:] for row in run.decisions):
        keys.append(_trial_key("c2", "incumbent, and what it got"))
        keys.append(_trial_key("c1", "challenger, and what it got"))
    else:
        keys.append(_trial_key("c1", "next probe, and what it got"))
        keys.append(
            key(
                '<path class="line thin dashed c2" d="M15 0V14"/>',
                "what the run trained with",
            )
        )
    return "".join(keys)


def _trial_key(look: str, text: str) -> str:
    return key(
        f'<path class="line thin dashed {look}" d="M15 0V14"/>'
        f'<circle class="ring {look}" cx="15" cy="7" r="4"/>',
        text,
    )


def _belief_data(run: Run, beliefs: Any) -> dict[str, Any]:
    scales = {
        name: Scale(axis.low, axis.high, 0, 1, _kind(axis))
        for name, axis in beliefs.space.items()
    }
    wide = {
        name: Scale(axis.low, axis.high, LEFT, WIDTH - RIGHT, _kind(axis))
        for name, axis in beliefs.space.items()
    }

    def at(trial: Row) -> list[float]:
        return [_round(scale(trial[name])) for name, scale in scales.items()]

    chosen = np.linspace(
        0, len(beliefs.steps) - 1, min(len(beliefs.steps), MOST_BELIEFS)
    )
    return {
        "unit": numbers.unit(run),
        "axes": [
            {
                "name": name,
                "ticks": [[_round(scales[name](v)), t] for v, t in wide[name].ticks()],
            }
            for name in scales
        ],
        "observed": [
            {
                "at": at(run.decisions[row]["trials"][i]),
                "gain": _round(numbers.gain_of(run.decisions[row], i)),
                "epoch": run.decisions[row]["epoch"],
            }
            for row, i in beliefs.observations
        ],
        "steps": [_belief_step(run, beliefs.steps[int(i)], at) for i in chosen.round()],
    }


def _kind(axis: Any) -> str:
    return next(kind for kind, name in KINDS.items() if name == type(axis).__name__)


def _belief_step(run: Run, step: Any, at: Any) -> dict[str, Any]:
    half = Z90 * np.hypot(step.stddev, step.noise)
    shown = {
        "seen": step.seen,
        "mean": [[_round(x) for x in axis] for axis in step.mean],
        "half": [[_round(x, 3) for x in axis] for axis in half],
    }
    if step.row == len(run.decisions):
        taken = run.metrics[0]["hyperparams"]
        chosen = {"role": "chosen", "at": at(taken), "gain": None, "taken": True}
        text = (
            f"The model had been told of {step.seen} probes. The run then trained with "
            f"{numbers.setting(taken)}, and the pairs of the switch test, if there "
            f"were any, decided with it."
        )
        title = "after all probes"
        return {**shown, "title": title, "text": text, "epoch": 0, "trials": [chosen]}
    row = run.decisions[step.row]
    trials = [
        {
            "role": _role(row, i),
            "at": at(trial),
            "gain": _round(numbers.gain_of(row, i)),
            "taken": i == row["branch"],
        }
        for i, trial in enumerate(row["trials"])
    ]
    told = ". ".join(_told(row, i) for i in range(len(trials)))
    text = f"{_outcome(row)}: {numbers.reason(row)}. {told}."
    title = f"epoch {row['epoch']}" if row["branch"] >= 0 else f"probe {step.seen + 1}"
    epoch = row["epoch"]
    return {**shown, "title": title, "text": text, "epoch": epoch, "trials": trials}


def _told(row: Row, index: int) -> str:
    """A trial in a sentence without its full stop."""
    foreseen, gain = numbers.prediction_of(row, index), numbers.gain_of(row, index)
    text = f"{_role(row, index).capitalize()} {numbers.setting(row['trials'][index])}"
    text += f": predicted {_predicted(foreseen)}" if foreseen else ""
    return text + (", diverged" if gain is None else f", got {numbers.signed(gain)}")


def _predicted(foreseen: tuple[float, float] | None) -> str:
    return f"{numbers.signed(foreseen[0])} ± {foreseen[1]:.2f}" if foreseen else "–"


def _glances(data: Mapping[str, Any]) -> str:
    """The same at a few decisions, for paper and where no script runs."""
    count = len(data["steps"])
    chosen = sorted({round(x) for x in np.linspace(0, count - 1, min(count, GLANCES))})
    charts = []
    for step in (data["steps"][i] for i in chosen):
        up = extent(
            m + sign * h
            for sign in (-1, 1)
            for mean, half in zip(step["mean"], step["half"], strict=True)
            for m, h in zip(mean, half, strict=True)
        )
        for axis, mean, half in zip(
            data["axes"], step["mean"], step["half"], strict=True
        ):
            text = f"{step['title']}: gain over {axis['name']}"
            chart = Panel(text, "", text, (0, 1), up, width=230, height=150)
            chart.x_ticks = axis["ticks"]
            xs = [i / (len(mean) - 1) for i in range(len(mean))]
            both = list(zip(mean, half, strict=True))
            chart.band(xs, [m - h for m, h in both], [m + h for m, h in both], "c0")
            chart.line(xs, mean, "c0")
            charts.append(str(chart))
    return f'<figure class="glance">{"".join(charts)}</figure>'


def _round(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else float(f"{float(value):.{digits}g}")


# Decisions ---------------------------------------------------------------------------


def _outcome(row: Row) -> str:
    return numbers.outcome(row).capitalize()


def _role(row: Row, index: int) -> str:
    if len(row["trials"]) == 1:
        return "probe" if row["branch"] < 0 and numbers.probed(row) else "setting"
    if row.get("block"):
        return "challenger" if index else "base"
    if numbers.has_incumbent(row):
        return "challenger" if index else "incumbent"
    return "probe" if row["branch"] < 0 and numbers.probed(row) else "random"


def decisions(run: Run, number: int, level: int) -> str:
    name = f"decisions-{number}"
    if not run.decisions:
        return section(name, "Decisions", note="No decision was recorded.", level=level)
    head = ["Epoch", "Decision", "Tried", "Predicted", "Realised"]
    top = "".join(f'<th scope="col"{_right(x in head[3:])}>{x}</th>' for x in head)
    body = "\n".join(map(_decision, run.decisions))
    title = f"Decisions of {run.label}"
    grid = (
        f'<table class="cards" data-table="decisions"><thead><tr>{top}</tr></thead>'
        f"\n{body}</table>"
    )
    note = (
        "✓ marks the branch that became the run. Predicted: mean ± standard deviation "
        "of the latent gain, made before the trial was trained. Realised: its score "
        f"less the score that all branches started from, in {numbers.unit(run)}."
    )
    return section(name, "Decisions", _scroll(title, grid), note=note, level=level)


def _decision(row: Row) -> str:
    count = len(row["trials"])
    head = (
        f'<th scope="rowgroup" rowspan="{count}"><span class="unseen">Epoch </span>'
        f"{row['epoch']}</th>"
        f'<td rowspan="{count}" data-outcome="{_text(numbers.outcome(row))}">'
        f"<b>{_text(_outcome(row))}</b>: {_text(numbers.reason(row))}</td>"
    )
    lines = []
    for i in range(count):
        foreseen, gain = numbers.prediction_of(row, i), numbers.gain_of(row, i)
        got = "diverged" if gain is None else numbers.signed(gain)
        taken = i == row["branch"]
        tick = '<span class="tick-mark">✓</span> ' if taken else ""
        look = ' class="tried taken"' if taken else ' class="tried"'
        tried = f"{_role(row, i)}: {numbers.setting(row['trials'][i])}"
        lines.append(
            f"<tr>{head if i == 0 else ''}<td{look}>{tick}{_text(tried)}</td>"
            f'<td class="n" data-label="predicted">{_predicted(foreseen)}</td>'
            f'<td class="n" data-label="realised">{got}</td></tr>'
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
    counts = table("Gains inside their 90% intervals", head, rows, name="calibration")
    keys = [
        key(f'<path class="dot {look}" d="{path}" transform="translate(15 7)"/>', text)
        for look, path, text in (
            ("c2", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z", "incumbents"),
            ("c1", "M0 -4L4 4H-4Z", "challengers" if rows[1:] else "probes"),
        )
        if rows[1:] or look == "c1"
    ]
    caption = (
        "A bar that crosses the dashed line held the gain. Intervals are predictive: "
        "of the latent gain, with the fitted noise added. Diverged trials have no gain."
    )
    body = panels([chart], caption, keys) + _plain(counts)
    note = f"{numbers.coverage(made)}.".capitalize()
    return section(name, "Predicted and realised", body, note=note, level=level)


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
    for p, low, high in zip(made, lows, highs, strict=True):
        look = "c1" if p.challenger else "c2"
        chart.interval(p.gain, low, high, look)
        shape = "triangle" if p.challenger else "dot"
        chart.points([p.gain], [p.mean], look, shape)
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
    body = _plain(table(title, COMPARED, rows, "cards", name="kept"), "")
    note = (
        "Both branches of a decision started from the same state and saw the same "
        "batches. This is one epoch ahead only: what is better for an epoch may be "
        "worse for the run, and differences of epochs do not add up to one at its end."
    )
    text = f"<p>{_text(_hindsight(run, found))}</p>"
    return section(name, "Had we kept", body, text, note=note, level=level)


COMPARED = ["", "Decisions", "Challenger ahead", "Level", "Incumbent ahead"]
COMPARED += ["Challenger less incumbent"]


def _compared(differences: Sequence[float]) -> Cells:
    ahead, behind = sum(x > 0 for x in differences), sum(x < 0 for x in differences)
    count = len(differences)
    return [
        *map(str, (count, ahead, count - ahead - behind, behind)),
        _with_interval(*numbers.interval(differences)),
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
    head = ["Challenger less base", *COMPARED[1:4], "Base ahead", "Mean"]
    title = f"Scores in {numbers.unit(run)}, with the 95% interval of their mean"
    line = [["Pairs of probes", *_compared(differences)]]
    body = _plain(table(title, head, line, "cards", name="switch"), "")
    p_value = rows[-1].get("p_value")
    told = f", p = {p_value:.3f}" if p_value is not None else ""
    taken = run.metrics[0]["hyperparams"]
    left = all(taken.get(k) == x for k, x in rows[-1]["trials"][1].items())
    verdict = "left its base for the challenger" if left else "stayed with its base"
    text = f"Base: {base}. Challenger: {challenger}. The run {verdict}{told}."
    note = (
        "Both probes of a pair start from the untrained network and see the same "
        "batches, each pair fresh ones. The challenger has to be ahead by more than a "
        "margin, by a test of known level."
    )
    body += f"<p>{_text(text)}</p>"
    return section(name, "The switch test", body, note=note, level=level)


def _with_interval(mean: float, half: float) -> str:
    return f"{numbers.signed(mean)}" + (f" ± {half:.2f}" if half == half else "")


def cost(run: Run, number: int, level: int) -> str:
    last, name = run.metrics[-1], f"cost-{number}"
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
    chart.band(epochs, accepted, total, "c1")
    chart.line(epochs, total, "c1 dashed")
    chart.line(epochs, accepted, "c0")
    spent = numbers.seconds(run)
    extra = last["total_steps"] - last["step"]
    rows = [
        ["Accepted steps", f"{last['step']:,}"],
        ["Steps of trials beyond them", f"{extra:,}"],
        ["Total steps", f"{last['total_steps']:,}"],
        ["Overhead", numbers.overhead(run)],
        ["Seconds in accepted epochs", f"{spent:,.1f}"],
        ["Seconds an accepted epoch, mean", f"{spent / len(run.metrics):,.2f}"],
    ]
    keys = [line_key(0, "accepted path")]
    keys.append(
        key('<path class="line c1 dashed" d="M0 7H30"/>', "total, every trial in it")
    )
    note = (
        "Steps are optimizer steps; overhead is total over accepted, less one. Seconds "
        "are of training and deciding in accepted epochs; start-up, checkpoints and "
        "probes that leave the run where it was are not in them."
    )
    grid = _plain(table("", ["Cost", "Value"], rows, name="cost"))
    body = panels([chart], "", keys) + grid
    return section(name, "Cost", body, note=note, level=level)


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
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    body = f'<ul class="alerts">{items}</ul>'
    return section(f"alerts-{number}", "What went wrong", body, level=level)


def settings(run: Run, number: int, level: int) -> str:
    text = json.dumps(run.config, indent=1)
    body = _scroll(f"Settings of {run.label}", f"<pre>{_text(text)}</pre>")
    body = details("The whole config", body)
    return section(f"settings-{number}", "Settings", body, level=level)


def of_run(run: Run, beliefs: Any, number: int, level: int) -> tuple[list[str], str]:
    """The sections that are of one run alone, and the data for them."""
    believed, data = belief(run, beliefs, number, level)
    parts = [believed]
    parts += [
        part(run, number, level)
        for part in (decisions, calibration, kept, cost, alerts, settings)
    ]
    return [part for part in parts if part], data


def page(runs: Sequence[Run], beliefs: Sequence[Any], version: str) -> str:
    """The whole page.

    Args:
      runs: at least one.
      beliefs: what the model of each believed, or None.
      version: of the program.
    """
    sources = ", ".join(str(run.path) for run in runs)
    footer = f"Made by hyperdyn_jax {version} from {sources}."
    title = " · ".join(run.label for run in runs)
    if len(runs) == 1:
        run = runs[0]
        lead = f'<p class="lead">{headline(run)}</p>{facts(summary(run))}'
        parts, data = of_run(run, beliefs[0], 0, 2)
        sections = [accuracy(runs), paths(runs, beliefs[0]), *parts]
        return assemble(title, "Run report", lead, sections, footer, data)
    lead = f'<p class="lead">{len(runs)} runs, one below the other.</p>'
    head = ["Run", "Strategy", *summary(runs[0])]
    rows = [
        [run.label, str(run.config.get("strategy", "–")), *summary(run).values()]
        for run in runs
    ]
    grid = _scroll("Results", table("", head, rows, "cards", name="summary"))
    sections = [section("results", "Results", grid), accuracy(runs), paths(runs)]
    found = []
    for i, (run, believed) in enumerate(zip(runs, beliefs, strict=True)):
        parts, data = of_run(run, believed, i, 3)
        found.append(data)
        intro = f"<p>{headline(run)}</p>"
        sections.append(section(f"run-{i}", run.label, intro, *parts))
    return assemble(title, "Run report", lead, sections, footer, "".join(found))
