"""The table of speed, P1 to P11, from whichever raw records there are."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hyperdyn_jax.report.parts import markdown

HEAD = "row|what|here|peer|ratio (quartiles)|target|limit"
NOT_MEASURED = "not measured"
NEWEST = "_newest"  # ends the name of a record with the newest packages, not the lock


def table(folder: Path) -> str:
    """Markdown; a row without a record says so."""
    rows, made = [], []
    for name, (file, tell, target) in ROWS.items():
        there = [p for p in _paths(folder, file) if p.exists()]
        if not there:
            rows.append([name, WHAT[name], NOT_MEASURED, "", "", target, ""])
        for path in there:
            record = json.loads(path.read_text())
            found = tell(record["results"], target)
            if path.stem.endswith(NEWEST):
                found = [
                    [f"{x}, jax {record['versions']['jax']}", *y] for x, *y in found
                ]
            rows += [[name, *cells] for cells in found]
            made.append(f"{name}: `benchmarks/{file}.py`, {_origin(record)}")
    note = (
        f"Medians of pairs in turn. A ratio is the speed over the peer's; in P6, and "
        f"where its target is an upper bound, the share of the peer's time. "
        f"{'; '.join(made)}."
    )
    return markdown(HEAD, rows) + "\n\n" + note


def _paths(folder: Path, file: str) -> list[Path]:
    """The record of the locked versions, and that of the newest ones."""
    return [folder / f"{file}{end}.json" for end in ("", NEWEST)]


def _origin(record: dict[str, Any]) -> str:
    versions = record["versions"]
    libraries = [f"{x} {versions[x]}" for x in ("jax", "torch") if x in versions]
    cores = f"{record['cores']} core{'s' if record['cores'] > 1 else ''}"
    return f"{cores} of {record['processor']}, {', '.join(libraries)}, {record['date']}"


def convolutions(folder: Path) -> str:
    """Where the time of P4 goes: its convolutions on one core, part by part."""
    path = folder / "step.json"
    if not path.exists():
        return NOT_MEASURED.capitalize() + "."
    cases = [
        row for row in json.loads(path.read_text())["results"] if row["cores"] == 1
    ]
    sides = [(case["case"], case["convolutions_ms"]["ours"]) for case in cases]
    sides.append(("PyTorch", cases[0]["convolutions_ms"]["peer"]))
    rows = [
        [part, *(f"{times[part]:.0f}" for _, times in sides)] for part in sides[0][1]
    ]
    return markdown(f"part|{'|'.join(f'{name} (ms)' for name, _ in sides)}", rows)


def _ratio(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.2f} ({row['ratio_q25']:.2f}–{row['ratio_q75']:.2f})"


def _rate(value: float) -> str:
    return f"{value:,.0f} images/s"


def _decision(r: dict[str, Any], _: str) -> list[list[str]]:
    targets = {20: 10, 64: 12, 128: 20, 400: 150}
    return [
        [
            f"decision, {row['n']} observations",
            f"{row['hyperdyn_ms']:.0f} ms",
            f"{row['optuna_ms']:.0f} ms, Optuna GPSampler",
            _ratio(row),
            f">= 10, {targets[row['n']]} ms" if row["n"] <= 128 else "150 ms",
            "n³ operations an evaluation",
        ]
        for row in r["decision"]
        if row["d"] == 2 and row["n"] in targets
    ]


def _run(r: dict[str, Any], target: str) -> list[list[str]]:
    run = r["run"]
    growth = run["last_hundred_ms"] / run["first_hundred_ms"]
    here = f"{run['compilations_after_the_first']} compilations"
    last = f"{growth:.2f}: last hundred decisions over the first"
    return [[f"{WHAT['P2']}, {run['epochs']:,} epochs", here, "", last, target, "0"]]


def _exposed(r: dict[str, Any], target: str) -> list[list[str]]:
    def share(way: str) -> str:
        low, middle, high = (r[way][k] for k in ("share_q25", "share", "share_q75"))
        return f"{middle:.1%} ({low:.1%} to {high:.1%})"

    here, peer = share("hidden"), f"{share('before')}, the search first"
    return [[WHAT["P3"], here, peer, "", target, "0"]]


def _step(rows: Sequence[dict[str, Any]], target: str) -> list[list[str]]:
    return [
        [
            f"{WHAT['P4']}, {_cores(row)}, {row['case']}",
            _rate(row["ours_images_per_second"]),
            f"{_rate(row['peer_images_per_second'])}, PyTorch",
            _ratio(row),
            target,
            f"{_rate(row['limit_images_per_second'])} by matrix products",
        ]
        for row in rows
    ]


def _epoch(rows: Sequence[dict[str, Any]], target: str) -> list[list[str]]:
    return [
        [
            f"{WHAT['P5']}, {row['config']}",
            _rate(row["ours_images_per_second"]),
            f"{_rate(row['bare_images_per_second'])}, bare loop",
            _ratio(row),
            target,
            "1",
        ]
        for row in rows
    ]


def _branches(rows: Sequence[dict[str, Any]], _: str) -> list[list[str]]:
    targets = {"in turn": "<= 1.02", "side by side": "<= 0.55"}
    limits = {"in turn": "1", "side by side": "0.5"}
    return [
        [
            f"two branches {row['layout']}, {row['config']}",
            "",
            f"twice {row['peer']}",
            _ratio(row),
            targets.get(row["layout"], "none: the other way"),
            limits.get(row["layout"], ""),
        ]
        for row in rows
    ]


def _accelerator(family: str, targets: Sequence[str]) -> Callable[..., list[list[str]]]:
    def tell(rows: Sequence[dict[str, Any]], _: str) -> list[list[str]]:
        chosen = [row for row in rows if row["case"].startswith(family)]
        return [
            [
                f"{row['case']}, {row['device']}",
                _rate(row["ours_images_per_second"]),
                f"{_rate(row['peer_images_per_second'])}, PyTorch compiled",
                _ratio(row),
                target,
                _limits(row),
            ]
            for row, target in zip(chosen, targets, strict=True)
        ]

    return tell


def _jpeg(r: dict[str, Any], target: str) -> list[list[str]]:
    *peers, decode = r["rates"]
    rows = [
        [
            f"{WHAT['P9']}, one core",
            _rate(row["ours_images_per_second"]),
            f"{_rate(row['peer_images_per_second'])}, {row['peer']}",
            _ratio(row),
            target,
            f"{_rate(decode['peer_images_per_second'])}, whole images decoded",
        ]
        for row in peers
    ]
    wait = r["stall"]
    here = f"{wait['stall']:.1%} of the time"
    what = f"stall of a device 10% slower than {wait['workers']} workers"
    return [*rows, [what, here, "", "", "<= 2%", "0"]]


def _startup(rows: Sequence[dict[str, Any]], target: str) -> list[list[str]]:
    return [
        [
            f"{WHAT['P10']}, {row['config']}, warm over cold",
            f"{row['ours warm_s']:.1f} s over {row['ours cold_s']:.1f} s",
            _compiled(row),
            _ratio(row),
            target,
            f"{_imports(row) / row['ours cold_s']:.2f}, interpreter and imports",
        ]
        for row in rows
    ]


def _imports(row: dict[str, Any]) -> float:
    stages = row["stages"]["ours warm"]
    return sum(stages[name] for name in ("interpreter", "import of jax", "imports"))


def _processes(rows: Sequence[dict[str, Any]], target: str) -> list[list[str]]:
    return [
        [
            _exchanged(row),
            f"{row['step_ms']:.0f} ms a step",
            f"{row['alone_ms']:.0f} ms, each alone",
            _ratio(row),
            target,
            "1",
        ]
        for row in rows
        if row["processes"] > 1
    ]


def _exchanged(row: dict[str, Any]) -> str:
    return (
        f"{row['processes']} processes on {_cores(row)}, BatchNorm {row['norm']}: "
        f"{row['all_reduces']} all-reduces of {row['arrays']} arrays, "
        f"{row['bytes_exchanged'] / 1e6:.3f} MB, of which gradients "
        f"{row['gradient_bytes'] / 1e6:.3f} MB"
    )


def _compiled(row: dict[str, Any]) -> str:
    share = f"torch.compile ({row['peer_ratio']:.2f})"
    return f"{row['peer warm_s']:.1f} s over {row['peer cold_s']:.1f} s, {share}"


def _limits(row: dict[str, Any]) -> str:
    memory = f"{_rate(row['limit_of_memory'])} by memory"
    return f"{_rate(row['limit_of_products'])} by products, {memory}"


def _cores(row: dict[str, Any]) -> str:
    return f"{row['cores']} core{'s' if row['cores'] > 1 else ''}"


WHAT = {
    "P1": "one decision",
    "P2": "compilations after the first decision",
    "P3": "search not hidden behind training, of an epoch",
    "P4": "training step on the CPU, ResNet-20, batch 128",
    "P5": "an epoch of the loop",
    "P6": "two branches over twice one",
    "P7": "GPU: ResNet-20, batch 128, 1,000, 4,000",
    "P8": "GPU: ResNet-50, batch 1,000",
    "P9": "JPEG files to training crops (earlier decoder, see below)",
    "P10": "command to first step",
    "P11": "2 and 4 processes",
}
P7 = (">= 1.5, 120,000 images/s", ">= 1.2", ">= 1.1")
P8 = (">= 1.15, 3,500 images/s",)
# Of each row: its record, what it says, and the target.
ROWS: dict[str, tuple[str, Callable[..., list[list[str]]], str]] = {
    "P1": ("decision", _decision, ">= 10"),
    "P2": ("decision", _run, "0, flat"),
    "P3": ("exposed", _exposed, "<= 1%"),
    "P4": ("step", _step, ">= 0.8"),
    "P5": ("epoch", _epoch, ">= 0.97"),
    "P6": ("branches", _branches, "<= 1.02 in turn, <= 0.55 on two groups"),
    "P7": ("accelerator", _accelerator("ResNet-20", P7), "; ".join(P7)),
    "P8": ("accelerator", _accelerator("ResNet-50", P8), P8[0]),
    "P9": ("jpeg", _jpeg, ">= 1"),
    "P10": ("startup", _startup, "<= 2.0 s, <= 0.5"),
    "P11": ("processes", _processes, "gradients only, 1 all-reduce"),
}
