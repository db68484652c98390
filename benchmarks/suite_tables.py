"""The suite's tables and picture, from its records (`benchmarks/results/suite`)."""

import collections
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import paper_table
from archive import RESULTS
from suite.curves import Curves, load

from hyperdyn_jax.report.chart import Chart, Key, Panel
from hyperdyn_jax.report.parts import markdown

FOLDER = RESULTS / "suite"
VERSION = "5"  # of the race that the rows are of
SEEDS = (4, 5, 10, 11)  # that are reported
Row = dict[str, Any]
Problem = tuple[str, int]  # a workload and a seed
Found = dict[Problem, dict[str, Row]]  # by the kind of the base
WORKLOADS = {
    "autoencoder": "VAE of digits, Adam",
    "characters": "MLP on characters, Adam",
    "flights": "MLP on flights, Adam",
    "gru": "GRU, clipped gradients",
    "mlp": "MLP on CIFAR-10, SGD",
    "multisteps": "MLP on CIFAR-10, `MultiSteps(8)`",
    "plateau": "GRU, a bit to remember",
    "resnet": "ResNet-8 on CIFAR-10, BatchNorm, SGD",
    "transformer": "transformer on code, Adam",
    "transformer_warmup": "the same, a hidden warm-up",
    "vit": "vision transformer, AdamW",
}
SHORT = {  # in a cell of another table
    "autoencoder": "VAE",
    "gru": "GRU",
    "mlp": "MLP on CIFAR-10",
    "multisteps": "`MultiSteps(8)`",
    "plateau": "a bit to remember",
    "resnet": "ResNet-8",
    "transformer_warmup": "hidden warm-up",
    "vit": "vision transformer",
}
WARM, TOLD = "transformer_warmup", "told"
VISIBLE = "**worst run**, no hidden warm-up"
FEW = ("autoencoder", "gru", "transformer", "transformer_warmup", "vit")
# Columns: the starting rate, its words, and against what.
COLUMNS = {
    ("best", "own"): "own run: constant",
    ("best:cosine", "own"): "own run: cosine",
    ("best", "ratio"): "sweep: best rate",
    ("0.1x", "ratio"): "sweep: a tenth",
    ("10x", "ratio"): "sweep: ten times",
    ("none", "ratio"): "sweep: no rate",
}
# The race ends at averaged weights, which a plain constant may do as well.
AVERAGED = {("best", "averaged"): "the same, averaged"}
WARMED = {
    ("best:warmed_cosine", "own"): "own run: best rate",
    ("0.1x:warmed_cosine", "own"): "own run: a tenth",
    ("best:warmed_cosine", "ratio"): "sweep: best rate",
    ("0.1x:warmed_cosine", "ratio"): "sweep: a tenth",
    ("10x:warmed_cosine", "ratio"): "sweep: ten times",
}


@functools.cache
def rows(name: str) -> list[Row]:
    """The rows of a record; of the race those of the present one."""
    text = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8")
    found = [json.loads(line) for line in text.splitlines()]
    if name != "race":
        return found
    return [row for row in found if row.get("version") == VERSION]


@functools.cache
def curves(problem: Problem) -> Curves:
    return load(FOLDER / f"{problem[0]}-{problem[1]}.npz")


def race(
    names: Iterable[str] = WORKLOADS,
    seeds: Iterable[int] = SEEDS,
    wanted: Iterable[tuple[str, str]] = COLUMNS,
) -> Found:
    """Rows of the race by problem and kind of base, where there are all that are
    wanted."""
    found: Found = {}
    for name in names:
        for row in rows("race"):
            if row["workload"] == name and row["seed"] in seeds:
                found.setdefault((name, row["seed"]), {})[row["kind"]] = row
    kinds = {kind for kind, _ in wanted}
    return {problem: each for problem, each in found.items() if kinds <= set(each)}


def percent(ratio: float) -> str:
    """A ratio of losses as a difference in percent."""
    if not math.isfinite(ratio) or ratio > 10:
        return "> +900%"
    return f"{round(100 * (ratio - 1), 1) + 0.0:+.1f}%"  # 0.0: there is no -0.0%


def mean(ratios: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log([*ratios]))))


def _column(found: Found, column: tuple[str, str]) -> list[float]:
    """Ratios of final losses, one a problem."""
    kind, other = column
    return [_ratio(problem, kinds[kind], other) for problem, kinds in found.items()]


def _ratio(problem: Problem, row: Row, other: str = "ratio") -> float:
    """A final loss against the best of the sweep or against the base's own run; of a
    base that diverges alone -infinity."""
    table, loss = curves(problem), row["loss"]
    if other == "ratio":
        return table.ratio(loss)
    if other == "averaged":
        own = table.at(table.best_rate, table.steps)
        return 1 + (loss - own) / table.unit
    base, *parts = row["kind"].split(":")
    shape = next((part for part in parts if part != TOLD), "constant")
    if base != "best" or shape not in ("constant", "cosine"):
        return -math.inf if row["own"] is None else row["own"]
    own = table.own(table.best_rate, shape)
    return 1 + (loss - own) / table.unit


def few() -> str:
    """The race on five workloads of the suite, means over seeds, and on a ResNet-20."""
    table = [_means(name, race([name]), COLUMNS) for name in FEW]
    return _table(COLUMNS, [*table, _paper_size()])


def _paper_size() -> list[str]:
    """The race at the paper's size, given the best rate of a sweep or a tenth of it,
    against a cosine at that rate."""
    runs = paper_table.runs()
    rate = runs["cosine"][0].config["optimizer"]["learning_rate"]
    given = {("best", "ratio"): rate, ("0.1x", "ratio"): rate / 10}
    cells = ["–"] * len(COLUMNS)
    for place, column in enumerate(COLUMNS):
        if column in given:
            race, cosine = (
                np.mean([run.metrics[-1]["validation_loss"] for run in runs[name]])
                for name in (f"race_{given[column]:g}", "cosine")
            )
            cells[place] = percent(float(race / cosine))
    return ["ResNet-20 on CIFAR-10, 30 epochs", *cells]


def _table(columns: Mapping[tuple[str, str], str], table: Iterable[list[str]]) -> str:
    return markdown("workload|" + "|".join(columns.values()), [*table])


def _means(name: str, found: Found, columns: Iterable[tuple[str, str]]) -> list[str]:
    """A row of a table: means over seeds."""
    cells = [percent(mean(_column(found, column))) for column in columns]
    return [WORKLOADS.get(name, name), *cells]


def _ends(found: Found, columns: Mapping[tuple[str, str], str]) -> list[list[str]]:
    """The last rows of a table: over all problems, and the worst where no warm-up is
    hidden."""
    seen = {problem: kinds for problem, kinds in found.items() if problem[0] != WARM}

    def row(words: str, over: Callable[..., float], found: Found) -> list[str]:
        return [words, *(percent(over(_column(found, column))) for column in columns)]

    return [
        row("**geometric mean**", mean, found),
        row("**worst run**", max, found),
        *([row(VISIBLE, max, seen)] if len(seen) < len(found) else []),
    ]


def every() -> str:
    """The same of all, with the mean and the worst of single runs; and of the warm-up
    in the optimizer where the race was told of it."""
    first, *others = COLUMNS.items()
    columns = dict([first, *AVERAGED.items(), *others])
    found = race()
    table = [_means(name, race([name]), columns) for name in WORKLOADS]
    place = [*WORKLOADS].index(WARM) + 1
    table.insert(place, _means("the same, `warmup=80` given", _told(), columns))
    left = {p: x for p, x in found.items() if _is_left(x["best"])}
    lost = max(_column(left, ("best", "own")), default=1.0)
    note = (
        f"{_seeds(found)}; 1,000 steps with every trial counted. Cells are geometric "
        f"means over seeds, of one run each; the bold one is over all runs. The last "
        f"three rows leave out what was told of its warm-up. The race left a right "
        f"constant in {len(left)} of {len(found)} runs; "
        f"the worst of these ended {percent(lost)} against it. Raw rows in "
        f"`benchmarks/results/suite/race.jsonl`, made by "
        f"`python -m benchmarks.suite.race`."
    )
    return _table(columns, [*table, *_ends(found, columns)]) + "\n\n" + note


def _told() -> Found:
    """Rows of the warm-up that the race was told of, by the kind of the base."""
    told = [(f"{kind}:{TOLD}", other) for kind, other in COLUMNS]
    return {
        problem: {kind.removesuffix(f":{TOLD}"): row for kind, row in kinds.items()}
        for problem, kinds in race([WARM], wanted=told).items()
        for kinds in [{k: row for k, row in kinds.items() if k.endswith(TOLD)}]
    }


def warmups() -> str:
    """Bases that warm up over the first 5% and then follow a cosine."""
    found = race(wanted=WARMED)
    names = dict.fromkeys(name for name, _ in found)
    table = [_means(name, race([name], wanted=WARMED), WARMED) for name in names]
    note = f"{_seeds(found)}; as above."
    return _table(WARMED, [*table, *_ends(found, WARMED)]) + "\n\n" + note


def _seeds(problems: Iterable[Problem]) -> str:
    """Which seeds there are, of how many workloads each."""
    counts = collections.Counter(seed for _, seed in problems)
    words = [f"seed {seed} of {count} workloads" for seed, count in counts.items()]
    return ", ".join(words).capitalize()


def _is_left(row: Row) -> bool:
    """Whether a race chose another rate than its base's; going back divides it by 3."""
    cuts = round(math.log(row["base"] / row["rate"], 3))
    return abs(row["rate"] * 3**cuts / row["base"] - 1) > 1e-3


# Peers.

PEERS = {
    "prodigy": "Prodigy",
    "schedule_free": "schedule-free",
    "dadapt": "D-Adaptation",
    "mechanic": "Mechanic",
    "momo": "MoMo",
    "nadamw": "NadamW, one rate",
    "sgd": "SGD, one rate",
    "usual_cosine": "cosine, textbook rate",
    "autolrs": "AutoLRS",
    "pb2": "PB2",
    "hyperdyn": "the paper's method",
}
RACES = {
    "none": "**race**, no rate given",
    "none:told": "**race**, no rate, told of a warm-up",
    "0.1x": "**race**, a tenth of the best rate",
    "best:cosine": "**race**, the best cosine",
}
FIXED = ("nadamw", "sgd", "usual_cosine")
TUNERS = ("autolrs", "pb2", "hyperdyn")


@functools.cache
def methods() -> dict[str, dict[Problem, Row]]:
    """Rows of every method on the problems that all have been run on.

    Of a peer that was run at a constant rate and along a cosine, those that are better
    on average.
    """
    found: dict[str, dict[Problem, Row]] = collections.defaultdict(dict)
    for row in rows("peers"):
        found[row["peer"]][row["workload"], row["seed"]] = row
    for problem, kinds in race().items():
        for kind in RACES:
            # Where there is no hidden warm-up there is nothing to be told.
            row = kinds.get(kind) or kinds.get(kind.removesuffix(f":{TOLD}"))
            if row is not None:
                found[f"race {kind}"][problem] = row
    common = set.intersection(*(set(x) for x in found.values()))
    order = [problem for problem in race() if problem in common]
    alike = {
        name: {problem: each[problem] for problem in order}
        for name, each in found.items()
    }
    for name in [x for x in alike if f"{x}_cosine" in alike]:
        other = alike.pop(f"{name}_cosine")
        if _mean_ratio(other) < _mean_ratio(alike[name]):
            alike[name] = other
    return alike


def _mean_ratio(found: Mapping[Problem, Row]) -> float:
    return mean(_ratio(problem, row) for problem, row in found.items())


def _against(name: str, other: str, column: str) -> list[float]:
    """A loss of a method against that of another, problem by problem."""
    found = methods()
    return [
        1 + (row[column] - found[other][problem][column]) / curves(problem).unit
        for problem, row in found[name].items()
    ]


def steps_to_target(row: Row, problem: Problem) -> float:
    """Total steps until the validation loss was as good as the target."""
    for steps, loss in row["losses"]:
        if loss <= curves(problem).target:
            return float(steps)
    return math.inf


def peers() -> str:
    """Optimizers and settings that need no tuning, and the race."""
    names = [f"race {x}" for x in RACES] + [x for x in PEERS if x not in TUNERS]
    return _methods(names) + "\n\n" + _peers_note()


def tuners() -> str:
    """Other tuners, and the race."""
    return _methods(["race none", *TUNERS])


def _methods(names: list[str]) -> str:
    found = methods()
    table = []
    for name in sorted(names, key=lambda name: _mean_ratio(found[name])):
        each = found[name]
        ratios = {problem: _ratio(problem, row) for problem, row in each.items()}
        worst = max(ratios, key=lambda problem: ratios[problem])
        test = mean(_against(name, "race none", "test_loss"))
        reached = sum(
            math.isfinite(steps_to_target(row, problem))
            for problem, row in each.items()
        )
        table.append(
            [
                _title(name),
                percent(mean(ratios.values())),
                f"{percent(ratios[worst])} ({SHORT.get(worst[0], worst[0])})",
                percent(test),
                f"{reached} of {len(each)}",
                f"{score(name):.2f}",
            ]
        )
    head = "method|validation: mean|worst|test: mean|target reached|score"
    return markdown(head, table)


def _title(name: str) -> str:
    return (
        RACES[name.removeprefix("race ")] if name.startswith("race ") else PEERS[name]
    )


def _peers_note() -> str:
    machine = rows("peers")[0]["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    rates = {row["peer"]: row["rate"] for row in rows("peers")}
    return (
        f"{_seeds(methods()['race none'])}; 1,000 steps each with all trials counted. "
        f"NadamW has the rate {rates['nadamw']:g} and SGD {rates['sgd']:g}. "
        f"{machine['processor']}, {versions}; raw rows in "
        f"`benchmarks/results/suite/peers.jsonl`, made by "
        f"`python -m benchmarks.suite.peers`."
    )


MOST = 4.0  # times as many steps as the fastest, at the right end of a profile


def profile(name: str) -> list[tuple[float, float]]:
    """Of a method: the share of problems on which it took at most so many times the
    steps of the fastest, with the corners of the stairs."""
    found = methods()
    times = {
        each: [steps_to_target(row, problem) for problem, row in of.items()]
        for each, of in found.items()
    }
    least = np.min([*times.values()], axis=0)
    slower = np.sort(
        [t / f for t, f in zip(times[name], least, strict=True) if t < math.inf]
    )
    count = len(least)
    points = [(1.0, float(np.sum(slower <= 1)) / count)]
    for place, times_slower in enumerate(slower, start=1):
        if 1 < times_slower <= MOST:
            points += [
                (float(times_slower), points[-1][1]),
                (float(times_slower), place / count),
            ]
    return [*points, (MOST, points[-1][1])]


def score(name: str) -> float:
    """Of a method: the mean of its profile, as AlgoPerf scores (Dahl et al. 2023)."""
    times, shares = zip(*profile(name), strict=True)
    return float(np.trapezoid(shares, times)) / (MOST - 1)


def profiles() -> Chart:
    """Performance profiles: optimizers that need no rate, and all else."""
    optimizers = [name for name in PEERS if name not in (*FIXED, *TUNERS)]
    looks = {name: f"c{i} d0" for i, name in enumerate(optimizers)}
    looks |= {name: f"c{i} d1" for i, name in enumerate((*FIXED, *TUNERS))}
    looks |= {"race none": "ink", "race none:told": "ink d2"}
    heads = {
        "optimizers that need no rate": optimizers,
        "fixed settings and other tuners": [*FIXED, *TUNERS],
    }
    panels = []
    for head, names in heads.items():
        panel = Panel(
            f"share of problems over steps to the target, {head}",
            "steps to the target, in those of the fastest", "share of problems",
            (1.0, MOST), (-0.02, 1.02), head=head,
        )  # fmt: skip
        for name in [*names, "race none", "race none:told"]:
            panel.line(*zip(*profile(name), strict=True), looks[name])
        panels.append(panel)
    titles = {name: _title(name).replace("*", "") for name in looks}
    titles["race none:told"] = "race, told of a warm-up"
    keys = [Key("line", look, titles[name]) for name, look in looks.items()]
    return Chart(panels, keys, size=(4.2, 3.4))


# A part taken out.

PARTS = {
    "the model": "the model: the best arm of the last round goes on",
    "growing horizons": "growing horizons: one round, all arms as long",
    "averaging": "averaging",
    "the cooldown": "the cooldown",
    "going back": "going back",
    "base": "the base among the arms: a random start alone",
}
ABLATED = {"best": "best rate", "0.1x": "a tenth", "none": "no rate"}


def _ablated() -> list[str]:
    """The workloads that every part was taken out on, with every base."""
    counts = collections.Counter(row["workload"] for row in rows("ablation"))
    wanted = (len(PARTS) - 1) * len(ABLATED)
    return [name for name, count in counts.items() if count == wanted]


def _changes(part: str, kind: str) -> list[float]:
    """Final losses without a part against those of the whole race."""
    if part != "base":
        return [
            row["change"]
            for row in rows("ablation")
            if (row["without"], row["kind"]) == (part, kind)
            and row["workload"] in _ablated()
        ]
    if kind == "none":
        return []
    return [
        1 + (kinds["none"]["loss"] - kinds[kind]["loss"]) / curves(problem).unit
        for problem, kinds in race(_ablated(), SEEDS[:1]).items()
    ]


def ablation() -> str:
    """What the race ends with if a part of it is taken out."""
    table = []
    for part, words in PARTS.items():
        changes = {kind: _changes(part, kind) for kind in ABLATED}
        means = [percent(mean(x)) if x else "" for x in changes.values()]
        every = [change for found in changes.values() for change in found]
        table.append([words, *means, percent(max(every)), percent(min(every))])
    note = (
        f"Change of the final validation loss; {len(_ablated())} workloads, seed "
        f"{SEEDS[0]}, one run a base; raw rows in "
        f"`benchmarks/results/suite/ablation.jsonl`, made by "
        f"`python -m benchmarks.suite.ablation`."
    )
    head = "without|" + "|".join(f"mean: {x}" for x in ABLATED.values())
    return markdown(f"{head}|worst run|best run", table) + "\n\n" + note


# Three workloads over three seeds.

THREE = {
    "transformer_wide": "transformer of width 64, Adam",
    "mlp": "MLP on CIFAR-10, SGD",
    "flights": "MLP on flights, Adam",
}
THREE_SEEDS = (4, 5, 6)


def three() -> str:
    """The worst of the seeds, with their number."""
    rates = {"best": "best rate", "0.1x": "a tenth", "10x": "ten times"}
    columns = {(kind, "own"): f"own run: {rate}" for kind, rate in rates.items()}
    rates["none"] = "no rate"
    columns |= {(kind, "ratio"): f"sweep: {rate}" for kind, rate in rates.items()}
    table = []
    for name, title in THREE.items():
        found = race([name], THREE_SEEDS)
        worst = [max(_column(found, column)) for column in columns]
        cells = [percent(x) if x > 0 else "diverges alone" for x in worst]
        table.append([f"{title} ({len(found)})", *cells])
    return markdown("worst (of seeds)|" + "|".join(columns.values()), table)


TABLES: dict[str, Callable[[], str]] = {
    "suite": few,
    "suite_seeds": every,
    "suite_warmups": warmups,
    "suite_peers": peers,
    "suite_tuners": tuners,
    "suite_ablation": ablation,
    "suite_three": three,
}
