"""Writes the tables and pictures of the README and the docs from the raw records.

python benchmarks/readme.py
"""

import functools
import io
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_table
import numpy as np
import paper_table
import performance
import race_picture
import suite_tables
from archive import RESULTS, unpacked
from PIL import Image

from hyperdyn_jax import paper, report
from hyperdyn_jax.report import figures as figure_files
from hyperdyn_jax.report import numbers, paper_figures
from hyperdyn_jax.report.parts import markdown

ROOT = Path(__file__).resolve().parents[1]


def _machine(record: dict[str, Any]) -> str:
    """Where and when a record was made."""
    cores = record["cores"]
    return (
        f"{cores} core{'s' if cores > 1 else ''} of {record['processor']}, "
        f"jax {record['versions']['jax']}, {record['date']}"
    )


def digits() -> str:
    """The quick start over seeds."""
    study = unpacked("digits")
    machine = json.loads((study / "machine.json").read_text())

    def row(strategy: str, label: str) -> list[str]:
        runs = _runs(study / strategy)
        seconds = [float(np.sum(run.column("seconds"))) for run in runs]
        return [
            label,
            str(len(runs)),
            numbers.spread([run.metrics[-1]["test_accuracy"] for run in runs]),
            paper_figures.steps(runs),
            f"{min(seconds):.0f}–{max(seconds):.0f}",
        ]

    rows = [
        row("race", "the race"),
        row("hyperdyn", "the paper's method"),
    ]
    head = "digits, ResNet-8|seeds|test (%)|accepted / total steps|seconds"
    hardware = (
        f"Mean ± standard deviation over seeds; seconds of training and decisions, "
        f"without start-up and checkpoints; {_machine(machine)}; "
        f"raw rows in `benchmarks/results/digits.jsonl.gz`."
    )
    return markdown(head, rows) + "\n\n" + hardware


def decision() -> str:
    """P1 and P2: the time of one decision, and what it is worth."""
    record = json.loads((RESULTS / "decision.json").read_text())
    results, versions = record["results"], record["versions"]
    rows = [
        [
            str(row["n"]),
            f"{row['hyperdyn_ms']:.1f}",
            f"{row['optuna_ms']:.0f}",
            f"{row['ratio']:.1f}x ({row['ratio_q25']:.1f}–{row['ratio_q75']:.1f})",
            f"{row['optuna_one_thread_ms']:.0f} ({row['one_thread_ratio']:.1f}x)",
            f"{row['botorch_ms']:.0f}",
            f"{row['limit_ms']:.2f}",
        ]
        for row in results["decision"]
        if row["d"] == 2
    ]
    head = (
        "observations|here (ms)|Optuna GPSampler (ms)|ratio|Optuna on one thread (ms)|"
        "BoTorch (ms)|limit (ms)"
    )
    run = results["run"]
    text = (
        f"Two axes; medians of decisions in turn, the ratio with its quartiles; the "
        f"limit is the arithmetic alone, at {results['gemm_gflops']:.0f} GFLOP/s; "
        f"{record['cores']} cores of {record['processor']}, jax {versions['jax']}, "
        f"optuna {versions['optuna']}, botorch {versions['botorch']}, "
        f"{record['date']}. Over {run['epochs']:,} epochs at the default capacity of "
        f"{run['capacity']}: {run['compilations_after_the_first']} compilations after "
        f"the first decision; a decision took {run['first_hundred_ms']:.0f} ms in the "
        f"first hundred and {run['last_hundred_ms']:.0f} ms in the last hundred."
    )
    return "\n\n".join([markdown(head, rows), text])


def regret() -> str:
    """P1: what a decision is worth."""
    record = json.loads((RESULTS / "regret.json").read_text())
    rows: dict[str, list[str]] = {}
    for row in record["results"]:
        cell = f"{row['mean']:.2f} ± {row['standard_error']:.2f}"
        name = f"{row['player']} ({len(row['regrets'])} seeds)"
        rows.setdefault(row["player"], [name]).append(cell)
    names = dict.fromkeys(row["function"] for row in record["results"])
    return markdown("|".join(["regret", *names]), list(rows.values()))


@functools.cache
def _runs(folder: Path) -> list[report.Run]:
    return [report.load_run(run) for run in sorted(folder.iterdir())]


def _at(run: report.Run, budget: int) -> float:
    """Validation accuracy when so many steps had been taken in all."""
    spent = run.column("total_steps") <= budget
    return float(run.column("validation_accuracy")[spent][-1])


# Of the figures of the paper, and of a strategy that is no more.
NO_ROWS = ("batch", "explore")


def strategies(problem: str, budget: int) -> str:
    """Every strategy on a problem, best test accuracy first.

    Budget: optimizer steps of the accepted path without a trial.
    """
    results = unpacked(problem)
    machine = json.loads((results / "machine.json").read_text())
    rows = []
    for folder in filter(Path.is_dir, results.iterdir()):
        if folder.name.startswith(NO_ROWS):
            continue
        runs = _runs(folder)
        last = [run.metrics[-1] for run in runs]
        test = [row["test_accuracy"] for row in last]
        cells = [
            folder.name.replace("_", " "),
            str(len(runs)),
            numbers.spread(test),
            numbers.spread([_at(run, budget) for run in runs]),
            paper_figures.steps(runs),
        ]
        rows.append((-np.mean(test), cells))
    head = f"strategy|seeds|test (%)|validation (%) at {budget:,} total steps|"
    head += "accepted / total steps"
    text = (
        f"Mean ± standard deviation over seeds; {_machine(machine)}; raw rows in "
        f"`benchmarks/results/{problem}.jsonl.gz`, made by "
        f"`python benchmarks/strategies.py {problem}`."
    )
    return markdown(head, [row for _, row in sorted(rows)]) + "\n\n" + text


OPTIONS = {
    "hyperdyn": "the paper's",
    "backtracking": "ends at its best epoch's network",
    "cooled": "temperature falls as 1 / (1 + t)",
    "heated": "temperature rises as 1 + t",
}


def options() -> str:
    """Options of the paper's method, one at a time."""

    def row(name: str) -> list[str]:
        study = unpacked("twin" if name == "hyperdyn" else "options")
        runs = _runs(study / name)
        test = [run.metrics[-1]["test_accuracy"] for run in runs]
        kept = [row["kept"] for run in runs for row in run.decisions[1:]]
        return [
            OPTIONS[name],
            str(len(runs)),
            numbers.spread(test),
            f"{np.mean(kept):.0%}",
            paper_figures.steps(runs),
        ]

    head = "Hyperdyn on the twin|seeds|test (%)|kept|accepted / total steps"
    machine = json.loads((unpacked("options") / "machine.json").read_text())
    text = (
        f"Mean ± standard deviation over seeds; {_machine(machine)}; raw rows in "
        f"`benchmarks/results/options.jsonl.gz`, made by "
        f"`python benchmarks/strategies.py options`."
    )
    return markdown(head, [row(name) for name in OPTIONS]) + "\n\n" + text


CONTENDERS = {
    "twin": (0.2, "CIFAR-10 twin, SGD"),
    "characters": (4e-3, "characters, Adam"),
}
AXES_SEEDS = ("seed41", "seed42", "seed43")  # of the comparison with a second axis
STARTS = {0.1: "a tenth of the usual rate", 1: "the usual rate", 10: "ten times it"}


class Contenders:
    """The runs of benchmarks/contenders.py on one problem.

    Args:
      problem: of `CONTENDERS`.
      axes: those of the comparison with a second axis, or all the others.
    """

    def __init__(self, problem: str, axes: bool = False):
        self.usual, self.label = CONTENDERS[problem]
        folder = unpacked("contenders") / problem
        self.machine = json.loads((folder / "machine.json").read_text())
        self.runs = {
            path.name: {
                run.path.name: run
                for run in _runs(path)
                if (run.path.name in AXES_SEEDS) == axes
            }
            for path in folder.iterdir()
            if path.is_dir()
        }

    def test(self, name: str) -> dict[str, float]:
        """Test accuracy by seed; of a schedule without a tuner that of the last
        epoch."""
        found = {}
        for seed, run in self.runs[name].items():
            last = run.metrics[-1]
            of_last = last.get("last_test_accuracy")
            tuned = run.config["strategy"] == "race" or of_last is None
            found[seed] = last["test_accuracy"] if tuned else of_last
        return found

    def cells(self, name: str) -> list[str]:
        """Test accuracy with its seeds, and accepted of all steps."""
        if not self.runs.get(name):
            return ["not measured", ""]
        test = list(self.test(name).values())
        share = paper_figures.steps(list(self.runs[name].values()))
        return [f"{numbers.spread(test)} ({len(test)})", share]


def contenders() -> str:
    """Schedules of a rate that is known, and the race from three rates."""
    problems = [Contenders(name) for name in CONTENDERS]
    rows: list[tuple[str, list[str]]] = [
        (f"**race** from {words}", [f"race_{c.usual * factor:g}" for c in problems])
        for factor, words in STARTS.items()
    ]
    rows += [
        (
            "**race** from a cosine of the usual rate",
            [f"race_cosine_{c.usual:g}" for c in problems],
        ),
        ("**race**, no rate given", ["race_none" for _ in problems]),
    ]
    rows.append(("cosine, the usual rate", [f"cosine_{c.usual:g}" for c in problems]))
    table = [
        [label, *itertools.chain(*map(Contenders.cells, problems, names))]
        for label, names in rows
    ]
    titles = "|".join(
        f"{c.label}: {part}" for c in problems for part in ("test (%)", "steps")
    )
    note = (
        f"Mean ± standard deviation (seeds), then accepted / total steps. "
        f"{_machine(problems[0].machine)}; raw rows in "
        f"`benchmarks/results/contenders.jsonl.gz`, made by "
        f"`python benchmarks/contenders.py`."
    )
    return markdown(f"run|{titles}", table) + "\n\n" + note


def two_axes() -> str:
    """The race over the rate, and over the rate and momentum or b1."""
    problems = [Contenders(name, axes=True) for name in CONTENDERS]
    names = {
        "the rate": [f"race_{c.usual / 10:g}" for c in problems],
        "the rate, and momentum (b1 of Adam)": ["race_two_axes"] * len(problems),
    }
    table = [
        [label, *(c.cells(name)[0] for c, name in zip(problems, each, strict=True))]
        for label, each in names.items()
    ]
    titles = "|".join(f"{c.label}: test (%)" for c in problems)
    note = "Mean ± standard deviation of seeds 41 to 43; by `benchmarks/contenders.py`."
    return markdown(f"the race tunes|{titles}", table) + "\n\n" + note


def control() -> str:
    """How often a race leaves a base for another training at the base's own rate."""
    record = json.loads((RESULTS / "control.json").read_text())
    left, races = record["results"]["left"], record["results"]["decisions"]
    return (
        f"{left} of {races} races left the base ({left / races:.1%}). "
        f"{_machine(record)}; made by `python benchmarks/control.py`."
    )


def quadratic() -> str:
    """The race on the noisy quadratic, relative to tuned cosine."""
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
        f"Final loss over that of a cosine that is tuned for the very problem; {draws} "
        f"draws; *greedy* takes the rate with the least loss after each epoch; "
        f"{_machine(record)}; made by `python benchmarks/quadratic.py`."
    )
    return markdown(head, rows) + "\n\n" + text


def calibration() -> str:
    """What the 90% intervals of predicted gains cover."""
    runs = _runs(unpacked("twin") / "hyperdyn")
    held = [p.held for run in runs for p in numbers.predictions(run)]
    row = ["the paper's method, twin", str(len(runs)), str(len(held))]
    head = "model|runs|predictions|covered by 90% intervals"
    return markdown(head, [[*row, f"{np.mean(held):.0%}"]])


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
    return markdown(head, rows) + "\n\n" + text


def _scaling() -> dict[str, Any]:
    return json.loads((RESULTS / "scaling.json").read_text())


def scaling_checks() -> str:
    """The simulator against what was measured."""
    record = _scaling()
    rows = [
        [
            row["case"],
            f"{row['measured']:.2f}",
            f"{row['predicted']:.2f}",
            f"{row['error']:+.0%}",
        ]
        for row in record["results"]["checks"]
    ]
    times = record["results"]["checks"][0]["times"]
    text = (
        f"Seconds of two branches of {record['results']['steps']} steps, the least of "
        f"{len(times)} repeats; load of the machine when the constants were measured: "
        f"{record['results']['constants']['load']:.1f}; {_machine(record)}; made by "
        f"`python benchmarks/scaling.py`."
    )
    return markdown("case|measured|predicted|error", rows) + "\n\n" + text


def _short(number: float) -> str:
    """Three digits, and a thousand as 1,000."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def scaling_devices() -> str:
    """The plan over devices."""
    record = _scaling()
    rows = [
        [
            f"{row['devices']:,}",
            _short(row["step_seconds"]),
            f"{row['efficiency']:.0%}",
            _short(row["in_turn_seconds"]),
            _short(row["in_groups_seconds"]),
            _short(row["four_in_turn_seconds"]),
            _short(row["four_in_groups_seconds"]),
            f"{row['step_bytes'] / 1e6:.2f}",
            f"{row['decision_bytes'] / 1e6:.2f}",
            f"{row['failures_add']:.2%}",
        ]
        for row in record["results"]["by_devices"]
    ]
    head = (
        "devices|step (s)|of ideal|two branches in turn (s)|in groups (s)|"
        "four in turn (s)|in groups (s)|MB a step|MB a decision|failures add"
    )
    known = record["results"]["machine"]
    text = (
        f"Predicted. A device is a core: {_short(known['work'])} s of work a step, "
        f"late by {known['jitter']:.0%} of its share on average, {known['sums']} "
        f"all-reduces of together {known['gradient'] / 1e6:.2f} MB over "
        f"links of {known['latency'] * 1e6:.0f} µs and "
        f"{1e-6 / max(known['seconds_per_byte'], 1e-15):,.0f} MB/s, {known['host']} "
        f"devices a process. Bytes are those that a device sends. {_machine(record)}."
    )
    return markdown(head, rows) + "\n\n" + text


def scaling_epochs() -> str:
    """The plan over epochs."""
    record = _scaling()
    rows = [
        [
            f"{row['epochs']:,}",
            str(row["observations"]),
            _short(row["decisions_seconds"]),
            f"{row['share_on_8']:.3%}",
            f"{row['file_bytes'] / 1e6:.2f}",
        ]
        for row in record["results"]["by_epochs"]
    ]
    head = "epochs|observations|all decisions (s)|of a run on 8 devices|rows (MB)"
    return markdown(head, rows)


NETWORKS = {"cifar10": "ResNet-20", "imagenet": "ResNet-50"}


def slices() -> str:
    """Programs compiled for TPU slices."""
    record = json.loads((RESULTS / "slices.json").read_text())
    programs = record["results"]["programs"]

    def row(found: dict[str, Any]) -> list[str]:
        name, times = NETWORKS[found["config"]], found["times"]
        changed = "sync_batch_norm" in str(found["changes"])
        together = (found["config"] == "cifar10") != changed
        least = max(times.values())
        speed = f"{found['batch'] * found['branches'] / least:,.0f}"
        # A wave of branches side by side is a step of each.
        program = found["name"].replace("training ", "")
        return [
            name,
            found["slice"],
            program,
            "all chips" if together else "each chip",
            f"{found['memory'] / 1e9:.2f}",
            _short(found["flops"] / 1e9),
            _short(found["bytes"] / 1e9),
            str(len(found["collectives"])),
            _short(found["sent"] / 1e6),
            _short(least * 1e3),
            speed,
        ]

    head = (
        "network|slice|program|BatchNorm over|GB a chip|GFLOP|GB moved|all-reduces|"
        "MB sent|at least (ms)|images/s at most"
    )
    batches = {NETWORKS[x["config"]]: x["batch"] for x in programs}
    sizes = " and ".join(f"{batch:,} images ({n})" for n, batch in batches.items())
    minutes = sum(found["seconds"] for found in programs) / 60
    longest = {max(x["times"], key=x["times"].get) for x in programs}
    text = (
        f"Of one chip and one step of {sizes} in all. The least time is that of its "
        f"{' or '.join(sorted(longest))}. {minutes:.0f} minutes of processor time to "
        f"compile; libtpu {record['versions']['libtpu']}, {_machine(record)}; made by "
        f"`python benchmarks/slices.py`."
    )
    return markdown(head, [row(x) for x in programs]) + "\n\n" + text


@functools.cache
def _twin() -> list[report.Run]:
    return paper.find_runs([unpacked("twin")])


TABLES: dict[str, Callable[[], str]] = {
    **suite_tables.TABLES,
    "digits": digits,
    "contenders": contenders,
    "two_axes": two_axes,
    "control": control,
    "quadratic": quadratic,
    "twin": lambda: strategies("twin", 768),
    "characters": lambda: strategies("characters", 1536),
    "options": options,
    "calibration": calibration,
    "epoch": epoch,
    "decision": decision,
    "regret": regret,
    "scaling_checks": scaling_checks,
    "scaling_devices": scaling_devices,
    "scaling_epochs": scaling_epochs,
    "slices": slices,
    "paper_size": paper_table.accuracies,
    "paper_size_claims": paper_table.claims,
    "paper_size_figures": paper_table.comparisons,
    "faults": lambda: fault_table.table(RESULTS / "faults"),
    "performance": lambda: performance.table(RESULTS),
    "convolutions": lambda: performance.convolutions(RESULTS),
}


# Which tables each document has; each stands in one document.
DOCUMENTS = {
    "README.md": ["suite"],
    "docs/quickstart.md": ["digits"],
    "docs/results.md": [
        "suite_seeds",
        "suite_warmups",
        "suite_peers",
        "suite_tuners",
        "suite_three",
        "suite_ablation",
        "contenders",
        "two_axes",
        "control",
        "quadratic",
        "twin",
        "characters",
        "options",
        "calibration",
    ],
    "docs/paper.md": ["paper_size", "paper_size_claims", "paper_size_figures"],
    "docs/reliability.md": ["faults"],
    "docs/performance.md": [
        "performance",
        "convolutions",
        "epoch",
        "decision",
        "regret",
    ],
    "docs/scaling.md": [
        "slices",
        "scaling_checks",
        "scaling_devices",
        "scaling_epochs",
    ],
}
END = "<!-- end -->"


def begin(name: str) -> str:
    return f"<!-- table: {name} -->\n"


def fill(document: str) -> str:
    """A document's text with every table between its marks made anew."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for name in DOCUMENTS[document]:
        mark = re.compile(f"{begin(name)}.*?{END}", re.DOTALL)
        if len(mark.findall(text)) != 1:
            raise ValueError(f"{document} needs one place for the table {name!r}")
        start, end = mark.search(text).span()
        text = f"{text[:start]}{begin(name)}{TABLES[name]()}\n{END}{text[end:]}"
    return text


PICTURED = "seed0"  # the quick start's own


def pictures() -> dict[str, bytes]:
    """The pictures of the README and of docs/results.md, by their paths."""
    run = report.load_run(unpacked("digits") / "race" / PICTURED)
    record = json.loads((RESULTS / "race_example.json").read_text())
    return {
        "docs/race.png": figure_files.render(race_picture.chart(record["results"])),
        "docs/report.png": race_picture.screenshot(run),
        "docs/profiles.png": figure_files.render(suite_tables.profiles()),
    }


def figures() -> dict[str, bytes]:
    """The tables and pictures of docs/paper.md, by their paths."""
    made = paper.make_all(_twin(), print)
    contents = [files for _, files in made.values()]
    return {f"docs/paper/{name}": files[name] for files in contents for name in files}


def smaller(image: bytes) -> bytes:
    """The same PNG in fewer bytes: no pixel of it is transparent."""
    picture, content = Image.open(io.BytesIO(image)), io.BytesIO()
    rgb = picture.convert("RGB")
    known = {name: value for name, value in picture.info.items() if name == "dpi"}
    rgb.save(content, "PNG", optimize=True, **known)
    return content.getvalue()


def main() -> None:
    for document in DOCUMENTS:
        (ROOT / document).write_text(fill(document), encoding="utf-8")
    drawn = pictures() | figures() | paper_table.pictures()
    for name, content in drawn.items():
        picture = name.endswith(".png")
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_bytes(smaller(content) if picture else content)


if __name__ == "__main__":
    main()
