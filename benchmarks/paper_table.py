"""The paper's claims beside the runs of benchmarks/paper_size.py, as far as they are
made: the tables and pictures of docs/paper.md that are of the paper's own size."""

import functools
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from archive import RESULTS, SUFFIX, unpacked

from hyperdyn_jax import report
from hyperdyn_jax.report import figures, numbers, paper_figures
from hyperdyn_jax.report.numbers import Run
from hyperdyn_jax.report.parts import markdown

STUDY = "paper_size"
NOT_YET = "not yet run"
# Runs by name, in words. What the paper's text has for them are speed-ups alone.
RUNS = {
    "manual": "manual: 0.1, divided by ten at 1/2 and 3/4",
    "paper": "the paper's method",
    "race_0.1": "the race, told 0.1",
    "race_0.01": "the race, told 0.01",
    "cosine": "cosine, the best of three rates",
    "cosine_0.03": "cosine of 0.03, a third of the epochs",
    "cosine_0.1": "cosine of 0.1, a third of the epochs",
    "cosine_0.3": "cosine of 0.3, a third of the epochs",
    "batch1000_manual": "batch 1,000: manual, scaled and warmed up (Goyal et al. 2017)",
    "batch1000_paper": "batch 1,000: the paper's method",
    "batch1000_epoch_bo": "batch 1,000: epoch-based BO",
    "batch1000_random_search": "batch 1,000: random search 5x",
}
# He et al. 2015, Table 6; the paper's manual tuning is theirs.
PUBLISHED = {"manual": "91.25 after 182 epochs (He et al. 2015)"}
SHOWN = ("figure1a", "figure1b", "figure1d", "figure2a")
FEW = 3  # epochs after the random start: the paper's "initial few"
TO_ZERO = 0.1  # of the first quarter's mean rate: "tends to 0"

Runs = dict[str, list[Run]]


@functools.cache
def runs() -> Runs:
    """The finished runs by name, one a seed."""
    if not (RESULTS / f"{STUDY}{SUFFIX}").exists():
        return {}
    folder = unpacked(STUDY)
    found = {name: sorted(folder.glob(f"{name}/seed*")) for name in RUNS}
    return {name: list(map(report.load_run, x)) for name, x in found.items() if x}


def accuracies() -> str:
    """Every run, or that it is not yet run."""
    rows = []
    for name, label in RUNS.items():
        mine, published = runs().get(name, []), PUBLISHED.get(name, "–")
        cells = [NOT_YET, "", "", ""]
        if mine:
            last = [run.metrics[-1] for run in mine]
            cells = [
                str(len(mine)),
                numbers.spread([row["validation_accuracy"] for row in last]),
                numbers.spread([row["test_accuracy"] for row in last]),
                paper_figures.steps(mine),
            ]
        rows.append([label, *cells, published])
    head = (
        "run|seeds|validation (%)|test (%)|accepted / total steps|test (%), published"
    )
    return markdown(head, rows) + "\n\n" + _made()


def _made() -> str:
    """Where the runs come from."""
    if not runs():
        return "Made by `python benchmarks/paper_size.py`."
    machines = [
        json.loads((run.path / "machine.json").read_text())
        for mine in runs().values()
        for run in mine
    ]
    commits = {each[:10]: 0 for x in machines for each in x["results"]["commits"]}
    where = {f"{x['processor']} (jax {x['versions']['jax']})" for x in machines}
    last = max(x["date"] for x in machines)
    return (
        f"{', '.join(sorted(where))}, {last}, at commit{'s' * (len(commits) > 1)} "
        f"{', '.join(commits)}; raw rows in `benchmarks/results/{STUDY}{SUFFIX}`, made "
        f"by `python benchmarks/paper_size.py`."
    )


# Claims ------------------------------------------------------------------------------


class Claim(NamedTuple):
    """What the paper says, and how it is judged.

    needs: names of runs. judge: is given them, a list of one a seed each.
    """

    where: str
    text: str
    needs: tuple[str, ...] = ()
    judge: Callable[..., str] | None = None


def _speed_up(level: float, claimed: float, manual: list[Run], mine: list[Run]) -> str:
    """Steps of manual tuning over those of the method, to a share of its best."""
    target = level * np.mean(
        [run.column("validation_accuracy").max() for run in manual]
    )
    ratios = []
    for count in ("step", "total_steps"):
        steps = [
            np.mean([paper_figures.steps_to(run, target, count) for run in group])
            for group in (manual, mine)
        ]
        ratios.append(steps[0] / steps[1])
    if math.isnan(ratios[0]):
        return f"does not hold: {target:.1f}% is not reached"
    verdict = "holds" if ratios[0] >= claimed else "does not hold"
    return f"{verdict}: {ratios[0]:.2f}x; {ratios[1]:.2f}x with all trials counted"


def _ends_better(first: list[Run], second: list[Run], times: float = 2.0) -> str:
    """Whether the first ends above the second on test data, by more than chance: so
    many standard errors of the difference of two shares of the images."""
    mine, other = (
        float(np.mean([run.metrics[-1]["test_accuracy"] for run in group]))
        for group in (first, second)
    )
    images = 10_000 * len(first)
    spread = sum(x * (100 - x) / images for x in (mine, other))
    chance, words = times * math.sqrt(spread), f"{mine:.1f}% against {other:.1f}%"
    if abs(mine - other) <= chance:
        return f"cannot be told: {words}, less than chance apart ({chance:.1f} points)"
    return f"{'holds' if mine > other else 'does not hold'}: {words} on test data"


def _mean_rate(group: list[Run], part: slice = slice(None)) -> float:
    rates = [[row["hyperparams"]["learning_rate"] for row in x.metrics] for x in group]
    return float(np.mean([np.mean(each[part]) for each in rates]))


def _tends_to_zero(group: list[Run]) -> str:
    quarter = max(1, len(group[0].metrics) // 4)
    first, last = (
        _mean_rate(group, x) for x in (slice(quarter), slice(-quarter, None))
    )
    verdict = "holds" if last < TO_ZERO * first else "does not hold"
    text = f"{verdict}: {first:.2g} in the first quarter, {last:.2g} in the last"
    low = group[0].config["search_space"]["learning_rate"]["low"]
    return f"{text}, the low end of the range" if last < 1.01 * low else text


def _grows(small: list[Run], large: list[Run]) -> str:
    means = _mean_rate(small), _mean_rate(large)
    verdict = "holds" if means[1] > means[0] else "does not hold"
    return f"{verdict}: {means[0]:.2g} at 128, {means[1]:.2g} at 1,000"


def _leads_early(first: list[Run], second: list[Run]) -> str:
    """Over the first few decisions: those after the random start."""
    part = slice(1, 1 + FEW)
    mine, other = (
        float(np.mean([run.column("validation_accuracy")[part] for run in group]))
        for group in (first, second)
    )
    verdict = "holds" if mine > other else "does not hold"
    return (
        f"{verdict}: {mine:.1f}% against {other:.1f}%, the mean of {FEW} epochs on "
        f"validation data"
    )


CLAIMS = [
    *(
        Claim(
            "Table 1",
            f"{claimed:g}x as fast to {level:.0%} of the best reported",
            ("manual", "paper"),
            functools.partial(_speed_up, level, claimed),
        )
        for level, claimed in zip(
            paper_figures.LEVELS, paper_figures.TABLE1[0].claimed, strict=True
        )
    ),
    Claim(
        "Figure 1(a)",
        "at batch 128 Hyperdyn generalizes better than manual tuning",
        ("paper", "manual"),
        _ends_better,
    ),
    Claim(
        "Figure 1(b)",
        "at batch 1,000 Hyperdyn generalizes better than manual tuning",
        ("batch1000_paper", "batch1000_manual"),
        _ends_better,
    ),
    Claim(
        "Figure 1(d)",
        "epoch-based BO is ahead in the first few epochs",
        ("batch1000_epoch_bo", "batch1000_paper"),
        _leads_early,
    ),
    Claim(
        "Figure 1(d)",
        "Hyperdyn overtakes epoch-based BO",
        ("batch1000_paper", "batch1000_epoch_bo"),
        _ends_better,
    ),
    Claim(
        "Figure 1(d)",
        "random search 5x varies more than Hyperdyn",
        ("batch1000_random_search", "batch1000_paper"),
        lambda *_: "cannot be told from one seed",
    ),
    *(
        Claim(
            "Figure 2(a)",
            f"at batch {batch} the learning rate tends to 0",
            (name,),
            _tends_to_zero,
        )
        for batch, name in (("128", "paper"), ("1,000", "batch1000_paper"))
    ),
    Claim(
        "Figure 2(a)",
        "its mean grows with the batch from 128 to 2,000",
        ("paper", "batch1000_paper"),
        _grows,
    ),
    Claim("Figures 1(c), 2(b), 3, 4", "batch 4,000; no momentum; Adam; ImageNet"),
]


def claims() -> str:
    """Of every claim whether it holds, does not hold, or cannot be told."""

    def judged(claim: Claim) -> str:
        if claim.judge is None:
            return "cannot be told: not among these runs"
        if not all(name in runs() for name in claim.needs):
            return f"cannot be told: {NOT_YET}"
        return claim.judge(*(runs()[name] for name in claim.needs))

    rows = [[claim.where, claim.text, judged(claim)] for claim in CLAIMS]
    return markdown("in the paper|what it says|here", rows)


# Figures -----------------------------------------------------------------------------


def _found(name: str) -> tuple[paper_figures.Comparison, list[paper_figures.Curve]]:
    """A figure of the kinds that there are runs of: one more than Hyperdyn, unless it
    shows what Hyperdyn chose."""
    figure = paper_figures.FIGURES[name]
    mine = [run for group in runs().values() for run in group]
    curves = [paper_figures.collect(kind, mine) for kind in figure.kinds]
    curves = [curve for curve in curves if curve.runs]
    return figure, curves if len(curves) > (not figure.paths) else []


def comparisons() -> str:
    """The figures with their tables."""
    parts = []
    for name in SHOWN:
        figure, found = _found(name)
        title = f"Figure {name.removeprefix('figure')}"
        body = [f"{NOT_YET.capitalize()}."]
        if found:
            picture = f"![{title} at the paper's size](paper/size/{name}.png)"
            body = [picture, figure.table(found)]
        parts += [f"**{title}.** The paper says: {figure.claim}.", *body]
    return "\n\n".join(parts)


def pictures() -> dict[str, Any]:
    """Their pictures, by path."""
    made = {name: _found(name) for name in SHOWN}
    return {
        f"docs/paper/size/{name}.png": figures.render(figure.chart(found))
        for name, (figure, found) in made.items()
        if found
    }
