"""Writes the tables and pictures of the README from the raw records.

python benchmarks/readme.py
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hyperdyn_jax import paper, report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def _machine(record: dict[str, Any]) -> str:
    """Where and when a record was made."""
    return (
        f"{record['cores']} cores of {record['processor']}, "
        f"jax {record['versions']['jax']}, {record['date']}"
    )


def digits() -> str:
    """The quick start over seeds."""
    machine = json.loads((RESULTS / "digits" / "machine.json").read_text())
    runs = [report.load_run(path) for path in sorted(RESULTS.glob("digits/seed*"))]
    last = [run.metrics[-1] for run in runs]

    def spread(name: str) -> str:
        values = [row[name] for row in last]
        return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"

    steps = {f"{row['step']:,} / {row['total_steps']:,}" for row in last}
    seconds = [float(np.sum(run.column("seconds"))) for run in runs]
    row = [
        "digits, ResNet-8, Hyperdyn in paper mode",
        str(len(runs)),
        spread("validation_accuracy"),
        spread("test_accuracy"),
        " or ".join(sorted(steps)),
        f"{min(seconds):.0f}–{max(seconds):.0f}",
    ]
    head = "run|seeds|validation (%)|test (%)|accepted / total steps|seconds"
    hardware = (
        f"Mean ± standard deviation over seeds; seconds of training and decisions, "
        f"without start-up and checkpoints; {_machine(machine)}; "
        f"raw rows in `benchmarks/results/digits/`."
    )
    return paper.table(head, [row]) + "\n\n" + hardware


def decision() -> str:
    """P1 and P2: the time of one decision."""
    record = json.loads((RESULTS / "decision.json").read_text())
    rows = [
        [
            str(row["n"]),
            f"{row['hyperdyn_ms']:.0f}",
            f"{row['optuna_ms']:.0f}",
            f"{row['ratio']:.1f}x ({row['ratio_q25']:.1f}–{row['ratio_q75']:.1f})",
        ]
        for row in record["results"]["decision"]
        if row["d"] == 2
    ]
    head = "observations|here (ms)|Optuna GPSampler (ms)|ratio"
    run = record["results"]["run"]
    text = (
        f"Two axes; medians of pairs in turn, the ratio with its quartiles; the cost "
        f"is about the cube of the observations; {record['cores']} "
        f"cores of {record['processor']}, jax {record['versions']['jax']}, optuna "
        f"{record['versions']['optuna']}, {record['date']}. Over {run['epochs']:,} "
        f"epochs at the default capacity of {run['capacity']}: "
        f"{run['compilations_after_the_first']} compilations after the first decision; "
        f"a decision took {run['first_hundred_ms']:.0f} ms in the first hundred and "
        f"{run['last_hundred_ms']:.0f} ms in the last hundred. "
        f"`python benchmarks/decision.py` measures it."
    )
    return paper.table(head, rows) + "\n\n" + text


def _runs(folder: Path) -> list[report.Run]:
    return [report.load_run(run) for run in sorted(folder.iterdir())]


def _at(run: report.Run, budget: int) -> float:
    """Validation accuracy when so many steps had been taken in all."""
    spent = run.column("total_steps") <= budget
    return float(run.column("validation_accuracy")[spent][-1])


BUDGET = 768  # steps of the twin's 24 epochs


def twin() -> str:
    """Every strategy on the CPU twin of CIFAR-10, best test accuracy first."""
    results = RESULTS / "twin"
    machine = json.loads((results / "machine.json").read_text())
    rows = []
    for folder in filter(Path.is_dir, results.iterdir()):
        if folder.name.startswith("batch"):  # of the figures
            continue
        runs = _runs(folder)
        last = [run.metrics[-1] for run in runs]
        test = [row["test_accuracy"] for row in last]
        cells = [
            folder.name.replace("_", " "),
            str(len(runs)),
            paper.spread(test),
            paper.spread([_at(run, BUDGET) for run in runs]),
            paper.steps(runs),
        ]
        rows.append((-np.mean(test), cells))
    head = f"strategy|seeds|test (%)|validation (%) at {BUDGET} total steps|"
    head += "accepted / total steps"
    text = (
        f"Mean ± standard deviation over seeds; {_machine(machine)}; raw rows in "
        f"`benchmarks/results/twin/`, made by `python benchmarks/twin.py`."
    )
    return paper.table(head, [row for _, row in sorted(rows)]) + "\n\n" + text


def contenders() -> str:
    """Explore-then-commit against cosine at equal total steps."""
    results = RESULTS / "contenders"
    machine = json.loads((results / "machine.json").read_text())
    runs = {
        folder.name: _runs(folder) for folder in filter(Path.is_dir, results.iterdir())
    }

    def mean(name: str, accuracy: str) -> float:
        return float(np.mean([run.metrics[-1][accuracy] for run in runs[name]]))

    cosines = [name for name in runs if re.fullmatch(r"cosine_[0-9.]+", name)]
    tuned = max(cosines, key=lambda name: mean(name, "validation_accuracy"))
    labels = {
        "explore": "**explore, then commit**: learning rate and momentum searched for",
        "constant_averaged": "constant 0.2, same average, no search",
        "cosine_averaged": "cosine 0.2, same average, no search",
        "cosine_0.2": "cosine 0.2",
        "cosine_0.025": "cosine 0.025",
        "cosine_1.6": "cosine 1.6",
        "one_cycle": "one cycle 0.2",
        "wsd": "warm-up, stable, decay 0.2",
        # Last, as it is one of those above.
        tuned: f"cosine, tuned: the best of {len(cosines)} learning rates",
    }
    rows = []
    for name, label in labels.items():
        last = [run.metrics[-1] for run in runs[name]]
        test = paper.spread([row["test_accuracy"] for row in last])
        rows.append(
            (
                -mean(name, "test_accuracy"),
                [label, str(len(last)), test, paper.steps(runs[name])],
            )
        )
    head = "run|seeds|test (%)|accepted / total steps"
    text = (
        f"Mean ± standard deviation over seeds that nothing was chosen by; the rate "
        f"of the tuned cosine, {tuned.removeprefix('cosine_')}, has the best "
        f"validation accuracy over the same seeds, and its search is not counted; "
        f"{_machine(machine)}; raw rows in `benchmarks/results/contenders/`, made by "
        f"`python benchmarks/contenders.py`."
    )
    return paper.table(head, [row for _, row in sorted(rows)]) + "\n\n" + text


def quadratic() -> str:
    """Explore-then-commit on the noisy quadratic, relative to tuned cosine."""
    record = json.loads((RESULTS / "quadratic.json").read_text())
    rows = [
        [
            row["spectrum"],
            f"{row['gradient_noise']:g}",
            f"{row['measurement_noise']:.0%}",
            f"{row['median']:.2f}",
            f"{row['p90']:.2f}",
            f"{row['greedy']:.1f}",
        ]
        for row in record["results"]
    ]
    head = "curvatures|gradient noise|measurement noise|median|90th percentile|greedy"
    draws = len(record["results"][0]["ratios"])
    text = (
        f"Final loss over that of cosine tuned for the very problem; {draws} draws; "
        f"*greedy* takes the rate with the least loss after each epoch; "
        f"{_machine(record)}; made by `python benchmarks/quadratic.py`."
    )
    return paper.table(head, rows) + "\n\n" + text


def epoch() -> str:
    """P5: the loop against a bare loop over the same step."""
    record = json.loads((RESULTS / "epoch.json").read_text())
    rows = [
        [
            row["config"],
            f"{row['ours_images_per_second']:,.0f}",
            f"{row['bare_images_per_second']:,.0f}",
            f"{row['ratio']:.2f} ({row['ratio_q25']:.2f}–{row['ratio_q75']:.2f})",
        ]
        for row in record["results"]
    ]
    head = "config|here (images/s)|bare loop (images/s)|ratio"
    text = (
        f"Medians of pairs in turn, the ratio with its quartiles; both end with the "
        f"same parameters; {_machine(record)}; made by `python benchmarks/epoch.py`."
    )
    return paper.table(head, rows) + "\n\n" + text


def table1() -> str:
    """Table 1 of the paper, on the CPU twin."""
    return paper.table1(paper.find_runs([RESULTS / "twin"]))


TABLES: dict[str, Callable[[], str]] = {
    "digits": digits,
    "contenders": contenders,
    "quadratic": quadratic,
    "twin": twin,
    "table1": table1,
    "epoch": epoch,
    "decision": decision,
}


END = "<!-- end -->"


def begin(name: str) -> str:
    return f"<!-- table: {name} -->\n"


def fill(text: str) -> str:
    """The text with every table between its marks made anew."""
    for name, make in TABLES.items():
        mark = re.compile(f"{begin(name)}.*?{END}", re.DOTALL)
        if len(mark.findall(text)) != 1:
            raise ValueError(f"README.md needs one place for the table {name!r}")
        start, end = mark.search(text).span()
        text = f"{text[:start]}{begin(name)}{make()}\n{END}{text[end:]}"
    return text


# A run that switches often, so that the picture shows what a switch looks like.
PICTURED = "seed4"


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text()))
    run = report.load_run(RESULTS / "digits" / PICTURED)
    for draw in (report.accuracy, report.hyperparameters):
        image = report.render(draw, [run], "light", "png")
        (ROOT / "docs" / f"digits_{draw.__name__}.png").write_bytes(image)


if __name__ == "__main__":
    main()
