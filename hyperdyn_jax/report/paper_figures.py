"""Table 1 and Figures 1 to 4 of the paper: which runs they need, and what they show."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hyperdyn_jax.report import gather, numbers
from hyperdyn_jax.report.chart import Chart, Key, Panel, color_of, extent, look_of
from hyperdyn_jax.report.charts import COLUMNS, COUNTS
from hyperdyn_jax.report.numbers import Run, spread
from hyperdyn_jax.report.parts import markdown


class Kind(NamedTuple):
    """What runs have in common that make one curve."""

    label: str
    strategy: str
    optimizer: str = "sgd"
    batch_size: int = 128

    def has(self, run: Run) -> bool:
        """Whether a run is of this kind."""
        config = run.config
        mine = (self.strategy, self.optimizer, self.batch_size)
        return mine == (
            config.get("strategy"),
            _optimizer(config),
            config.get("batch_size"),
        )

    def __str__(self) -> str:
        return f"{self.strategy} with {self.optimizer} at batch {self.batch_size}"


def _optimizer(config: Mapping[str, Any]) -> Any:
    """Its name; a run that another program wrote may have none."""
    section = config.get("optimizer")
    return section.get("name") if isinstance(section, dict) else section


class Curve(NamedTuple):
    """The runs of one kind, one a seed."""

    kind: Kind
    runs: tuple[Run, ...]


class Comparison(NamedTuple):
    """A figure of the paper.

    claim: what the paper's text says about it.
    kinds: its curves.
    paths: the hyperparameters that it shows; if none, it shows accuracies.
    data: what the names of its data sets begin with.
    """

    claim: str
    kinds: tuple[Kind, ...]
    paths: tuple[str, ...] = ()
    data: str = "cifar10"

    def table(self, found: Sequence[Curve]) -> str:
        """Markdown."""
        if not self.paths:
            return _accuracies(found)
        return _means(dict.fromkeys(("learning_rate", *self.paths)), found)

    def chart(self, found: Sequence[Curve]) -> Chart:
        panels = _path_panels(self.paths, found) or _accuracy_panels(found)
        keys = [
            Key("line", look_of(i), f"{kind.label}, {numbers.seeds(len(runs))}")
            for i, (kind, runs) in enumerate(found)
        ]
        if any(len(runs) > 1 for _, runs in found):
            keys.append(Key("band", "ink", "from the lowest seed to the highest"))
        return Chart(panels, keys, size=(4.5, 4.2))


def collect(kind: Kind, runs: Iterable[Run]) -> Curve:
    """The runs of one kind, by seed.

    Raises:
      ValueError: their configs differ in more than the seed.
    """
    runs = sorted(filter(kind.has, runs), key=gather.seed)
    settings = list(map(gather.settings, runs))
    names = dict.fromkeys(name for each in settings for name in each)
    for name in names:
        values = {each.get(name, "none") for each in settings}
        if len(values) > 1:
            found = ", ".join(sorted(values))
            raise ValueError(f"runs of {kind} differ in {name}, {found}")
    return Curve(kind, tuple(runs))


def _on(data: str, runs: Iterable[Run]) -> list[Run]:
    """The runs on data sets whose names begin so."""
    return [run for run in runs if str(run.config.get("dataset", "")).startswith(data)]


def curves(name: str, runs: Sequence[Run]) -> list[Curve]:
    """What a figure shows.

    Raises:
      ValueError: naming the runs that are missing.
    """
    figure = FIGURES[name]
    runs = _on(figure.data, runs)
    found = [collect(kind, runs) for kind in figure.kinds]
    if missing := [str(curve.kind) for curve in found if not curve.runs]:
        raise ValueError(
            f"{name} needs finished runs on {figure.data} of {', and '.join(missing)}"
        )
    return found


# Tables ------------------------------------------------------------------------------


def steps(runs: Sequence[Run]) -> str:
    """Accepted / total steps, means over seeds."""
    accepted = np.mean([run.metrics[-1]["step"] for run in runs])
    total = np.mean([run.metrics[-1]["total_steps"] for run in runs])
    return f"{accepted:,.0f} / {total:,.0f}"


def _accuracies(found: Sequence[Curve]) -> str:
    rows = []
    for kind, runs in found:
        validation = spread([run.column("validation_accuracy")[-1] for run in runs])
        test = spread([run.metrics[-1]["test_accuracy"] for run in runs])
        rows.append([kind.label, str(len(runs)), validation, test, steps(runs)])
    head = "curve|seeds|validation (%)|test (%)|accepted / total steps"
    return markdown(head, rows)


def _means(names: Iterable[str], found: Sequence[Curve]) -> str:
    """How hyperparameters move: means over the run and over its ends."""
    rows = []
    for kind, runs in found:
        for name in names:
            paths = [_path(run, name) for run in runs]
            quarter = max(1, len(paths[0]) // 4)
            means = [
                spread([path[part].mean() for path in paths], ".3g")
                for part in (slice(None), slice(quarter), slice(-quarter, None))
            ]
            rows.append([kind.label, name, str(len(runs)), *means])
    head = "curve|hyperparameter|seeds|mean|first quarter|last quarter"
    return markdown(head, rows)


def _path(run: Run, name: str) -> np.ndarray:
    """The accepted values of a hyperparameter, f64[epochs]."""
    values = [row["hyperparams"].get(name) for row in run.metrics]
    return np.array(values, dtype=float)


class Row(NamedTuple):
    """A row of Table 1: speed-ups to 85, 90 and 95% of the best accuracy."""

    label: str
    data: str
    manual: Kind
    tuned: Kind
    claimed: tuple[float, float, float]


LEVELS = (0.85, 0.90, 0.95)
TABLE1 = (
    Row(
        "CIFAR-10, SGD",
        "cifar10",
        Kind("manual", "manual_sgd"),
        Kind("Hyperdyn", "hyperdyn"),
        (1.5, 2.0, 2.0),
    ),
    Row(
        "CIFAR-10, Adam",
        "cifar10",
        Kind("manual", "manual_adam", "adam"),
        Kind("Hyperdyn", "hyperdyn", "adam"),
        (1.0, 1.0, 2.0),
    ),
    Row(
        "ImageNet, SGD",
        "imagenet",
        Kind("manual", "manual_large_batch", batch_size=256),
        Kind("Hyperdyn", "hyperdyn", batch_size=1000),
        (1.5, 4.0, 4.0),
    ),
)


def steps_to(run: Run, accuracy: float, count: str) -> float:
    """Steps after which a run first validates at an accuracy.

    Args:
      run: a run.
      accuracy: percentage points.
      count: "step", of the accepted path; or "total_steps", with every trial.

    Returns:
      The number of steps; NaN if it never does.
    """
    reached = run.column("validation_accuracy") >= accuracy
    if not reached.any():
        return math.nan
    return float(run.column(count)[np.argmax(reached)])


def table1(runs: Sequence[Run]) -> str:
    """Speed-up over manual tuning in steps to reach a share of the best accuracy.

    The best accuracy is the manual runs' highest on validation data, their mean over
    seeds. A speed-up is the manual run's steps over those of the run of the same seed.

    Raises:
      ValueError: no row can be measured.
    """
    rows = []
    measured = False
    for row in TABLE1:
        mine = _on(row.data, runs)
        manual, tuned = (
            {gather.seed(run): run for run in collect(kind, mine).runs}
            for kind in (row.manual, row.tuned)
        )
        seeds = sorted(manual.keys() & tuned.keys())
        measured = measured or bool(seeds)
        best = [manual[seed].column("validation_accuracy").max() for seed in seeds]
        for level, claimed in zip(LEVELS, row.claimed, strict=True):
            head = [row.label, f"{level:.0%}", f"{claimed:g}x"]
            if not seeds:
                rows.append([*head, *["not measured"] * 2, "0"])
                continue
            target = level * np.mean(best)
            ratios = {
                count: np.array(
                    [
                        steps_to(manual[seed], target, count)
                        / steps_to(tuned[seed], target, count)
                        for seed in seeds
                    ]
                )
                for count in ("step", "total_steps")
            }
            reached = np.isfinite(ratios["step"])
            cells = [
                f"{spread(ratio[reached].tolist(), '.2f')}x" if reached.any() else "–"
                for ratio in ratios.values()
            ]
            rows.append([*head, *cells, f"{reached.sum()} of {len(seeds)}"])
    if not measured:
        pairs = (f"{row.manual} and {row.tuned} on {row.data}" for row in TABLE1)
        wanted = ", or ".join(pairs)
        raise ValueError(f"table1 needs finished runs of the same seed of {wanted}")
    titles = "system|of the best|paper|here, accepted steps|here, total steps|reached"
    return markdown(titles, rows)


# Charts ------------------------------------------------------------------------------


def _accuracy_panels(found: Sequence[Curve]) -> list[Panel]:
    """Validation accuracy over accepted and over total steps."""
    panels, column = [], "validation_accuracy"
    for count, what in COUNTS.items():
        xs = [np.mean([run.column(count) for run in runs], axis=0) for _, runs in found]
        ys = [[run.column(column) for run in runs] for _, runs in found]
        panels.append(_bands(COLUMNS[column], what, xs, ys, "uniform"))
    return panels


def _path_panels(names: Sequence[str], found: Sequence[Curve]) -> list[Panel]:
    """Accepted hyperparameters over epochs."""
    xs, panels = [runs[0].column("epoch") for _, runs in found], []
    for name in names:
        ys = [[_path(run, name) for run in runs] for _, runs in found]
        kind = "log_uniform" if name == "learning_rate" else "uniform"
        panels.append(_bands(name, "accepted epoch", xs, ys, kind))
    return panels


def _bands(
    name: str,
    x: str,
    xs: Sequence[np.ndarray],
    ys: Sequence[Sequence[np.ndarray]],
    kind: str,
) -> Panel:
    """Of each curve the mean over seeds, and the range of all of them."""
    ends = 0, max(each[-1] for each in xs) * 1.02
    up = extent((v for runs in ys for values in runs for v in values), kind)
    across = "whole" if x == "accepted epoch" else "uniform"
    panel = Panel("", x, name, ends, up, across, kind)
    for i, (steps, runs) in enumerate(zip(xs, ys, strict=True)):
        panel.between(
            "band", steps, np.min(runs, axis=0), np.max(runs, axis=0), color_of(i)
        )
        panel.line(steps.tolist(), np.mean(runs, axis=0).tolist(), look_of(i))
    return panel


# The figures -------------------------------------------------------------------------


HYPERDYN = Kind("Hyperdyn", "hyperdyn")
ADAM = Kind("manual, Adam", "manual_adam", "adam")
TUNED_ADAM = Kind("Hyperdyn, Adam", "hyperdyn", "adam")
LARGE, FASTER = 1000, "Hyperdyn is always faster, at reaching superior generalization"


def _against_manual(batch_size: int) -> tuple[Kind, ...]:
    manual = "manual_sgd" if batch_size == 128 else "manual_large_batch"
    kinds = (HYPERDYN, Kind("manual", manual))
    return tuple(kind._replace(batch_size=batch_size) for kind in kinds)


FIGURES: dict[str, Comparison] = {
    "figure1a": Comparison(FASTER, _against_manual(128)),
    "figure1b": Comparison(FASTER, _against_manual(LARGE)),
    "figure1c": Comparison(FASTER, _against_manual(4000)),
    "figure1d": Comparison(
        "epoch-based BO is ahead in the first few epochs, then plateaus and is "
        "overtaken; random search 5x varies more; the Hyperband variant is no better",
        (
            Kind("Hyperdyn", "hyperdyn", batch_size=LARGE),
            Kind("epoch-based BO", "epoch_bo", batch_size=LARGE),
            Kind("random search", "random_search", batch_size=LARGE),
            Kind("Hyperband variant", "hyperband", batch_size=LARGE),
        ),
    ),
    "figure2a": Comparison(
        "the learning rate tends to 0; its average grows with the batch from 128 to "
        "2,000, and not beyond",
        tuple(
            Kind(f"batch {size:,}", "hyperdyn", batch_size=size)
            for size in (128, LARGE, 2000, 4000)
        ),
        ("learning_rate",),
    ),
    "figure2b": Comparison(
        "Hyperdyn without momentum outperforms manual SGD with momentum",
        (
            Kind("Hyperdyn, no momentum", "hyperdyn", "plain_sgd"),
            Kind("manual, momentum", "manual_sgd"),
        ),
    ),
    "figure3a": Comparison(
        "Hyperdyn tuned Adam is much faster and also generalizes better",
        (TUNED_ADAM, ADAM),
    ),
    "figure3b": Comparison(
        "b1 tends to 0, and b2 is around 1", (TUNED_ADAM,), ("b1", "b2")
    ),
    "figure4": Comparison(
        "Hyperdyn at batch 1,000 reaches the accuracy of manual tuning at batch 256 "
        "much faster",
        (
            Kind("Hyperdyn, batch 1,000", "hyperdyn", batch_size=LARGE),
            Kind("manual, batch 256", "manual_large_batch", batch_size=256),
        ),
        data="imagenet",
    ),
}
