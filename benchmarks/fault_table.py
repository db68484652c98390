"""The README's table of faults, from the records of benchmarks/faults.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hyperdyn_jax.report.parts import markdown


def table(folder: Path) -> str:
    """Markdown, with where and when it was measured; from a record for each row."""
    records = {path.stem: json.loads(path.read_text()) for path in folder.glob("*")}
    boundary = json.loads((folder.parent / "faults_boundary.json").read_text())
    results = {name: record["results"] for name, record in records.items()}
    results |= boundary["results"]
    rows = []
    for name, tell in FAULTS.items():
        told = tell(results[name]) if name in results else NOT_MEASURED
        rows += [[name, *row] for row in told]
    dates = sorted({record["date"] for record in [*records.values(), boundary]})
    versions = records["R1"]["versions"]
    note = (
        f"*Identical*: every row but its seconds and every bit of the last checkpoint "
        f"as in the same run left alone. {records['R1']['processor']}, "
        f"jax {versions['jax']}, orbax-checkpoint {versions['orbax-checkpoint']}, "
        f"{' and '.join(dates)}; raw records in `benchmarks/results/`, made by "
        f"`benchmarks/faults.py`, `faults_hosts.py` (R3), `faults_boundary.py` "
        f"(R8, R9, R11) and `faults_quickstart.py` (R12)."
    )
    return markdown("row|fault|times|what came of it", rows) + "\n\n" + note


def _interruptions(what: str) -> Callable[[dict[str, Any]], list[list[str]]]:
    def tell(r: dict[str, Any]) -> list[list[str]]:
        codes = ", ".join(f"{code}: {n}" for code, n in sorted(r["codes"].items()))
        came = (
            f"every restart worked; {r['runs_identical']} of {r['runs']} runs "
            f"identical; {r['epochs_lost']} completed epochs lost; "
            f"{r['uncounted_rows']} rows missing or twice; exit codes {codes}, "
            f"after at most {r['longest_seconds']:.1f} s; "
            f"{r['resumed_inside_an_epoch']} resumed inside an epoch"
        )
        return [[what, str(r["signals"]), came]]

    return tell


def _of_two_processes(r: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name in ("SIGTERM", "SIGKILL", "SIGSTOP"):
        each = r[name]
        who = "both end" if name == "SIGTERM" else "the other ends"
        lines = {True: "a line each", False: "NOT a line each"}[each["one_line_each"]]
        came = (
            f"{who} after at most {each['longest_seconds']:.1f} s, {lines}, "
            f"exit codes {_counts(each['codes'])}; {each['runs_identical']} of "
            f"{each['runs']} runs identical"
        )
        if name == "SIGSTOP":
            came += f"; `--heartbeat={r['heartbeat']:g}`"
        rows.append([f"{name} to one of two processes", str(each["signals"]), came])
    return rows


def _damages(r: dict[str, Any]) -> str:
    return f"{r['wrong']} silently wrong; {_counts(r['results'])}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def _spoiled_disks(r: dict[str, Any]) -> list[list[str]]:
    disk, cut = r["full_disk"], r["files"]
    rows = [["files truncated, emptied, deleted", str(cut["damages"]), _damages(cut)]]
    identical = {True: "identical", False: "NOT identical"}
    rows.append(["torn last rows", "1", f"run {identical[r['torn']['identical']]}"])
    if disk["measured"]:
        came = (
            f"{len(disk['warnings'])} warnings, exit code {disk['code']}, good up to "
            f"decision {disk['good_decisions_at_the_end']}; with room again the same "
            f"command ended {identical[disk['identical']]}"
        )
        rows.append(["disk full from the third epoch on", "1", came])
    return rows


def _resumed_elsewhere(r: dict[str, Any]) -> list[list[str]]:
    devices, changes = r["devices"], r["changes"]
    finished = sum(each["finished"] and each["rows_kept"] for each in devices.values())
    came = f"{finished} of {len(devices)} went on and ended, their rows kept"
    rows = [[f"devices {', '.join(devices)}", str(len(devices)), came]]
    refused = sum(
        each["code"] == 2 and len(each["said"]) == 1 and each["nothing_changed"]
        for each in changes.values()
    )
    came = f"{refused} of {len(changes)} refused in a line with the change, exit code 2"
    rows.append([f"another {', '.join(changes)}", str(len(changes)), came])
    return rows


def _divergence(r: dict[str, Any]) -> list[list[str]]:
    spoiled, rates = r["spoiled"], r["rates"]
    came = (
        f"{spoiled['finished']} of {spoiled['injections']} runs ended well, "
        f"{spoiled['numbers_of_the_model_not_finite']} numbers of the model not finite"
    )
    rows = [["NaN weights at a random step", str(spoiled["injections"]), came]]
    for name, each in rates.items():
        limits = [back["learning_rate_limit"] for back in each["rollbacks"]]
        came = f"exit code {each['code']}, {len(limits)} roll-backs"
        rows.append([name, "1", came])
    return rows


def _seeds(r: dict[str, Any]) -> list[list[str]]:
    came = {True: "identical", False: "NOT identical"}[r["same_seed_twice"]]
    where = f"{r['inside_an_epoch']} of them inside an epoch"
    return [
        ["the same seed again", "1", came],
        [
            "stopped at a random batch and resumed",
            str(r["stops"]),
            f"{r['runs_identical']} of {r['runs']} runs identical; {where}",
        ],
    ]


def _saving(r: dict[str, Any]) -> list[list[str]]:
    blocking, digest = (
        np.median(r[name]) for name in ("blocking_seconds", "digest_seconds")
    )
    size = f"{r['megabytes']} MB"
    came = f"holds up the run for {1e3 * blocking:.1f} ms; digests take {digest:.2f} s"
    return [[f"a save of {size}", str(len(r["blocking_seconds"])), came]]


def _fuzz(r: dict[str, Any]) -> list[list[str]]:
    came = (
        f"{r['nan']} not finite, {r['out_of_bounds']} out of bounds, "
        f"{r['exceptions']} exceptions"
    )
    what = "duplicates, constants, one point, 1e±30, clusters, infeasible rows"
    return [
        [f"{name}: {what}", f"{n:,}", came] for name, n in sorted(r["cases"].items())
    ]


def _bad_inputs(r: dict[str, Any]) -> list[list[str]]:
    came = (
        f"{r['as_expected']} told in a line each, exit code 2; {r['tracebacks']} "
        f"tracebacks, {r['compiled']} compiled, {r['changed_files']} changed a file"
    )
    return [["bad settings and data", str(r["cases"]), came]]


def _security(r: dict[str, Any]) -> list[list[str]]:
    came = (
        f"{r['pickles_executed']} pickles executed, {len(r['ports'])} ports opened, "
        f"exit codes without a network {r['guarded_runs']}; known vulnerabilities of "
        f"the locked dependencies: {r['known_vulnerabilities']}"
    )
    return [["what is executed, what is opened", str(r["sources"]), came]]


def _quick_starts(r: dict[str, Any]) -> list[list[str]]:
    where = " and ".join(
        f"{each['runs']} with Python {each['python']} and jax {each['jax']}"
        for each in r["interpreters"]
    )
    came = f"exit codes {_counts(r['codes'])}; {where}; {r['at_once']} at a time"
    what = f"the quick start, {r['killed']} times killed and resumed"
    return [[what, str(r["runs"]), came]]


NOT_MEASURED = [["", "", "not measured"]]
FAULTS: dict[str, Callable[[dict[str, Any]], list[list[str]]]] = {
    "R1": _interruptions("SIGKILL at a random moment"),
    "R2": _interruptions("SIGTERM and Ctrl-C in turn"),
    "R3": _of_two_processes,
    "R4": lambda r: [["one bit flipped", str(r["damages"]), _damages(r)]],
    "R5": _spoiled_disks,
    "R6": _resumed_elsewhere,
    "R7": _divergence,
    "R8": _fuzz,
    "R9": _bad_inputs,
    "R10": _seeds,
    "R11": _security,
    "R12": _quick_starts,
    "save": _saving,
}
