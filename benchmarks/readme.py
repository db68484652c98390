"""Writes the tables and pictures of the README from the raw records.

python benchmarks/readme.py
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hyperdyn_jax import report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    head = "run, seeds, validation (%), test (%), accepted / total steps, seconds"
    hardware = (
        f"Mean ± standard deviation over seeds; seconds of training and decisions, "
        f"without start-up and checkpoints; {machine['cores']} cores of "
        f"{machine['processor']}, jax {machine['versions']['jax']}, "
        f"{machine['date']}; raw rows in `benchmarks/results/digits/`."
    )
    return table(head.split(", "), [row]) + "\n\n" + hardware


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
    head = ["observations", "here (ms)", "Optuna GPSampler (ms)", "ratio"]
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
    return table(head, rows) + "\n\n" + text


def twin() -> str:
    """Every strategy on the CPU twin of CIFAR-10, best test accuracy first."""
    machine = json.loads((RESULTS / "twin" / "machine.json").read_text())
    rows = []
    for folder in (RESULTS / "twin").iterdir():
        if not folder.is_dir():
            continue
        last = [report.load_run(run).metrics[-1] for run in sorted(folder.iterdir())]
        test = np.array([row["test_accuracy"] for row in last])
        total = np.array([row["total_steps"] for row in last])
        spread = f"{test.mean():.1f} ± {test.std(ddof=1):.1f}"
        steps = f"{last[0]['step']:,} / {total.mean():,.0f}"
        rows.append((-test.mean(), [folder.name, str(len(last)), spread, steps]))
    head = "strategy, seeds, test accuracy (%), accepted / total steps"
    text = (
        f"Mean ± standard deviation over seeds; {machine['cores']} cores of "
        f"{machine['processor']}, jax {machine['versions']['jax']}, {machine['date']}; "
        f"raw rows in `benchmarks/results/twin/`."
    )
    return table(head.split(", "), [row for _, row in sorted(rows)]) + "\n\n" + text


TABLES: dict[str, Callable[[], str]] = {
    "digits": digits,
    "twin": twin,
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
