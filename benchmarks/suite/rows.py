"""Files of rows, one a run; the same command again adds those that are missing.

A row names its machine and versions: the next may be made on another.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks import record

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file yet."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


class Rows:
    """Such a file, and which of its rows are there.

    Args:
      path: of the file.
      names: columns that tell one run from another.
    """

    def __init__(self, path: Path, *names: str):
        self._path, self._names = path, names
        self._known = {self._key(row) for row in read(path)}
        self._machine = record.where(("jax", "optax"))

    def __contains__(self, row: Row) -> bool:
        return self._key(row) in self._known

    def add(self, row: Row) -> None:
        row = row | {"machine": self._machine}
        self._known.add(self._key(row))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in self._names)
