"""Rows as JSON, and files that are written whole or not at all."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperdyn_jax.system import files

Row = Mapping[str, Any]


def dump(value: Any, indent: int | None = None) -> str:
    """JSON of plain values and arrays; a number that is not finite becomes null."""
    return json.dumps(_plain(value, lambda _: None), indent=indent, allow_nan=False)


def dump_config(config: Row) -> str:
    """The same, but an infinite setting stays what it is, as text."""
    return json.dumps(_plain(config, str), indent=2, allow_nan=False) + "\n"


def config_as_read(config: Row) -> dict[str, Any]:
    """A config as it will be read from its config.json."""
    read: dict[str, Any] = json.loads(dump_config(config))
    return read


def as_read(row: Row) -> dict[str, Any]:
    """A row as it will be read."""
    read: dict[str, Any] = json.loads(dump(row))
    return read


def _plain(value: Any, otherwise: Callable[[float], Any]) -> Any:
    """JSON's own types, with something else for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item, otherwise) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), otherwise)
    if isinstance(value, list | tuple):
        return [_plain(item, otherwise) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return otherwise(value)
    return value


def flat(config: Row, prefix: str = "") -> dict[str, Any]:
    """Settings with the names that --config.x=y has for them."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return found


def lines(rows: Sequence[Row]) -> bytes:
    """Rows as the bytes of a .jsonl file."""
    return "".join(dump(row) + "\n" for row in rows).encode()


def _write(file: Path, mode: str, content: bytes) -> None:
    """Writes to a file and waits until it is on the disk."""
    with file.open(mode) as stream:
        stream.write(content)
        stream.flush()
        files.sync(stream.fileno())


def append(file: Path, content: bytes) -> None:
    """Adds to a file, all of it or nothing."""
    size = file.stat().st_size if file.exists() else 0
    try:
        _write(file, "ab", content)
    except OSError:
        os.truncate(file, size)
        raise


def replace_bytes(file: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    part = file.with_name(f".{file.name}.part")
    try:
        _write(part, "wb", content)
        os.replace(part, file)
    except OSError:
        with contextlib.suppress(OSError):  # the first one is what is told
            part.unlink(missing_ok=True)
        raise
