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
    rows = []
    for name, tell in FAULTS.items():
        told = tell(records[name]["results"]) if name in records else NOT_MEASURED
        rows += [[name, *row] for row in told]
    note = (
        f"*Identical*: every row but its seconds and every bit of the last checkpoint "
        f"as in the same run left alone. {_measured(records)}; raw records in "
        f"`benchmarks/results/faults/`, made by `benchmarks/faults.py`, "
        f"`faults_hosts.py` (R3), `faults_boundary.py` (R8, R9, R11) and "
        f"`faults_quickstart.py` (R12)."
    )
    return markdown("row|fault|times|what came of it", rows) + "\n\n" + note


def _measured(records: dict[str, dict[str, Any]]) -> str:
    """Where and when each row was, and with which versions."""
    places: dict[tuple[str, ...], list[str]] = {}
    for name in (x for x in FAULTS if x in records):
        record = records[name]
        versions = [f"{x} {record['versions'][x]}" for x in PACKAGES]
        if name == "R12":  # each of its runs has one of several
            versions = ["the versions in its row"]
        place = (record["processor"], *versions, record["date"])
        places.setdefault(place, []).append(name)
    return "; ".join(f"{', '.join(x)}: {', '.join(y)}" for y, x in places.items())


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
            came += f"; after {r['heartbeat']:g} s of silence a process counts as lost"
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
        rows.append([RATES[name], "1", came])
    return rows


RATES = {
    "range 100x too high": "the paper's method, range 100x too high",
    "base 100x too high": "the race, base 100x too high",
    "cosine 100x too high": "a cosine schedule, 100x too high",
    "every random start diverges": "the paper's method, every setting diverges",
    "cosine 20,000x too high": "a cosine schedule, 20,000x too high",
}


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
    came = (
        f"holds up the run for {1e3 * blocking:.1f} ms; its checksums take "
        f"{digest:.2f} s"
    )
    return [[f"a save of {size}", str(len(r["blocking_seconds"])), came]]


def _fuzz(r: dict[str, Any]) -> list[list[str]]:
    came = (
        f"{r['nan']} numbers not finite, {r['out_of_bounds']} out of bounds, "
        f"{r['exceptions']} exceptions"
    )
    what = (
        "made-up scores: equal or clustered settings, constant scores, scores of "
        "1e±30, diverged trials"
    )
    return [
        [f"{FUZZED[name]}, given {what}", f"{n:,}", came]
        for name, n in sorted(r["cases"].items())
    ]


FUZZED = {
    "hyperdyn": "the paper's method",
    "model": "its Gaussian process alone",
    "race": "the race",
}


def _bad_inputs(r: dict[str, Any]) -> list[list[str]]:
    late = r["met_while_training"]
    came = (
        f"{r['as_expected']} told, a line for each problem, exit code 2; "
        f"{r['tracebacks']} tracebacks; of the {r['cases'] - late} that can be told "
        f"before training {r['compiled']} compiled and {r['changed_files']} changed a "
        f"file"
    )
    return [["bad settings and data", str(r["cases"]), came]]


def _security(r: dict[str, Any]) -> list[list[str]]:
    tampered, runs = r["tampered"], r["guarded_runs"]
    guarded = (
        f"exit codes {', '.join(map(str, runs))}; {len(r['ports'])} ports opened; "
        f"{len(r['did_and_must_not'])} of these: code of the config run, the network "
        f"tried, anything unpickled but TensorBoard's own events"
    )
    known = str(r["known_vulnerabilities"])
    return [
        [
            "source files, searched for what runs code from data or reaches out",
            str(r["sources"]),
            f"{sum(len(found) for found in r['suspicious'].values())} found",
        ],
        [
            "pickles put into a checkpoint",
            str(len(tampered)),
            f"{r['pickles_executed']} executed",
        ],
        [
            "a run and its resume, with code in its JSON config and without a network",
            str(len(runs)),
            guarded,
        ],
        ["known vulnerabilities of the locked dependencies", "", known],
    ]


def _quick_starts(r: dict[str, Any]) -> list[list[str]]:
    where = " and ".join(
        f"{each['runs']} with Python {each['python']} and jax {each['jax']}"
        for each in r["interpreters"]
    )
    came = f"exit codes {_counts(r['codes'])}; {where}; {r['at_once']} at a time"
    what = f"the quick start; {r['killed']} of them were killed once and resumed"
    return [[what, str(r["runs"]), came]]


NOT_MEASURED = [["", "", "not measured"]]
PACKAGES = ("jax", "orbax-checkpoint")
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
