"""Writes the tables and pictures of the README and the docs from the raw records.

python benchmarks/readme.py
"""

import functools
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_table
import numpy as np
import performance
from archive import RESULTS, unpacked
from PIL import Image
from scipy import stats

from hyperdyn_jax import paper, report
from hyperdyn_jax.replay import replay_gap
from hyperdyn_jax.report import charts, numbers, paper_figures
from hyperdyn_jax.report import figures as figure_files
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
        row("explore", "digits, ResNet-8, as it comes"),
        row("hyperdyn", "the same, the paper's method"),
    ]
    head = "run|seeds|test (%)|accepted / total steps|seconds"
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


def strategies(problem: str, budget: int) -> str:
    """Every strategy on a problem, best test accuracy first.

    Budget: optimizer steps of the accepted path without a trial.
    """
    results = unpacked(problem)
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
FACTORS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
FRESH = {f"seed{seed}" for seed in range(15, 20)}  # used when all was decided


class Contenders:
    """The runs of benchmarks/contenders.py on one problem, with fresh seeds or not."""

    def __init__(self, problem: str, fresh: bool = False):
        self.usual, self.label = CONTENDERS[problem]
        folder = unpacked("contenders") / problem
        machine = folder / ("fresh.json" if fresh else "machine.json")
        self.machine = json.loads(machine.read_text())
        self.runs = {
            path.name: {
                run.path.name: run
                for run in _runs(path)
                if (run.path.name in FRESH) == fresh
            }
            for path in folder.iterdir()
            if path.is_dir()
        }
        cosines = [
            name for name in self.runs if re.fullmatch(r"cosine_[0-9.e-]+", name)
        ]
        if not fresh:
            self.tuned = max(cosines, key=lambda name: np.mean(self.validation(name)))

    def validation(self, name: str) -> list[float]:
        """Final validation accuracy of every seed."""
        last = [run.metrics[-1] for run in self.runs[name].values()]
        return [row["validation_accuracy"] for row in last]

    def test(self, name: str, best_epoch: bool | None = None) -> dict[str, float]:
        """Test accuracy by seed: of the best epoch's network, or the last one's; as the
        strategy does unless said."""
        accuracies = {}
        for seed, run in self.runs[name].items():
            best = run.config["strategy"] == "explore"
            best, last = best if best_epoch is None else best_epoch, run.metrics[-1]
            both = last["test_accuracy"], last.get("last_test_accuracy")
            accuracies[seed] = both[0] if best or both[1] is None else both[1]
        return accuracies

    def cells(self, name: str, best_epoch: bool | None = None) -> list[str]:
        """Test accuracy with its seeds, and accepted of all steps."""
        test = list(self.test(name, best_epoch).values())
        runs = list(self.runs[name].values())
        steps = np.mean([run.metrics[-1]["step"] for run in runs])
        total = np.mean([run.metrics[-1]["total_steps"] for run in runs])
        share = f"{steps:,.0f} / {total:,.0f}"
        return [f"{numbers.spread(test)} ({len(test)})", share]

    def difference(self, name: str, base: str, best_epoch: bool | None = None) -> str:
        """Mean of the differences over the seeds that both have, with its 95% interval
        by Student's t. `best_epoch` is of the first alone."""
        one, two = self.test(name, best_epoch), self.test(base)
        values = [one[seed] - two[seed] for seed in sorted(set(one) & set(two))]
        if len(values) < 2:
            return f"{np.mean(values):+.1f}"
        quantile = stats.t.ppf(0.975, len(values) - 1)
        half = quantile * np.std(values, ddof=1) / np.sqrt(len(values))
        return f"{np.mean(values):+.1f} ± {half:.1f}"


def _both(head: str, rows: list[tuple[str, Callable[[Contenders], list[str]]]]) -> str:
    problems = [Contenders(name) for name in CONTENDERS]
    table = [
        [label, *(cell for problem in problems for cell in make(problem))]
        for label, make in rows
    ]
    titles = "|".join(
        f"{problem.label}: {part}" for problem in problems for part in head.split("|")
    )
    return markdown(f"run|{titles}", table)


def contenders() -> str:
    """The recommended mode against what a user would run instead."""
    rows = [
        (
            f"**explore**, base mis-set by {factor:g}x",
            lambda c, f=factor: c.cells(f"recommended_{c.usual * f:g}"),
        )
        for factor in (0.1, 1.0, 10.0)
    ]
    rows += [
        ("cosine, tuned for free", lambda c: c.cells(c.tuned)),
        ("the same, its best epoch kept", lambda c: c.cells(c.tuned, True)),
        ("cosine, usual rate", lambda c: c.cells(f"cosine_{c.usual:g}")),
        ("cosine, a tenth of it", lambda c: c.cells(f"cosine_{c.usual / 10:g}")),
        ("cosine, ten times it", lambda c: c.cells(f"cosine_{c.usual * 10:g}")),
        ("warm-up, stable, decay, usual rate", lambda c: c.cells("wsd")),
        ("one cycle, usual rate", lambda c: c.cells("one_cycle")),
        ("same average, usual rate, no search", lambda c: c.cells("constant_averaged")),
    ]
    twin, text = (Contenders(name) for name in CONTENDERS)
    tuned = " and ".join(c.tuned.removeprefix("cosine_") for c in (twin, text))
    note = (
        f"Mean ± standard deviation (seeds), then accepted / total steps. No setting "
        f"was chosen by these seeds, but backtracking and holding a found rate "
        f"constant were thought of when they had been seen. *Tuned for free*: the "
        f"cosine with the best validation "
        f"accuracy over these very seeds ({tuned}), its search not counted; "
        f"all but explore end at their last epoch's network unless said. "
        f"{_machine(twin.machine)}; raw rows in "
        f"`benchmarks/results/contenders.jsonl.gz`, made by "
        f"`python benchmarks/contenders.py`."
    )
    return _both("test (%)|steps", rows) + "\n\n" + note


def fresh() -> str:
    """The recommended mode on seeds that nobody had seen when the last change came."""
    pairs = [(Contenders(name), Contenders(name, fresh=True)) for name in CONTENDERS]
    rows = []
    for factor in (0.1, 1.0, 10.0):
        row = [f"**explore**, base mis-set by {factor:g}x"]
        for earlier, c in pairs:
            name = f"recommended_{c.usual * factor:g}"
            row += [*c.cells(name), c.difference(name, earlier.tuned)]
        rows.append(row)
    tuned = ["cosine, tuned for free on other seeds"]
    for earlier, c in pairs:
        tuned += [*c.cells(earlier.tuned), ""]
    titles = "|".join(
        f"{c.label}: {part}"
        for _, c in pairs
        for part in ("test (%)", "steps", "ahead")
    )
    note = (
        f"Mean ± standard deviation (seeds 15 to 19), accepted / total steps, and how "
        f"far ahead of the tuned cosine, by seed, with its 95% interval. "
        f"{_machine(pairs[0][1].machine)}; raw rows in "
        f"`benchmarks/results/contenders.jsonl.gz`."
    )
    return markdown(f"run|{titles}", [*rows, tuned]) + "\n\n" + note


def mis_set() -> str:
    """A cosine whose rate is wrong, and what explore makes of it."""
    problems = [Contenders(problem) for problem in CONTENDERS]

    def row(c: Contenders, factor: float) -> list[str]:
        rate = f"{c.usual * factor:g}"
        base, kinds = f"cosine_{rate}", (f"recommended_{rate}", f"anchored_{rate}")
        cells = [c.label, f"{factor:g}x", numbers.spread(list(c.test(base).values()))]
        for name in kinds:
            cells.append(numbers.spread(list(c.test(name).values())))
            cells += [c.difference(name, base), c.difference(name, c.tuned)]
        counts = {len(c.test(name)) for name in (base, *kinds)}
        return [*cells, "-".join(map(str, sorted(counts)))]

    rows = [row(c, factor) for c in problems for factor in FACTORS]
    kept = " and ".join(
        c.difference(c.tuned, c.tuned, best_epoch=True) for c in problems
    )
    note = (
        f"Test accuracy, %; differences by seed with their 95% intervals; equal total "
        f"steps. *Base*: a cosine of this rate, and its last epoch's network; to the "
        f"tuned ones, backtracking would have been worth {kept} points. *As it comes*: "
        f"explore told this rate. *Anchored*: explore told the cosine itself. Raw rows "
        f"in `benchmarks/results/contenders.jsonl.gz`."
    )
    head = "problem|rate off by|base|as it comes|against base|against tuned|"
    head += "anchored|against base|against tuned|seeds"
    return markdown(head, rows) + "\n\n" + note


ABLATIONS = {
    "recommended": "recommended",
    "last_epoch": "without backtracking: the last epoch's network",
    "no_average": "scored and evaluated at the end of the path",
    "no_anchor": "no base and no test",
    "no_plateau": "best probe, not the plateau's middle",
    "no_stopping": "all 12 probes",
    "two_axes": "momentum (or b1) searched for too",
    "long_probes": "probes of 1%, not 0.5%",
    "warm_start": "started from the probes of an earlier run",
}


def ablations() -> str:
    """One part left out, or more of it; the base is mis-set by 0.1x."""

    def row(name: str) -> Callable[[Contenders], list[str]]:
        def cells(c: Contenders) -> list[str]:
            full = f"recommended_{c.usual / 10:g}"
            which = full if name in ("recommended", "last_epoch") else name
            if which not in c.runs:
                return ["not measured", "", ""]
            best = name != "last_epoch"
            against = "" if name == "recommended" else c.difference(which, full, best)
            return [*c.cells(which, best), against]

        return cells

    rows = [(label, row(name)) for name, label in ABLATIONS.items()]
    note = "Mean ± standard deviation (seeds); differences by seed, 95% intervals."
    return _both("test (%)|steps|difference", rows) + "\n\n" + note


def replays() -> str:
    """A learned schedule from scratch."""

    def row(problem: str) -> list[str]:
        c = Contenders(problem)
        run = c.test(f"recommended_{c.usual / 10:g}")["seed10"]
        gap = replay_gap(run, list(c.test("replay", best_epoch=True).values()))
        return [
            c.label,
            f"{gap.run:.1f}",
            f"{gap.mean:.1f} ± {gap.deviation:.1f} ({len(c.runs['replay'])})",
            f"{gap.gap:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})",
        ]

    head = "problem|run: test (%)|replays: test (%)|gap (95% interval)"
    measured = [p for p in CONTENDERS if "replay" in Contenders(p).runs]
    return markdown(head, [row(problem) for problem in measured])


def calibration() -> str:
    """What the 90% intervals of predicted gains cover."""

    def row(label: str, folders: list[Path]) -> list[str]:
        runs = [run for folder in folders for run in _runs(folder)]
        held = [p.held for run in runs for p in numbers.predictions(run)]
        return [label, str(len(runs)), str(len(held)), f"{np.mean(held):.0%}"]

    def anchored(problem: str) -> list[Path]:
        return sorted((unpacked("contenders") / problem).glob("anchored_*"))

    rows = [
        row("the paper's method, twin", [unpacked("twin") / "hyperdyn"]),
        row("explore, twin", anchored("twin")),
        row("explore, characters", anchored("characters")),
    ]
    return markdown("model|runs|predictions|covered by 90% intervals", rows)


def control() -> str:
    """The switch test as it is run: its false switches and its power, on the twin."""
    record = json.loads((RESULTS / "control.json").read_text())
    results, twin = record["results"], Contenders("twin")
    wide = np.mean(list(twin.test("cosine_0.2").values()))
    wide -= np.mean(list(twin.test("cosine_0.05").values()))
    edge = results["gap_at_the_margin"]
    points = edge / results["gap_of_a_quarter_rate"] * wide
    rows = [[gap, f"{power:.1%}"] for gap, power in results["power_by_gap"].items()]
    false = results["false_switches"]
    text = (
        f"Placebo: {results['tested']} of {results['decisions']} decisions came as far "
        f"as the test, and {results['switched']} left the base. Of "
        f"{results['placebos']:,} tests of the base against itself, "
        f"{false['with_margin']:.2%} switched, and {false['without_margin']:.1%} "
        f"without the margin; the level is {results['level']:.0%}. Progress (logarithm "
        f"of the loss at the start over that of the probe) is "
        f"{results['base_progress']:.2f} for the base in a pair's probe, so the margin "
        f"of {results['margin']:.0%} is met at a gap of {edge:.3f}; a pair's "
        f"difference has a deviation of {results['pair_deviation']:.3f}. The power "
        f"above is that of the test as it is run, the margin and both looks together. "
        f"A quarter of the base's rate is {results['gap_of_a_quarter_rate']:.3f} "
        f"behind in pairs and {wide:.1f} points at the end of a cosine; in proportion, "
        f"the margin is {points:.1f} points, and gaps below that are left alone. All "
        f"pairs are scored on one validation split: its own luck is in all of them "
        f"alike, and the level says nothing of it. {_machine(record)}, from "
        f"probes of {results['trained']}; made by `python benchmarks/control.py`."
    )
    return markdown("gap in a pair|found by the test", rows) + "\n\n" + text


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
    return markdown(head, rows) + "\n\n" + text


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


def table1() -> str:
    """Table 1 of the paper, on the CPU twin."""
    return paper.table1(_twin())


@functools.cache
def _twin() -> list[report.Run]:
    return paper.find_runs([unpacked("twin")])


TABLES: dict[str, Callable[[], str]] = {
    "digits": digits,
    "fresh": fresh,
    "contenders": contenders,
    "mis_set": mis_set,
    "ablations": ablations,
    "replays": replays,
    "calibration": calibration,
    "control": control,
    "quadratic": quadratic,
    "twin": lambda: strategies("twin", 768),
    "characters": lambda: strategies("characters", 1536),
    "options": options,
    "table1": table1,
    "epoch": epoch,
    "decision": decision,
    "regret": regret,
    "scaling_checks": scaling_checks,
    "scaling_devices": scaling_devices,
    "scaling_epochs": scaling_epochs,
    "slices": slices,
    "faults": lambda: fault_table.table(RESULTS / "faults"),
    "performance": lambda: performance.table(RESULTS),
    "convolutions": lambda: performance.convolutions(RESULTS),
}


# Which tables each document has.
DOCUMENTS = {
    "README.md": [
        "digits",
        "fresh",
        "mis_set",
        "quadratic",
        "twin",
        "table1",
        "epoch",
        "decision",
        "regret",
        "faults",
    ],
    "docs/results.md": [
        "fresh",
        "contenders",
        "mis_set",
        "ablations",
        "replays",
        "control",
        "quadratic",
        "twin",
        "characters",
        "options",
        "calibration",
    ],
    "docs/performance.md": ["performance", "convolutions"],
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


# A run that switches often, so that the picture shows what a switch looks like.
PICTURED = "seed4"


def pictures() -> dict[str, bytes]:
    """The pictures of the README, by their paths."""
    run = report.load_run(unpacked("digits") / "hyperdyn" / PICTURED)
    return {
        f"docs/digits_{draw.__name__}.png": figure_files.render(draw([run]))
        for draw in (charts.accuracy, charts.hyperparameters)
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
    rgb.save(content, "PNG", optimize=True, dpi=picture.info["dpi"])
    return content.getvalue()


def main() -> None:
    for document in DOCUMENTS:
        (ROOT / document).write_text(fill(document), encoding="utf-8")
    for name, content in (pictures() | figures()).items():
        picture = name.endswith(".png")
        (ROOT / name).write_bytes(smaller(content) if picture else content)


if __name__ == "__main__":
    main()
