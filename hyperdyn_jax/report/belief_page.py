"""What the model believed: a section with a slider, and some of it printed."""

from dataclasses import replace
from typing import Any

import numpy as np

from hyperdyn_jax.report import numbers, parts, svg
from hyperdyn_jax.report.chart import Chart, Key, Panel, Scale, extent
from hyperdyn_jax.report.numbers import Z90, Run
from hyperdyn_jax.run import verdicts
from hyperdyn_jax.run.jsonl import Row

TICKED = 306.0  # units of an axis that its labels share
MOST = 200  # beliefs on the slider; of more, as many evenly spread
GLANCES = 6  # of them printed, and in the figure


def section(run: Run, beliefs: Any, number: int, level: int) -> str:
    name, title = f"belief-{number}", "What the model believed"
    if beliefs is None:
        return ""
    data = _belief_data(run, beliefs)
    last = len(data["steps"]) - 1
    look = "panels one" if len(data["axes"]) == 1 else "panels"
    dial = (
        f'<figure class="dialled" data-source="{name}-data" hidden><div class="dial">'
        f'<label for="{name}-dial">Before the decision of</label>'
        f'<input type="range" id="{name}-dial" min="0" max="{last}" value="{last}">'
        f'<output for="{name}-dial"></output></div>'
        f'<p class="told" aria-live="polite"></p><div class="{look}"></div>'
        f"{parts.legend(KEYS)}</figure>"
    )
    note = (
        "A Gaussian process, computed again from the rows of decisions.jsonl: its mean "
        "and the interval in which it expected 90% of trials, along each axis with the "
        "other hyperparameters as they were. The slider also moves with arrow keys."
    )
    glances = (panel for moment in _glances(beliefs, data) for panel in moment)
    shown = "".join(
        svg.draw(replace(panel, y=f"{panel.head}: {panel.y}"), (230, 150))
        for panel in glances
    )
    printed = f'<figure class="glance">{shown}</figure>'
    body = (dial, printed, parts.embed(f"{name}-data", data))
    return parts.section(name, title, *body, note=note, level=level)


def chart(run: Run, beliefs: Any) -> Chart:
    """The same at a few decisions, one below the other where there are several axes."""
    moments = _glances(beliefs, _belief_data(run, beliefs))
    panels = [panel for row in zip(*moments, strict=True) for panel in row]
    keys = [KEYS[0], *KEYS[2:]]  # no earlier trials
    return Chart(panels, keys, columns=len(moments), size=(2.3, 2.4))


KEYS = (
    Key("band line", "c0", "expected gain, 90% interval"),
    Key("dot", "ink", "earlier trials"),
    Key("upright ring", "c2", "incumbent and its gain"),
    Key("upright ring", "c1", "challenger and its gain"),
)


def _ticks(scale: Scale, room: float) -> list[tuple[float, str]]:
    """Labels of an axis from 0 to 1 that has as many units of room."""
    found = replace(scale, end=room).ticks()
    return [(float(f"{scale(value):.4g}"), text) for value, text in found]


def _scales(beliefs: Any) -> dict[str, Scale]:
    """From the values of each axis to [0, 1]."""
    return {
        name: Scale(axis.low, axis.high, 0, 1, beliefs.kinds[name])
        for name, axis in beliefs.space.items()
    }


def _belief_data(run: Run, beliefs: Any) -> dict[str, Any]:
    scales = _scales(beliefs)

    def at(trial: Row) -> list[float | None]:
        return [_round(scale(trial[name])) for name, scale in scales.items()]

    chosen = np.linspace(0, len(beliefs.steps) - 1, min(len(beliefs.steps), MOST))
    return {
        "unit": numbers.unit(run),
        "axes": [
            {"name": name, "ticks": _ticks(scale, TICKED)}
            for name, scale in scales.items()
        ],
        "observed": [
            {
                "at": at(run.decisions[row]["trials"][i]),
                "gain": _round(verdicts.gain_of(run.decisions[row], i)),
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
    row = run.decisions[step.row]
    trials = [
        {
            "role": verdicts.role(row, i),
            "at": at(trial),
            "gain": _round(verdicts.gain_of(row, i)),
            "taken": i == row["branch"],
        }
        for i, trial in enumerate(row["trials"])
    ]
    told = ". ".join(_told(row, i) for i in range(len(trials)))
    text = f"{verdicts.outcome(row).capitalize()}: {verdicts.reason(row)}. {told}."
    epoch = row["epoch"]
    title = f"epoch {epoch}"
    return {**shown, "title": title, "text": text, "epoch": epoch, "trials": trials}


def _told(row: Row, index: int) -> str:
    """A trial in a sentence without its full stop."""
    foreseen, gain = verdicts.prediction_of(row, index), verdicts.gain_of(row, index)
    role, setting = verdicts.role(row, index), verdicts.setting(row["trials"][index])
    text = f"{role.capitalize()} {setting}"
    text += f": predicted {parts.predicted(foreseen)}" if foreseen else ""
    return text + (", diverged" if gain is None else f", got {verdicts.signed(gain)}")


def _glances(beliefs: Any, data: dict[str, Any]) -> list[list[Panel]]:
    """A few decisions, a panel an axis, for paper and where no script runs."""
    count = len(data["steps"])
    chosen = sorted({round(x) for x in np.linspace(0, count - 1, min(count, GLANCES))})
    scales = _scales(beliefs)
    return [
        [
            _glance(data["steps"][i], number, name, data["unit"], scale)
            for number, (name, scale) in enumerate(scales.items())
        ]
        for i in chosen
    ]


def _glance(
    step: dict[str, Any], number: int, name: str, unit: str, scale: Scale
) -> Panel:
    """One decision over an axis, the number and name of which are given."""
    means, halves = (step["grain"] * np.array(step[x]) for x in ("mean", "half"))
    lows, highs = means - halves, means + halves
    gains = [trial["gain"] for trial in step["trials"]]
    title, up = step["title"], extent([lows.min(), highs.max(), *gains])
    text = f"{title}: expected gain over {name}"
    panel = Panel(text, name, f"gain ({unit})", (-0.03, 1.03), up, head=title)
    panel.x_ticks = _ticks(scale, TICKED / 3)
    xs = np.linspace(0, 1, means.shape[1]).tolist()
    panel.between("band", xs, lows[number].tolist(), highs[number].tolist(), "c0")
    panel.line(xs, means[number].tolist(), "c0")
    for trial, gain in zip(step["trials"], gains, strict=True):
        look = "c2" if trial["role"] == "incumbent" else "c1"
        panel.upright(trial["at"][number], f"{look} thin dashed")
        panel.marks("ring", [trial["at"][number]], [gain], look)
    return panel


def _round(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else float(f"{float(value):.{digits}g}")
