"""What comes in from outside: numbers, settings, data, files, and what must not run.

    python benchmarks/faults_boundary.py [--cases=10000] [--rows=R8,R9,R11] [--audit]

  R8   10,000 cases each of ill-posed data through the Gaussian process alone, Hyperdyn
       and the race (`fuzz`)
  R9   every bad input of tests/bad_inputs.py as the command that a user would give
  R11  the sources; pickles in checkpoints; a run and its resume under guard, from a
       JSON config with code in it, where there is no network; ports

--audit looks requirements.lock up in a database of known vulnerabilities, with
pip-audit and a network. Without it the record says that this was not done.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fuzz
import record

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import bad_inputs  # noqa: E402
import bounds  # noqa: E402

PACKAGES = ("jax", "numpy", "tinygp", "ml-collections", "orbax-checkpoint", "absl-py")
# Runs train.py and writes down how many programs XLA compiled.
COUNTING = """
import pathlib, runpy, sys
import jax
count, log = 0, pathlib.Path(sys.argv[1])
def listen(event, duration, **details):
    global count
    count += event == "/jax/core/compile/backend_compile_duration"
    log.write_text(str(count))
log.write_text("0")
jax.monitoring.register_event_duration_secs_listener(listen)
del sys.argv[:2]
sys.argv.insert(0, {train!r})
runpy.run_path({train!r}, run_name="__main__")
"""


def numbers(cases: int) -> dict[str, Any]:
    """R8."""
    began = time.monotonic()
    return fuzz.run(cases) | {"seconds": round(time.monotonic() - began, 1)}


def inputs() -> dict[str, Any]:
    """R9."""
    results = [try_input(case) for case in bad_inputs.CASES]
    return {
        "cases": len(results),
        "lines": sum(len(result["said"]) for result in results),
        "as_expected": sum(not result["wrong"] for result in results),
        "tracebacks": sum("traceback" in result["wrong"] for result in results),
        "compiled": sum("compiled" in result["wrong"] for result in results),
        "changed_files": sum("changed files" in result["wrong"] for result in results),
        "met_while_training": sum(case.late for case in bad_inputs.CASES),
        "longest_seconds": max(result["seconds"] for result in results),
        "each": results,
    }


def try_input(case: bad_inputs.Case) -> dict[str, Any]:
    """Gives one command; says what is wrong with what comes of it."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as logs:
        here, log = Path(folder), Path(logs, "compiled")
        program = COUNTING.format(train=str(ROOT / "train.py"))
        with case.prepared(here):
            before, began = bad_inputs.contents(here), time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", program, str(log), *case.command(here)],
                cwd=ROOT,
                env=os.environ | {"XLA_FLAGS": DEVICES, "JAX_PLATFORMS": "cpu"},
                capture_output=True,
                text=True,
                check=False,
            )
            after, seconds = bad_inputs.contents(here), time.monotonic() - began
        said, expected = done.stderr.splitlines(), case.expected(here)
        fits = len(said) == len(expected) and all(
            line.startswith(start) for line, start in zip(said, expected, strict=True)
        )
        wrong = {
            "exit code": done.returncode != 2,
            "traceback": "Traceback" in done.stderr,
            "lines": not fits,
            "output": bool(done.stdout) and not case.late,
            "compiled": log.read_text() != "0" and not case.late,
            "changed files": after != before and not case.late,
        }
        return {
            "name": case.name,
            "said": [
                line.replace(str(here), "HERE").replace(f"{ROOT}/", "") for line in said
            ],
            "wrong": [name for name, is_so in wrong.items() if is_so],
            "seconds": round(seconds, 2),
        }


DEVICES = f"--xla_force_host_platform_device_count={bad_inputs.DEVICES}"


def execution(audit: bool) -> dict[str, Any]:
    """R11."""
    found = {
        str(file.relative_to(ROOT)): sorted(bounds.suspicious(file))
        for file in bounds.SOURCES
    }
    tampered = []
    for replace, forged in itertools.product([False, True], repeat=2):
        with tempfile.TemporaryDirectory() as folder:
            result = bounds.tamper(Path(folder), replace=replace, forged=forged)
        tampered.append({"replace": replace, "forged": forged, **result._asdict()})
    with tempfile.TemporaryDirectory() as folder:
        flags = bounds.marked_config(Path(folder))
        runs = [bounds.guarded(Path(folder), *flags, stop=x) for x in (True, False)]
    did = sorted({what for run in runs for what in run.did})
    return {
        "sources": len(found),
        "suspicious": {name: what for name, what in found.items() if what},
        "pickles_executed": sum(each["executed"] for each in tampered),
        "tampered": tampered,
        "guarded_runs": [run.code for run in runs],
        "without_network": bool(bounds.without_network()),
        "ports": [port for run in runs for port in run.ports],
        "did": did,
        "did_and_must_not": [
            what
            for what in did
            if not what.startswith("process ") and what not in bounds.OWN_PICKLES
        ],
        "known_vulnerabilities": audited() if audit else "not audited here",
    }


def audited() -> dict[str, Any]:
    """What a database knows of the versions in requirements.lock."""
    lock = ["--requirement", "requirements.lock", "--require-hashes", "--disable-pip"]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *lock, "--format=json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    packages = json.loads(done.stdout)["dependencies"]
    known = {x["name"]: x["vulns"] for x in packages if x.get("vulns")}
    return {"packages": len(packages), "known": known}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--rows", default="R8,R9,R11")
    parser.add_argument("--audit", action="store_true")
    arguments = parser.parse_args()
    rows = {
        "R8": lambda: numbers(arguments.cases),
        "R9": inputs,
        "R11": lambda: execution(arguments.audit),
    }
    for name in arguments.rows.split(","):
        result = rows[name]()
        print(name, {k: v for k, v in result.items() if k != "each"}, flush=True)
        path = ROOT / "benchmarks" / "results" / "faults" / f"{name}.json"
        record.write(path, PACKAGES, result)


if __name__ == "__main__":
    main()
