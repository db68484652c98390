"""What every raw record says of where its figures come from."""

import json
import os
import platform
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any


def write(output: Path, packages: Iterable[str], results: Any) -> None:
    """Writes a record to a file of its own."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(encode(packages, results))


def encode(packages: Iterable[str], results: Any) -> bytes:
    """Hardware, versions, command and results as JSON."""
    words = ["python", *_program(), *sys.argv[1:]]
    # Where the data and the runs were is not part of a result.
    words = [re.sub(r"^(--.*(data_|work)dir)=.*", r"\1=DIR", word) for word in words]
    words = ["DATA_DIR" if Path(word).is_dir() else word for word in words]
    date, machine = datetime.now(UTC).date().isoformat(), where(packages)
    record = {"date": date, "command": " ".join(words)} | machine
    record["results"] = results
    return (json.dumps(record, indent=1) + "\n").encode()


def where(packages: Iterable[str]) -> dict[str, Any]:
    """The machine, and the versions of packages on it."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def _program() -> list[str]:
    """What was run: a file, or a module by its name."""
    spec = sys.modules["__main__"].__spec__
    return ["-m", spec.name] if spec else sys.argv[:1]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
