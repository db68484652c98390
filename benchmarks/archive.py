"""The runs of a study in one compressed file: benchmarks/results/<study>.jsonl.gz.

    python benchmarks/archive.py verify [FILE ...]
    python benchmarks/archive.py unpack FILE FOLDER [--schedules]
    python benchmarks/archive.py pack FOLDER FILE

Every line is one folder of the study as JSON: its path, and of each of its files the
SHA-256 digest and the text. Nearly every folder is a run; the others hold the record of
the machine. Lines are sorted, and the same study is the same bytes.

Pack takes the rows of runs and the records of machines, and says what it leaves out.
Unpack writes the same bytes to a new folder, whose runs report and compare take; replay
too, with the schedule.json that --schedules makes anew from the metrics. The rest needs
Python alone, and not this package.
"""

import argparse
import atexit
import functools
import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
SUFFIX = ".jsonl.gz"
ROWS = ("config.json", "metrics.jsonl", "decisions.jsonl")  # of a run
PACKED = (*ROWS, "machine.json", "fresh.json")
# What `encode` begins with: neither a time nor a name of a file. Its checksum does not
# cover it, so it is compared.
HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
STRETCH = 1024  # bytes that are decompressed at once: lines before damage can be read

Study = dict[str, dict[str, bytes]]  # contents of files by folder and by name


def encode(study: Study) -> bytes:
    """A study as the bytes of its archive.

    Raises:
      ValueError: naming a file that is no UTF-8 text.
    """
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", compresslevel=9, fileobj=packed, mtime=0) as stream:
        for path, files in sorted(study.items()):
            stream.write(_line(path, files))
    return packed.getvalue()


def _line(path: str, files: dict[str, bytes]) -> bytes:
    content = {}
    for name, data in sorted(files.items()):
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{path}/{name} is not UTF-8 text") from None
        content[name] = {"sha256": hashlib.sha256(data).hexdigest(), "text": text}
    row = {"path": path, "files": content}
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def read(file: Path) -> Study:
    """A study from its archive.

    Raises:
      ValueError: it is damaged; with the line, and what to do.
    """
    text, fault = _decompress(file.read_bytes())
    study: Study = {}
    *lines, rest = text.split(b"\n")
    try:
        for line in lines:
            path, files = _parse(line)
            if study and path <= next(reversed(study)):
                raise ValueError(f"{path!r} is not in order")
            study[path] = files
        if fault or rest or not study:
            raise ValueError(fault or "the line is not whole")
    except ValueError as error:
        mend = f"restore it (git checkout -- {file}), or pack the runs again"
        where = f"{file}, line {len(study) + 1}"
        raise ValueError(f"{where}: damaged: {error}; {mend}") from None
    return study


def _decompress(content: bytes) -> tuple[bytes, str]:
    """As much of the text as can be read; and what is wrong with the rest, or ""."""
    if not content.startswith(HEADER):
        return b"", "the file does not begin as archive.py writes it"
    stream, text = zlib.decompressobj(wbits=31), bytearray()
    try:
        for start in range(0, len(content), STRETCH):
            text += stream.decompress(content[start : start + STRETCH])
    except zlib.error as error:
        return bytes(text), f"it cannot be decompressed ({error})"
    if not stream.eof:
        return bytes(text), "the file ends too early"
    if stream.unused_data:
        return bytes(text), "something follows the end of the archive"
    return bytes(text), ""


def _parse(line: bytes) -> tuple[str, dict[str, bytes]]:
    """Path and files of a line, whose digests are right."""
    try:
        row = json.loads(line)
        path: str = row["path"].encode().decode()  # refuses half of a character
        files = {name: entry["text"].encode() for name, entry in row["files"].items()}
        digests = {name: entry["sha256"] for name, entry in row["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("the line cannot be read") from None
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != digests[name]:
            raise ValueError(f"{path}/{name} differs from its SHA-256 digest")
    return path, files


def write(file: Path, study: Study) -> None:
    """Writes an archive, whole or not at all."""
    content = encode(study)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(content)
    os.replace(part, file)


def add(file: Path, study: Study) -> None:
    """Adds folders and files to an archive; those of the same name are replaced."""
    old = read(file) if file.exists() else {}
    new = {path: old.get(path, {}) | files for path, files in study.items()}
    write(file, old | new)


def rows(run: Path) -> dict[str, bytes]:
    """The files of a run that are packed, as far as there are any."""
    return {name: (run / name).read_bytes() for name in ROWS if (run / name).is_file()}


def gather(folder: Path) -> tuple[Study, list[Path]]:
    """The study in a folder, and the files that are no part of one.

    Raises:
      ValueError: there is nothing to pack in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    study: Study = {}
    others = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file.name not in PACKED:
            others.append(file)
            continue
        path = file.parent.relative_to(folder).as_posix()
        study.setdefault(path, {})[file.name] = file.read_bytes()
    if not study:
        raise ValueError(f"{folder} holds no {', '.join(PACKED)}")
    return study, others


def unpack(file: Path, folder: Path) -> Study:
    """Writes the files of an archive to a new or an empty folder.

    Raises:
      ValueError: the archive is damaged, a path in it leads out of the folder, or there
        is something in the folder; nothing has been written then.
    """
    study = read(file)
    for path, files in study.items():
        if bad := [name for name in files if not _stays_inside(path, name)]:
            what = f"{path}/{bad[0]} leads out of the folder"
            raise ValueError(f"{file}: {what}; nothing was unpacked: do not trust it")
    if folder.exists() and next(folder.iterdir(), None):
        raise ValueError(f"{folder} is not empty; give a new folder to unpack to")
    for path, files in study.items():
        (folder / path).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / path / name).write_bytes(content)
    return study


def _stays_inside(path: str, name: str) -> bool:
    """Whether a file of this name in this path below a folder is in the folder."""
    below = not Path(path).anchor and ".." not in Path(path).parts
    plain = Path(name).name == name and name not in ("", "..")
    return below and plain and "\0" not in path + name


@functools.cache
def unpacked(study: str) -> Path:
    """A study of `RESULTS` as folders, which are there until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="hyperdyn_jax_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    unpack(RESULTS / f"{study}{SUFFIX}", folder)
    return folder


# Commands ----------------------------------------------------------------------------


def _pack_command(folder: Path, file: Path) -> None:
    study, others = gather(folder)
    write(file, study)
    print(f"{file}: {_counted(study)}")
    if others:
        what = "neither rows of a run nor the record of a machine"
        print(f"left out: {len(others)} files, such as {others[0]}: {what}")


def _unpack_command(file: Path, folder: Path, schedules: bool) -> None:
    study = unpack(file, folder)
    print(f"{folder}: {_counted(study)}")
    if schedules:
        for path, files in study.items():
            if "metrics.jsonl" in files:
                schedule = _schedule(files["metrics.jsonl"])
                (folder / path / "schedule.json").write_bytes(schedule)


def _schedule(metrics: bytes) -> bytes:
    """The schedule.json that a run with these rows has."""
    from hyperdyn_jax.strategies.learned_schedule import to_schedule  # which brings JAX

    schedule = to_schedule([json.loads(row) for row in metrics.splitlines()])
    return (json.dumps(schedule, indent=1) + "\n").encode()


def _verify_command(files: Sequence[Path]) -> None:
    """Every damaged archive is told, not only the first."""
    damages = []
    for file in files or sorted(RESULTS.glob(f"*{SUFFIX}")):
        try:
            print(f"{file}: {_counted(read(file))}, every digest is right")
        except (ValueError, OSError) as error:
            damages.append(_in_words(error))
    if damages:
        raise ValueError("\n".join(damages))


def _counted(study: Study) -> str:
    runs = sum(ROWS[0] in files for files in study.values())
    return f"{runs} runs, {sum(map(len, study.values()))} files"


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'cannot write'}: {error.strerror}"
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, about: str, run: Callable[..., None]) -> Any:
        one = commands.add_parser(name, help=about, description=about)
        one.set_defaults(run=run)
        return one.add_argument

    verify = command("verify", "checks every digest", _verify_command)
    every = "all of benchmarks/results if none"
    verify("files", type=Path, metavar="FILE", nargs="*", help=every)
    unpack = command("unpack", "writes the runs of an archive", _unpack_command)
    unpack("file", type=Path, metavar="FILE", help="archive of a study")
    new = "new or empty folder to write to"
    unpack("folder", type=Path, metavar="FOLDER", help=new)
    about = "also writes schedule.json of every run, which replay needs"
    unpack("--schedules", action="store_true", help=about)
    pack = command("pack", "makes an archive of a folder of runs", _pack_command)
    pack("folder", type=Path, metavar="FOLDER", help="folder of runs")
    replaced = "archive to write; one that is there is replaced"
    pack("file", type=Path, metavar="FILE", help=replaced)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 with a line for each problem."""
    options = vars(_parser().parse_args(argv))
    run = options.pop("run")
    try:
        run(**options)
    except (ValueError, OSError) as error:
        for line in _in_words(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
