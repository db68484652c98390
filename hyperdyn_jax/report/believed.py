"""What the model believed: a section with a slider, and some of it printed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hyperdyn_jax.report import numbers, parts
from hyperdyn_jax.report.numbers import Z90, Row, Run
from hyperdyn_jax.report.svg import LEFT, RIGHT, WIDTH, Panel, Scale, extent

MOST = 200  # beliefs on the slider; of more, as many evenly spread
GLANCES = 8  # of them printed


def section(run: Run, beliefs: Any, number: int, level: int) -> str:
    name, title = f"belief-{number}", "What the model believed"
    if beliefs is None:
        if not any(row.get("gp") for row in run.decisions):
            return ""
        note = (
            "The rows of this strategy do not hold what its model was told, so what it "
            "believed cannot be computed again here."
        )
        return parts.section(name, title, note=note, level=level)
    data = _belief_data(run, beliefs)
    last = len(data["steps"]) - 1
    look = "panels one" if len(data["axes"]) == 1 else "panels"
    dial = (
        f'<figure class="dialled" data-source="{name}-data" hidden><div class="dial">'
        f'<label for="{name}-dial">Before the decision of</label>'
        f'<input type="range" id="{name}-dial" min="0" max="{last}" value="{last}">'
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
    body = (dial, _glances(data), parts.embed(f"{name}-data", data))
    return parts.section(name, title, *body, note=note, level=level)


def _belief_keys(run: Run) -> str:
    keys = [
        parts.key(
            '<rect class="band c0" width="30" height="14"/>'
            '<path class="line c0" d="M0 7H30"/>',
            "expected gain, 90% interval",
        ),
        parts.key('<circle class="dot ink" cx="15" cy="7" r="2.6"/>', "earlier trials"),
    ]
    if any(numbers.has_incumbent(row) and row["trials"][1:] for row in run.decisions):
        keys.append(_trial_key("c2", "incumbent, and what it got"))
        keys.append(_trial_key("c1", "challenger, and what it got"))
    else:
        keys.append(_trial_key("c1", "next probe, and what it got"))
        keys.append(
            parts.key(
                '<path class="line thin dashed c2" d="M15 0V14"/>',
                "what the run trained with",
            )
        )
    return "".join(keys)


def _trial_key(look: str, text: str) -> str:
    return parts.key(
        f'<path class="line thin dashed {look}" d="M15 0V14"/>'
        f'<circle class="ring {look}" cx="15" cy="7" r="4"/>',
        text,
    )


def _belief_data(run: Run, beliefs: Any) -> dict[str, Any]:
    scales = {
        name: Scale(axis.low, axis.high, 0, 1, beliefs.kinds[name])
        for name, axis in beliefs.space.items()
    }
    wide = {
        name: Scale(axis.low, axis.high, LEFT, WIDTH - RIGHT, beliefs.kinds[name])
        for name, axis in beliefs.space.items()
    }

    def at(trial: Row) -> list[float | None]:
        return [_round(scale(trial[name])) for name, scale in scales.items()]

    chosen = np.linspace(0, len(beliefs.steps) - 1, min(len(beliefs.steps), MOST))
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


def _belief_step(run: Run, step: Any, at: Any) -> dict[str, Any]:
    half = Z90 * np.hypot(step.stddev, step.noise)
    # As whole numbers of something too small to be seen: they take half the room.
    grain = float(half.max()) / 400
    shown = {
        "seen": step.seen,
        "grain": _round(grain),
        "mean": np.rint(step.mean / grain).astype(int).tolist(),
        "half": np.rint(half / grain).astype(int).tolist(),
    }
    if step.row == len(run.decisions):
        taken = run.metrics[0]["hyperparams"]
        chosen = {"role": "chosen", "at": at(taken), "gain": None, "taken": True}
        text = f"The model had been told of {step.seen} probes."
        if any(row.get("block") for row in run.decisions):
            text += " The switch test had the last word."
        text += f" The run trained with {numbers.setting(taken)}."
        title = "after all probes"
        return {**shown, "title": title, "text": text, "epoch": 0, "trials": [chosen]}
    row = run.decisions[step.row]
    trials = [
        {
            "role": numbers.role(row, i),
            "at": at(trial),
            "gain": _round(numbers.gain_of(row, i)),
            "taken": i == row["branch"],
        }
        for i, trial in enumerate(row["trials"])
    ]
    told = ". ".join(_told(row, i) for i in range(len(trials)))
    text = f"{numbers.outcome(row).capitalize()}: {numbers.reason(row)}. {told}."
    title = f"epoch {row['epoch']}" if row["branch"] >= 0 else f"probe {step.seen + 1}"
    epoch = row["epoch"]
    return {**shown, "title": title, "text": text, "epoch": epoch, "trials": trials}


def _told(row: Row, index: int) -> str:
    """A trial in a sentence without its full stop."""
    foreseen, gain = numbers.prediction_of(row, index), numbers.gain_of(row, index)
    role, setting = numbers.role(row, index), numbers.setting(row["trials"][index])
    text = f"{role.capitalize()} {setting}"
    text += f": predicted {parts.predicted(foreseen)}" if foreseen else ""
    return text + (", diverged" if gain is None else f", got {numbers.signed(gain)}")


def _glances(data: Mapping[str, Any]) -> str:
    """The same at a few decisions, for paper and where no script runs."""
    count = len(data["steps"])
    chosen = sorted({round(x) for x in np.linspace(0, count - 1, min(count, GLANCES))})
    charts = []
    for step in (data["steps"][i] for i in chosen):
        means, halves = (step["grain"] * np.array(step[x]) for x in ("mean", "half"))
        lows, highs = means - halves, means + halves
        up = extent([lows.min(), highs.max()])
        for i, axis in enumerate(data["axes"]):
            text = f"{step['title']}: gain over {axis['name']}"
            chart = Panel(text, "", text, (0, 1), up, width=230, height=150)
            chart.x_ticks = axis["ticks"][::2]
            xs = np.linspace(0, 1, means.shape[1]).tolist()
            chart.band(xs, lows[i].tolist(), highs[i].tolist(), "c0")
            chart.line(xs, means[i].tolist(), "c0")
            charts.append(str(chart))
    return f'<figure class="glance">{"".join(charts)}</figure>'


def _round(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else float(f"{float(value):.{digits}g}")
