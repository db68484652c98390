"""Looks at what a run needs: devices, packages, data, disk.

    python -m hyperdyn_jax.doctor
    python -m hyperdyn_jax.doctor --data_dir=DIR --workdir=runs

A line for each thing that was looked at. What is broken is told once more at the end,
a line each, and the exit code is 2; what is only missing (an extra, a data set that was
never prepared) is no fault.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from packaging.requirements import Requirement

import hyperdyn_jax
from hyperdyn_jax import prepare
from hyperdyn_jax.commands import cli
from hyperdyn_jax.data import tfds_records
from hyperdyn_jax.data.tfds_records import DataError
from hyperdyn_jax.run.arguments import BAD_INPUT, Parser
from hyperdyn_jax.system import errors, files, platforms, process

PACKAGE = "hyperdyn_jax"
SHOWN = ("flax", "optax", "tinygp")
WRITTEN = 32_000_000  # bytes, to time the disk
ROOM = 1_000_000_000  # bytes that a disk should have left


class Finding(NamedTuple):
    """What was looked at, what was found, whether it is in order, or only missing."""

    what: str
    text: str
    good: bool = True
    missing: bool = False

    def __str__(self) -> str:
        state = "missing" if self.missing else "ok" if self.good else "wrong"
        return f"{state:<8} {self.what:<9} {self.text}"


def examine(data_dir: Path | None, workdir: Path) -> Iterator[Finding]:
    """Everything, one after the other; each part whatever came of those before."""
    parts: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("packages", packages),
        ("devices", devices),
        ("programs", programs),
        ("data", lambda: data_sets(data_dir)),
        ("disk", lambda: disk(workdir)),
    ]
    for name, look in parts:
        try:
            yield from look()
        except Exception as error:  # it is there to tell of whatever is wrong
            kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
            yield Finding(name, f"{kind}{errors.first_line(error)}", False)


def packages() -> Iterator[Finding]:
    """Versions against what pyproject.toml asks for, and the extras."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", f"{python}, {PACKAGE} {hyperdyn_jax.__version__}")
    yield Finding("jax", f"{jax.__version__}, jaxlib {metadata.version('jaxlib')}")
    try:
        needed = list(map(Requirement, metadata.requires(PACKAGE) or ()))
        extras = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        text = "is not installed, so nothing is known of the versions that it needs"
        line = f"{PACKAGE} {text}; pip install -e ."
        yield Finding("packages", line, missing=True)
        return
    always = [each for each in needed if _applies(each, "")]
    wrong = [line for each in always if (line := lacking(each))]
    yield from (Finding("packages", line, False) for line in wrong)
    if not wrong:
        shown = [each.name for each in always if each.name in SHOWN]
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in shown)
        yield Finding("packages", f"{len(always)} as they should be: {versions}")
    for extra in extras:
        yield _extra(extra, needed)


def _extra(extra: str, needed: Sequence[Requirement]) -> Finding:
    lack = [line for each in _of(extra, needed) if (line := lacking(each))]
    if not lack:
        return Finding("extra", f"{extra}: there")
    advice = f'pip install -e ".[{extra}]" if needed'
    return Finding("extra", f"{extra}: {lack[0]}; {advice}", missing=True)


def _of(extra: str, needed: Sequence[Requirement]) -> list[Requirement]:
    """What an extra needs beyond the rest."""
    return [e for e in needed if _applies(e, extra) and not _applies(e, "")]


def _applies(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is None or marker.evaluate({"extra": extra})


def lacking(requirement: Requirement) -> str:
    """What is wrong with an installed package or its extras; "" if nothing is."""
    name = requirement.name
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{name} must be {requirement.specifier}, it is {version}"
    needed = list(map(Requirement, metadata.requires(name) or ()))
    parts = (part for extra in requirement.extras for part in _of(extra, needed))
    return next(filter(None, map(lacking, parts)), "")


def devices() -> Iterator[Finding]:
    """What JAX computes on, and whether it does."""
    if problem := platforms.problem():
        yield Finding("devices", problem, False)
        return
    found = jax.devices()
    kind = platforms.in_words(found)
    yield Finding("devices", f"{kind}, {os.cpu_count()} cores here")
    ones = np.tri(64, dtype=np.float32)
    for device in found:
        product = jax.jit(jnp.matmul)(*jax.device_put((ones, ones), device))
        if not np.allclose(product, ones @ ones, rtol=1e-2):
            yield Finding("devices", f"{device} multiplies matrices wrongly", False)
            return
    yield Finding("devices", "a compiled product is right on each of them")


def programs() -> Iterator[Finding]:
    """Where compiled programs are kept."""
    cli.keep_programs()
    settings: Any = jax.config  # its attributes have no types
    folder = settings.jax_compilation_cache_dir
    if folder is None or not settings.jax_enable_compilation_cache:
        yield Finding("programs", "compiled programs are not kept on disk")
        return
    files = [file for file in Path(folder).rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    yield Finding("programs", f"{len(files):,} files, {_bytes(size)}, in {folder}")


def data_sets(data_dir: Path | None) -> Iterator[Finding]:
    """Which are there, and whether their first records can be read."""
    yield Finding("data", "digits and characters come with the packages")
    if data_dir is None:
        yield Finding("data", "others were not looked for: --data_dir=DIR")
        return
    if not data_dir.is_dir():
        yield Finding("data", f"--data_dir={data_dir} is not a folder", False)
        return
    for name, (classes, splits) in prepare.SPLITS.items():
        if not (data_dir / tfds_records.NAMES[name]).exists():
            line = f"no {name} in {data_dir}; {tfds_records.command(name, data_dir)}"
            yield Finding("data", line, missing=True)
            continue
        try:
            opened = tfds_records.open_splits(name, data_dir, classes, splits)
            shapes = [tfds_records.decode(split[0]).shape for split in opened]
        except DataError as error:
            yield Finding("data", str(error), False)
            continue
        sizes = ", ".join(
            f"{len(split):,} {split_name}"
            for split_name, split in zip(splits, opened, strict=True)
        )
        height, width = shapes[0][:2]
        text = f"{name}: {sizes}; the first of each can be read, {height}x{width}"
        yield Finding("data", text)


def disk(workdir: Path) -> Iterator[Finding]:
    """Whether runs can be written, and how fast."""
    if why := files.unwritable(workdir):
        yield Finding("disk", f"--workdir={workdir} cannot be written: {why}", False)
        return
    place = files.existing(workdir)
    free = files.free(place)
    with tempfile.TemporaryFile(dir=place) as file:
        data = os.urandom(WRITTEN)
        began = time.perf_counter()
        file.write(data)
        file.flush()
        files.sync(file.fileno())
        speed = WRITTEN / (time.perf_counter() - began)
    text = f"{_bytes(free)} free, {_bytes(speed)} a second written, in {place}"
    yield Finding("disk", text, free >= ROOM)
    if lacks := files.lacks(place):
        text = f"the file system cannot {', '.join(lacks)}; runs go on without"
        yield Finding("disk", text, missing=True)


def _bytes(count: float) -> str:
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} bytes"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 if something is broken."""
    process.begin()
    parser = Parser("doctor", __doc__)
    parser.option("data_dir")
    parser.option("workdir", "runs by default", default=Path("runs"))
    options = parser.parse_args(argv)
    broken = []
    for finding in examine(options.data_dir, options.workdir):
        print(finding, flush=True)
        broken += [] if finding.good else [f"{finding.what}: {finding.text}"]
    cli.print_problems(broken)
    return BAD_INPUT if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
