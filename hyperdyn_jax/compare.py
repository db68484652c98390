"""Compares many runs: groups of seeds with their confidence bands, in one page.

    python -m hyperdyn_jax.compare runs/study
    python -m hyperdyn_jax.compare runs/cosine runs/race --output=cosine_or_race

Finished runs are looked for in and below the given folders. Those whose configs differ
in nothing but the seed are a group, named by its strategy and by the settings in which
it differs. A second run of one config and seed, and replays of a run, are left out.
Accuracies are in percentage points; steps are given in both counts, accepted and total
with trials included.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import hyperdyn_jax
from hyperdyn_jax.report import figures, find_runs, gather, numbers, parts
from hyperdyn_jax.report.chart import Chart, Key, Panel, color_of, extent, look_of
from hyperdyn_jax.report.charts import COLUMNS, COUNTS
from hyperdyn_jax.report.numbers import Run
from hyperdyn_jax.run import arguments
from hyperdyn_jax.run.arguments import Parser
from hyperdyn_jax.run.verdicts import number
from hyperdyn_jax.system import process

POINTS = 60  # of a band
MOST_PAIRED = 5  # groups that are compared each with each; of more, with the first
MOST = 12  # groups that differ in colour or dashes
# What is told first in names of groups, and how.
TELLING = {
    "dataset": "{}",
    "model.name": "{}",
    "optimizer.name": "{}",
    "batch_size": "batch {}",
    "epochs": "{} epochs",
}
MOST_TOLD = 4  # settings in a name


class Group(NamedTuple):
    """Runs of one config.

    label: its name. config: its settings, flat and as text. runs: by their seeds, in
    order.
    """

    label: str
    config: Mapping[str, str]
    runs: dict[int, Run]

    def last(self, key: str) -> list[float]:
        """A field of the last row of every run's metrics."""
        found = (run.metrics[-1].get(key) for run in self.runs.values())
        return [np.nan if value is None else value for value in found]


class Band(NamedTuple):
    """Validation accuracy over steps: f64[points] each.

    half: half the width of the 95% confidence interval of the mean over seeds, by
      Student's t; NaN of a single run.
    """

    steps: np.ndarray
    mean: np.ndarray
    half: np.ndarray

    @property
    def low(self) -> np.ndarray:
        return np.maximum(self.mean - np.nan_to_num(self.half), 0)

    @property
    def high(self) -> np.ndarray:
        return np.minimum(self.mean + np.nan_to_num(self.half), 100)


def group(runs: Iterable[Run]) -> list[Group]:
    """Runs by what they have in common, in the order in which they are met.

    Args:
      runs: no two with one config and one seed, as `find_runs` gives them.

    Raises:
      ValueError: there are more groups than a figure can tell apart.
    """
    found: dict[tuple[tuple[str, str], ...], dict[int, Run]] = {}
    for run in runs:
        mine = found.setdefault(tuple(gather.settings(run).items()), {})
        mine[gather.seed(run)] = run
    configs = [dict(settings) for settings in found]
    if len(found) > MOST:
        names = ", ".join(varied(configs)[:MOST_TOLD])
        raise ValueError(
            f"{len(found)} groups of runs were given, and at most {MOST} can be told "
            f"apart in a chart: give fewer folders, such as those of one strategy, or "
            f"runs that differ in fewer settings (these differ in {names})"
        )
    groups = zip(_labels(configs), configs, found.values(), strict=True)
    return [Group(name, config, dict(sorted(x.items()))) for name, config, x in groups]


def _labels(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of groups, no two alike: the strategy, and the settings that differ."""
    names = varied(configs)
    told = [[name for name in names if _differs(name, c, configs)] for c in configs]
    for name in names:  # such as a setting that one has and another lacks
        values: dict[str, set[str | None]] = {}
        labels = [_label(c, each, names) for c, each in zip(configs, told, strict=True)]
        for label, config in zip(labels, configs, strict=True):
            values.setdefault(label, set()).add(config.get(name))
        for label, each in zip(labels, told, strict=True):
            if len(values[label]) > 1 and name not in each:
                each.append(name)
    labels = [_label(c, each, names) for c, each in zip(configs, told, strict=True)]
    short = [
        _label(c, each, names, MOST_TOLD) for c, each in zip(configs, told, strict=True)
    ]
    return [s if short.count(s) == 1 else x for s, x in zip(short, labels, strict=True)]


def _differs(
    name: str, config: Mapping[str, str], configs: Sequence[Mapping[str, str]]
) -> bool:
    """Whether others that could have the same value of a setting have another.

    A setting of an optimizer, say, is compared among groups with that optimizer.
    """
    if name == "strategy" or name not in config:
        return False
    section = name.rpartition(".")[0]

    def place(other: Mapping[str, str]) -> tuple[Any, ...]:
        kind = "optimizer" if section.startswith("search_space") else section
        has = not section or any(key.startswith(f"{section}.") for key in other)
        return has, "" if name == f"{kind}.name" else other.get(f"{kind}.name")

    mine = place(config)
    return len({other.get(name) for other in configs if place(other) == mine}) > 1


def _label(
    config: Mapping[str, str],
    told: Sequence[str],
    names: Sequence[str],
    most: int | None = None,
) -> str:
    """A name of a group. told: the settings in it. names: those that are not to be
    mistaken for each other. most: of the settings, the others are only counted."""
    parts = [config.get("strategy", "run")]
    for name in told[:most]:
        text = TELLING.get(name, f"{_short(name, names)}={{}}")
        parts.append(text.format(config.get(name, "none")))
    if rest := told[len(parts) - 1 :]:
        parts.append(f"{len(rest)} more settings")
    return ", ".join(parts)


def _short(name: str, names: Sequence[str]) -> str:
    """As much of the end of a setting's name as tells what it is."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        end = parts[-count:]
        alike = [other for other in names if other.split(".")[-count:] == end]
        if len(alike) == 1 and end[0] not in ("name", "kind", "low", "high"):
            return ".".join(end)
    return name


def varied(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """Settings that are not the same in all configs, what tells the most first."""
    names = dict.fromkeys([*TELLING, *(name for c in configs for name in c)])
    return [name for name in names if len({c.get(name) for c in configs}) > 1]


def band(runs: Sequence[Run], count: str) -> Band:
    """Mean accuracy and its interval, where all runs have begun and none has ended.

    Args:
      runs: of one group; between epochs a run is on the straight line.
      count: "step" or "total_steps".
    """
    rows = [run.rows_over(count) for run in runs]
    columns, accuracies = (
        [np.array([row[key] for row in each], dtype=float) for each in rows]
        for key in (count, "validation_accuracy")
    )
    first, last = max(x[0] for x in columns), min(x[-1] for x in columns)
    steps = np.linspace(first, max(first, last), POINTS)
    scores = [np.interp(steps, x, y) for x, y in zip(columns, accuracies, strict=True)]
    both = [numbers.interval(values) for values in np.array(scores).T]
    mean, half = np.array(both).T
    return Band(steps, mean, half)


def differences(one: Group, other: Group) -> list[float]:
    """Test accuracy of the one minus that of the other, for every seed of both."""
    return [
        run.metrics[-1]["test_accuracy"] - other.runs[seed].metrics[-1]["test_accuracy"]
        for seed, run in one.runs.items()
        if seed in other.runs
    ]


# What is written ---------------------------------------------------------------------

RESULTS = ["Group", "Seeds", "Test (%)", "Validation (%)", "Accepted steps"]
RESULTS += ["Total steps", "Overhead"]
PAIRS = ["Difference in test accuracy", "Pairs", "Points (± 95%)"]


def results(groups: Sequence[Group]) -> list[list[str]]:
    """A row a group: means ± standard deviations over seeds."""
    rows = []
    for each in groups:
        accepted, total = np.mean(each.last("step")), np.mean(each.last("total_steps"))
        rows.append(
            [
                each.label,
                str(len(each.runs)),
                numbers.spread(each.last("test_accuracy"), ".2f"),
                numbers.spread(each.last("validation_accuracy"), ".2f"),
                f"{accepted:,.0f}",
                f"{total:,.0f}",
                f"{total / accepted - 1:+.1%}",
            ]
        )
    return rows


def paired(groups: Sequence[Group]) -> list[list[str]]:
    """A row for two groups: their mean difference by seed, with its 95% interval."""
    if len(groups) > MOST_PAIRED:
        chosen = [(groups[0], other) for other in groups[1:]]
    else:
        chosen = list(itertools.combinations(groups, 2))
    rows = []
    for other, one in chosen:
        found = differences(one, other)
        text = parts.with_interval(*numbers.interval(found)) if found else "–"
        rows.append([f"{one.label} − {other.label}", str(len(found)), text])
    return rows


def best_in_words(groups: Sequence[Group]) -> str:
    """The group with the highest mean, where that is more than chance."""
    if len({each.config.get("dataset") for each in groups}) > 1:
        return "Their data sets differ, and so no group is named as the best."
    best = max(groups, key=lambda each: np.mean(each.last("test_accuracy")))
    found = [differences(best, other) for other in groups if other is not best]
    # The half of an interval is NaN where a pair has less than two seeds.
    ends = [numbers.interval(each) if each else (0.0, np.nan) for each in found]
    if all(mean - half > 0 for mean, half in ends):
        accuracy = numbers.spread(best.last("test_accuracy"), ".2f")
        what = f"test accuracy is {accuracy}%: {best.label}"
        steps = f"after {np.mean(best.last('total_steps')):,.0f} total steps"
        if not found:
            return f"The mean {what}, {steps}."
        shown = "The 95% intervals of pairs show that it is ahead of every other group"
        return f"The highest mean {what}, {steps}. {shown}."
    if all(np.isnan(half) for _, half in ends):
        return "No two groups share two seeds, so chance cannot be told: add seeds."
    return "The 95% intervals of pairs do not show that one group is ahead of all."


def page(groups: Sequence[Group]) -> str:
    """The page."""
    runs = [run for each in groups for run in each.runs.values()]
    lead = (
        f'<p class="lead">{len(runs)} runs in {len(groups)} groups. '
        f"{parts.escape(best_in_words(groups))}</p>"
    )
    grid = parts.table("", RESULTS, results(groups), "cards", name="results")
    note = (
        "Mean ± standard deviation over seeds; overhead is total / accepted steps − 1."
    )
    sections = [
        parts.section("results", "Results", parts.boxed(grid, "wide"), note=note),
        parts.section("accuracy", "Accuracy", parts.figure(chart(groups))),
    ]
    if len(groups) > 1:
        grid = parts.table("", PAIRS, paired(groups), "cards", name="pairs")
        note = (
            "Between runs of the same seed, so of the same data and, as a rule, the "
            "same first weights: mean and its 95% interval by Student's t. Where "
            "nothing differs, one interval in twenty leaves 0 out by chance."
        )
        body = parts.boxed(grid, "wide")
        title = "Differences, paired by seed"
        sections.append(parts.section("pairs", title, body, note=note))
    sections.append(_sources(groups))
    footer = f"Made by hyperdyn_jax {hyperdyn_jax.__version__} from {len(runs)} runs."
    return parts.assemble("Comparison", "Runs compared", lead, sections, footer)


def chart(groups: Sequence[Group]) -> Chart:
    """Validation accuracy over accepted and over total steps, with 95% bands."""
    bands = {c: [band(list(g.runs.values()), c) for g in groups] for c in COUNTS}
    up = extent(x for drawn in bands.values() for b in drawn for x in (*b.low, *b.high))
    panels = []
    for count, what in COUNTS.items():
        most = max(b.steps[-1] for b in bands[count]) or 1
        ends = "; ".join(
            f"{each.label} {b.mean[-1]:.2f} at {b.steps[-1]:,.0f}"
            for each, b in zip(groups, bands[count], strict=True)
        )
        title = f"Validation accuracy in % over {what}, at the end: {ends}"
        panel = Panel(title, what, COLUMNS["validation_accuracy"], (0, most * 1.02), up)
        for i, drawn in enumerate(bands[count]):
            if np.isfinite(drawn.half).all():
                panel.between("band", drawn.steps, drawn.low, drawn.high, color_of(i))
            panel.line(drawn.steps.tolist(), drawn.mean.tolist(), look_of(i))
        panels.append(panel)
    keys = [
        Key("line", look_of(i), f"{each.label}, {numbers.seeds(len(each.runs))}")
        for i, each in enumerate(groups)
    ]
    if any(each.shape == "band" for panel in panels for each in panel.drawn):
        keys.append(Key("band", "ink", "95% interval of the mean"))
    caption = (
        "Means over seeds and their 95% confidence intervals by Student's t, from the "
        "step at which every run of a group has ended an epoch to the end of its "
        "shortest run."
    )
    return Chart(panels, keys, caption, size=(4.5, 4.2))


def _sources(groups: Sequence[Group]) -> str:
    names = varied([each.config for each in groups])
    settings = [
        [each.label, *(each.config.get(name, "–") for name in names)] for each in groups
    ]
    differ = parts.table("", ["Group", *names], settings, name="settings")
    differ = parts.scroll("What differs", differ)
    head = ["Group", "Seed", "Test (%)", "Accepted steps", "Total steps", "Run"]
    rows = [
        [
            each.label,
            str(seed),
            number(run.metrics[-1]["test_accuracy"], ".2f"),
            f"{run.metrics[-1]['step']:,}",
            f"{run.metrics[-1]['total_steps']:,}",
            str(run.path),
        ]
        for each in groups
        for seed, run in each.runs.items()
    ]
    grid = parts.scroll("Every run", parts.table("", head, rows, name="runs"))
    body = (parts.details("Every run", grid), parts.details("What differs", differ))
    return parts.section("runs", "Runs and settings", *body)


def write(
    paths: Sequence[Path], folder: Path, say: Callable[[str], Any] = print
) -> tuple[Path, str]:
    """Writes `compare.html` and `compare.png`.

    Args:
      paths: run directories, or folders of them.
      folder: to write to.
      say: is told which runs were left out, a line each.

    Returns:
      The path of the page, and its results as Markdown.

    Raises:
      ValueError: there is no finished run, or one cannot be read, or the folder cannot
        be written.
    """
    arguments.check_output(folder)
    groups = group(find_runs(paths, say))
    text = parts.markdown("|".join(RESULTS), results(groups))
    if len(groups) > 1:
        text += "\n\n" + parts.markdown("|".join(PAIRS), paired(groups))
    files = {
        "compare.png": figures.render(chart(groups)),
        "compare.html": arguments.encoded(page(groups)),
    }
    arguments.write_files(folder, files)
    return folder / "compare.html", text.replace("\u00a0", " ")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 if runs are missing or cannot be read."""
    process.begin()
    parser = Parser("compare", __doc__)
    parser.option("runs", "also a folder of them, such as a study's")
    parser.option("output", "comparison by default", default=Path("comparison"))
    options = parser.parse_args(argv)

    def command() -> None:
        file, text = write(options.runs, options.output, arguments.note)
        print(f"{text}\n\n{file}")

    return arguments.exit_code(command)


if __name__ == "__main__":
    raise SystemExit(main())
