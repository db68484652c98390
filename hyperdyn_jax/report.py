"""Report: one self-contained page, and its figures as PNG, from run directories.

    python -m hyperdyn_jax.report runs/digits                   runs/digits/report.html
    python -m hyperdyn_jax.report runs/a runs/b --output both   both/report.html

Accuracies, scores and gains are in percentage points, 0..100. Steps are always
given in both counts: on the accepted path, and in total with every trial in them.
"""

import argparse
import base64
import html
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from statistics import NormalDist
from string import Template
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

Row = Mapping[str, Any]

METRICS = "epoch step total_steps train_loss validation_accuracy hyperparams seconds"
DECISIONS = "epoch trials scores score_before branch"
Z90 = NormalDist().inv_cdf(0.95)

# Ink, grid and Okabe & Ito's colour-blind-safe colours; light ones first on dark.
THEMES = {
    "light": "#1f2328 #d5d9de #0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9",
    "dark": "#e6e8eb #3a424c #56B4E9 #E69F00 #009E73 #CC79A7 #D55E00 #0072B2",
}
LINES = ("-", "--", "-.", ":")
MARKERS = {"accepted": "^", "rejected": "o", "diverged": "x"}


@dataclass(frozen=True)
class Run:
    """One run directory: its config and the rows of its two JSONL files."""

    path: Path
    label: str  # its name in tables and legends
    config: Row
    metrics: tuple[Row, ...]  # one an accepted epoch, at least one
    decisions: tuple[Row, ...]

    def column(self, key: str) -> np.ndarray:
        """Returns one field of the metrics, [epochs]; null is NaN."""
        return np.array([row[key] for row in self.metrics], dtype=float)


class Prediction(NamedTuple):
    """A trial's gain as the model foresaw it and as it came, in points."""

    challenger: bool
    mean: float
    stddev: float  # predictive: of the latent gain, with the fitted noise added
    gain: float

    @property
    def held(self) -> bool:
        """Whether the 90% interval held the gain."""
        return abs(self.gain - self.mean) <= Z90 * self.stddev


def load_run(path: str | Path) -> Run:
    """Reads a run directory; a torn last JSONL line is left out.

    Raises:
      ValueError: naming the file, and what is missing or wrong in it.
    """
    path = Path(path)
    files = [path / f for f in ("config.json", "metrics.jsonl", "decisions.jsonl")]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: missing; is {path} a run directory?")
    config = _parse(files[0].read_text(encoding="utf-8", errors="replace"), files[0])
    metrics = _read_jsonl(files[1], METRICS.split())
    decisions = _read_jsonl(files[2], DECISIONS.split())
    if not metrics:
        raise ValueError(f"{files[1]}: no accepted epoch in it yet")
    label = str(config.get("name") or path.resolve().name)
    # Matplotlib leaves labels with a leading underscore out of a legend.
    return Run(path, label.lstrip("_") or "run", config, metrics, decisions)


def _parse(text: str, where: object) -> Row:
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: not a JSON object: {text.strip()[:40]!r}")
    return value


def _read_jsonl(path: Path, keys: Sequence[str]) -> tuple[Row, ...]:
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.split("\n") if line.strip()]
    for number, line in enumerate(lines, start=1):
        where = f"{path}, row {number}"
        try:
            row = _parse(line, where)
        except ValueError:
            if number < len(lines):
                raise
            break  # torn: the run was stopped in the middle of writing it
        if missing := [key for key in keys if key not in row]:
            raise ValueError(f"{where}: missing {', '.join(missing)}")
        rows.append(row)
    return tuple(rows)


def _entry(row: Row, key: str, index: int) -> float | None:
    values = row.get(key) or []
    return values[index] if index < len(values) else None


def _gain(row: Row, index: int) -> float | None:
    """Score minus the score that all branches started from; None if infeasible."""
    score, before = _entry(row, "scores", index), row["score_before"]
    return None if score is None or before is None else score - before


def _has_incumbent(row: Row) -> bool:
    """Whether trial 0 is an incumbent, and not one of several random settings."""
    if row["branch"] < 0 and _probed(row):
        return False
    predicted = any(m is not None for m in row.get("posterior_mean") or [])
    judged = row.get("keep_probability") is not None
    return len(row["trials"]) == 1 or judged or predicted


def _probed(row: Row) -> bool:
    """Whether trials were probes, which leave the run where it was however they end."""
    return row.get("keep_probability") is None and any(
        score is not None for score in row["scores"]
    )


def _outcome(row: Row) -> str:
    if row["branch"] < 0:
        return "probed" if _probed(row) else "rolled back"
    if len(row["trials"]) == 1:
        return "scheduled"
    if not _has_incumbent(row):
        return "random start" if row["epoch"] == 0 else "best of random"
    kept = row["branch"] == 0
    probability, draw = row.get("keep_probability"), row.get("draw")
    wanted = kept if None in (probability, draw) else draw < probability
    forced = "" if wanted == kept else " (other diverged)"
    return ("kept" if kept else "switched") + forced


def _challengers(run: Run, fate: str) -> list[tuple[float, Row]]:
    """Returns (epoch, setting) of each accepted, rejected or diverged challenger."""
    found = []
    for row in run.decisions:
        for i in range(_has_incumbent(row), len(row["trials"])):
            decided = "accepted" if i == row["branch"] else "rejected"
            diverged = _entry(row, "scores", i) is None
            if fate == ("diverged" if diverged else decided):
                found.append((row["epoch"], row["trials"][i]))
    return found


def predictions(run: Run) -> list[Prediction]:
    """Returns every prediction whose gain came to be known, in order.

    The recorded standard deviation is that of the latent gain; a realised gain has the
    fitted noise in it too, recorded in points.
    """
    made = []
    for row in run.decisions:
        noise = (row.get("gp") or {}).get("noise_stddev") or 0.0
        for i in range(len(row["trials"])):
            gain, (mean, latent) = _gain(row, i), _posterior(row, i)
            if None not in (gain, mean, latent):
                made.append(Prediction(i > 0, mean, math.hypot(latent, noise), gain))
    return made


def _posterior(row: Row, index: int) -> tuple[float | None, float | None]:
    return _entry(row, "posterior_mean", index), _entry(row, "posterior_stddev", index)


def _coverage(run: Run) -> str:
    held = [p.held for p in predictions(run)]
    if not held:
        return "no model, no predictions"
    share = f"{sum(held) / len(held):.0%}"
    return f"90% intervals held {sum(held)} of {len(held)} gains ({share})"


def _steps(run: Run) -> str:
    """Both counts and the overhead, which never go alone."""
    step, total = run.metrics[-1]["step"], run.metrics[-1]["total_steps"]
    overhead = f"{total / step - 1:+.1%}" if step else "–"
    return f"{step:,} accepted / {total:,} total ({overhead})"


def _positive(values: Any) -> np.ndarray:
    """What a log axis can show; the rest is NaN."""
    values = np.asarray(values, dtype=float)
    return np.where(values > 0, values, np.nan)


def log_axis(axes: Axes) -> None:
    """A log axis with plain numbers, also where it spans less than a decade."""
    low, high = axes.dataLim.minposy, axes.dataLim.y1
    if not np.isfinite(low):  # nothing that a log axis can show
        return
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if high > 2 * low else "all"))
    axes.yaxis.set_minor_formatter("{x:g}" if high < 50 * low else "")


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels two beside each other, each of the given height in inches."""
    rows, columns = math.ceil(count / 2), min(count, 2)
    size = (9 if count > 1 else 6.5, height * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in grid[count:]:
        spare.remove()
    return figure, list(grid[:count])


def with_legend(figure: Figure) -> Figure:
    """One legend under all panels, where it hides no data."""
    entries = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries = dict(zip(labels, handles, strict=True)) | entries
    room = int(figure.get_figwidth() * 12 / (max(map(len, entries)) + 6))
    style = {"loc": "outside lower center", "ncols": min(max(room, 1), len(entries))}
    figure.legend(entries.values(), entries.keys(), **style)
    return figure


# The docstrings of the four figures are also their captions on the page.


def accuracy(runs: Sequence[Run]) -> Figure:
    """Validation accuracy and training loss: left, over the steps of the accepted
    path; right, over all steps that were paid for, every trial in them."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    grid = figure.subplots(2, 2, sharex="col", sharey="row", height_ratios=(2, 1))
    for column, steps in enumerate(("step", "total_steps")):
        for i, run in enumerate(runs):
            style = {"marker": ".", "color": f"C{i}", "linestyle": LINES[i % 4]}
            x, score = run.column(steps), run.column("validation_accuracy")
            grid[0, column].plot(x, score, label=run.label, **style)
            grid[1, column].plot(x, _positive(run.column("train_loss")), **style)
        grid[1, column].set_xlim(left=0)
        grid[1, column].xaxis.set_major_formatter(EngFormatter(sep=""))
    log_axis(grid[1, 0])
    grid[0, 0].set_ylabel("validation accuracy (%)")
    grid[1, 0].set_ylabel("training loss (nats)")
    grid[1, 0].set_xlabel("accepted optimizer steps")
    grid[1, 1].set_xlabel("total optimizer steps, trials included")
    return with_legend(figure)


def hyperparameters(runs: Sequence[Run]) -> Figure:
    """Each hyperparameter's accepted path as a line, and as markers every challenger
    that was tried; the shape tells what became of it."""
    names = dict.fromkeys(k for r in runs for m in r.metrics for k in m["hyperparams"])
    figure, panels = _panels(len(names), 3.4)
    for axes, name in zip(panels, names, strict=True):
        _draw_paths(axes, runs, name)
    style = {"color": matplotlib.rcParams["text.color"], "markerfacecolor": "none"}
    for fate, marker in MARKERS.items():
        panels[-1].plot([], [], marker, label=f"challenger, {fate}", **style)
    return with_legend(figure)


def _draw_paths(axes: Axes, runs: Sequence[Run], name: str) -> None:
    spaces = [run.config.get("search_space") or {} for run in runs]
    kinds = {
        space[name].get("kind", "uniform") for space in spaces if name in space
    } - {"uniform"}
    kind = min(kinds, default="log" if name == "learning_rate" else "uniform")

    def shown(settings: Iterable[Row]) -> np.ndarray:
        x = np.array([setting.get(name) for setting in settings], dtype=float)
        x = 1 - x if kind == "log_complement" else x
        return x if kind == "uniform" else _positive(x)

    for i, run in enumerate(runs):
        path = shown(row["hyperparams"] for row in run.metrics)
        style = {"color": f"C{i}", "linestyle": LINES[i % 4], "label": run.label}
        epochs = run.column("epoch")
        axes.plot(epochs, path, marker=".", ms=4, drawstyle="steps-mid", **style)
        style = {"color": f"C{i}", "markerfacecolor": "none", "alpha": 0.6}
        for fate, marker in MARKERS.items():
            tried = _challengers(run, fate)
            values = shown(setting for _, setting in tried)
            axes.plot([epoch for epoch, _ in tried], values, marker, ms=6, **style)
    text = f"1 − {name}" if kind == "log_complement" else name
    axes.set_ylabel(f"{text} (no unit{'' if kind == 'uniform' else ', log axis'})")
    if kind != "uniform":
        log_axis(axes)
    axes.set_xlabel("accepted epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def gains(runs: Sequence[Run]) -> Figure:
    """Predicted gains against realised ones; an interval that crosses the identity
    line held the realised gain. The recorded standard deviation is that of the latent
    gain; the 90% interval drawn here is the predictive one, in percentage points: it
    adds the fitted noise. Diverged trials have no gain and are left out."""
    shown = [run for run in runs if predictions(run)] or runs[:1]
    figure, panels = _panels(len(shown), 4.2)
    for axes, run in zip(panels, shown, strict=True):
        for i, (name, marker) in enumerate((("incumbent", "o"), ("challenger", "D"))):
            chosen = [p for p in predictions(run) if p.challenger == bool(i)]
            x, y = [p.gain for p in chosen], [p.mean for p in chosen]
            style = {"color": f"C{i}", "mfc": "none" if i else f"C{i}", "fmt": marker}
            style |= {"elinewidth": 0.8, "label": f"{name}, 90% interval"}
            axes.errorbar(x, y, [Z90 * p.stddev for p in chosen], **style)
        ink = matplotlib.rcParams["text.color"]
        axes.axline((0, 0), slope=1, color=ink, lw=1, ls="--", label="identity")
        axes.set_title(f"{run.label}\n{_coverage(run)}")
        if not predictions(run):
            axes.set(xticks=[], yticks=[])
        axes.set_xlabel("realised gain (percentage points)")
        axes.set_ylabel("predicted gain (percentage points)")
    return with_legend(figure)


def cost(runs: Sequence[Run]) -> Figure:
    """Cumulative optimizer steps: those of the accepted path, and on top of them those
    of trials. Overhead is total over accepted steps, less one."""
    figure, panels = _panels(len(runs), 3.2)
    for axes, run in zip(panels, runs, strict=True):
        epoch, step, total = map(run.column, ("epoch", "step", "total_steps"))
        edges = np.append(epoch - 0.5, epoch[-1] + 0.5)
        style = {"color": "C1", "alpha": 0.5, "label": "trials beyond it"}
        axes.stairs(step, edges, fill=True, color="C0", label="accepted path")
        axes.stairs(total, edges, baseline=step, fill=True, **style)
        axes.set_title(f"{run.label}\n{_steps(run)}")
        axes.set_xlim(edges[0], edges[-1])
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylabel("cumulative optimizer steps")
        axes.set_xlabel("accepted epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return with_legend(figure)


FIGURES = (accuracy, hyperparameters, gains, cost)


def render(draw: Callable, runs: Sequence[Run], theme: str, form: str) -> bytes:
    """Draws one of `FIGURES` in a theme, 'light' or 'dark', as 'png' or 'svg'."""
    ink, grid, *colors = THEMES[theme].split()
    inked = "text.color axes.labelcolor axes.edgecolor xtick.color ytick.color"
    style = dict.fromkeys(inked.split(), ink)
    style |= {"axes.prop_cycle": matplotlib.cycler(color=colors), "grid.color": grid}
    style |= {"axes.grid": True, "axes.axisbelow": True, "axes.titlesize": "medium"}
    style |= {"savefig.dpi": 150, "legend.frameon": False, "text.parse_math": False}
    style["svg.hashsalt"] = "report"  # the same run gives the same bytes
    options = {"transparent": True, "metadata": {"Date": None}} if form == "svg" else {}
    buffer = io.BytesIO()
    with matplotlib.rc_context(style):
        draw(runs).savefig(buffer, format=form, **options)
    return buffer.getvalue()


def _number(value: float | None, form: str = ".4g") -> str:
    return "–" if value is None else format(value, form)


def _summary(run: Run) -> dict[str, str]:
    outcomes = [_outcome(row).split()[0] for row in run.decisions]
    scores = [score for row in run.decisions for score in row["scores"]]
    last, seconds = run.metrics[-1], np.nansum(run.column("seconds"))
    return {
        "Run": run.label,
        "Strategy": str(run.config.get("strategy", "–")),
        "Accepted epochs": f"{len(run.metrics)} of {run.config.get('epochs', '–')}",
        "Steps (overhead)": _steps(run),
        "Validation accuracy (%)": _number(last["validation_accuracy"], ".2f"),
        "Test accuracy (%)": _number(last.get("test_accuracy"), ".2f"),
        "Tested epoch": _number(last.get("best_epoch", last["epoch"]), "d"),
        "Wall time (h:m:s)": str(timedelta(seconds=round(seconds))),
        "Kept": str(outcomes.count("kept")),
        "Switched": str(outcomes.count("switched")),
        "Infeasible trials": str(scores.count(None)),
    }


def _decision(row: Row) -> dict[str, str]:
    """A row of the table of decisions; a cell holds a line for each of its trials."""
    cells = {"Epoch": str(row["epoch"]), "Outcome": _outcome(row)}
    cells["Keep probability"] = _number(row.get("keep_probability"), ".3f")
    trials = [_trial(row, i) for i in range(len(row["trials"]))]
    first = int(_has_incumbent(row))
    for name, group in (("Incumbent", trials[:first]), ("Challenger", trials[first:])):
        for i, kind in enumerate(("", " predicted", " realised")):
            cells[name + kind] = "\n".join(trial[i] for trial in group) or "–"
    return cells


def _trial(row: Row, index: int) -> tuple[str, str, str]:
    setting = ", ".join(f"{k} {_number(v)}" for k, v in row["trials"][index].items())
    mean, stddev = _posterior(row, index)
    predicted = "–" if mean is None else f"{mean:+.2f} ± {_number(stddev, '.2f')}"
    diverged = _entry(row, "scores", index) is None
    realised = "diverged" if diverged else _number(_gain(row, index), "+.2f")
    return "✓ " * (index == row["branch"]) + setting, predicted, realised


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    def cell(name: str, text: str) -> str:
        return f'<td data-label="{name}">{html.escape(text)}</td>'.replace("\n", "<br>")

    head = "".join(f'<th scope="col">{name}</th>' for name in rows[0])
    lines = ("".join(cell(*item) for item in row.items()) for row in rows)
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def _decisions(run: Run) -> str:
    label = html.escape(run.label)
    if not run.decisions:
        return f"<h3>{label}</h3>\n<p>No decision was recorded.</p>"
    scroll = f'class="scroll" role="region" tabindex="0" aria-label="{label}"'
    table = _table([_decision(row) for row in run.decisions])
    return f"<h3>{label}</h3>\n<div {scroll}>{table}</div>"


FIGURE = Template("""<h2>$title</h2>
<figure><div class="scroll"><picture>
<source media="(prefers-color-scheme: dark)" srcset="data:image/svg+xml;base64,$dark">
<img src="data:image/svg+xml;base64,$light" alt="$alt">
</picture></div><figcaption>$caption</figcaption></figure>""")


def _figure(draw: Callable, runs: Sequence[Run]) -> str:
    images = {
        theme: base64.b64encode(render(draw, runs, theme, "svg")).decode()
        for theme in THEMES
    }
    caption, title = " ".join((draw.__doc__ or "").split()), draw.__name__.capitalize()
    facts = (f"{run.label}: {_steps(run)} steps, {_coverage(run)}" for run in runs)
    alt = html.escape(f"{title}. {'; '.join(facts)}.")
    return FIGURE.substitute(images, title=title, caption=caption, alt=alt)


PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --line: #d5d9de; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161a1f; --ink: #e6e8eb; --line: #3a424c; } }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h2 { margin-top: 2.5rem; }
figure { margin: 0; }
.scroll { overflow: auto; max-height: 48rem; }
img { display: block; margin: auto; max-width: 100%; min-width: 32rem; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; font-variant-numeric: tabular-nums; }
.summary td:nth-child(4) { min-width: 9rem; }
th { position: sticky; top: 0; background: var(--paper); }
[role=region] { max-height: 32rem; white-space: nowrap; }
@media (max-width: 44rem) {
  .summary thead { display: none; }
  .summary tr { display: block; margin-bottom: 2rem; }
  .summary td { display: flex; justify-content: space-between; text-align: right; }
  .summary td::before { content: attr(data-label); padding-right: 1rem;
    text-align: left; } }
</style>
<h1>$title</h1>
<div class="summary">$summary</div>
<p>Steps are optimizer steps; total has every trial in it; overhead is total over
accepted, less one. Gains are in percentage points.</p>
$figures
<h2>Decisions</h2>
<p>✓ marks the branch that became the run. Predicted: mean ± standard deviation of the
latent gain, made before the trial was trained. Realised: against the score that all
branches started from.</p>
$decisions
<p>Made by hyperdyn_jax.report from $sources.</p>
</html>
""")


def write_report(paths: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Writes `report.html` and `figures/*.png`, and returns the path of the page.

    Args:
      paths: run directories, at least one.
      output: folder to write to; by default the run directory itself if there is
        one, else `report` in the current directory.

    Raises:
      ValueError: a run directory cannot be read; nothing has been written then.
    """
    if not paths:
        raise ValueError("no run directory given; give at least one")
    runs = [load_run(path) for path in paths]
    if len({run.label for run in runs}) < len(runs):
        where = ["/".join(run.path.resolve().parts[-2:]) for run in runs]
        pairs = zip(runs, where, strict=True)
        runs = [replace(run, label=f"{run.label} ({place})") for run, place in pairs]
    folder = Path(output or (runs[0].path if len(runs) == 1 else "report"))
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for draw in FIGURES:
        image = render(draw, runs, "light", "png")
        (folder / "figures" / f"{draw.__name__}.png").write_bytes(image)
    page = PAGE.substitute(
        title=html.escape(" · ".join(run.label for run in runs)),
        summary=_table([_summary(run) for run in runs]),
        figures="\n".join(_figure(draw, runs) for draw in FIGURES),
        decisions="\n".join(map(_decisions, runs)),
        sources=html.escape(", ".join(str(run.path) for run in runs)),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 if a run directory cannot be read."""
    about = "Write report.html and figures/*.png from run directories."
    parser = argparse.ArgumentParser("python -m hyperdyn_jax.report", description=about)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory")
    parser.add_argument("--output", metavar="DIR", help="where to write")
    arguments = parser.parse_args(argv)
    try:
        print(write_report(arguments.runs, arguments.output))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
