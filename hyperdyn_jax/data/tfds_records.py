"""Data sets of tensorflow-datasets on disk: found, checked and read by number.

TFDS keeps a data set in DIR/<name>/<version>/: dataset_info.json and features.json say
what is in the ArrayRecord shards <name>-<split>.array_record-00000-of-00001 and so on,
whose records are serialised tf.train.Example protos. Only preparing them needs
TensorFlow (`hyperdyn_jax.prepare`); nothing here imports it.
"""

import bisect
import contextlib
import importlib
import io
import itertools
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hyperdyn_jax.system.errors import first_line

if TYPE_CHECKING:  # other data do without it
    from PIL import Image

# What TFDS calls the data sets.
NAMES = {"cifar10": "cifar10", "imagenet": "imagenet2012"}

FORMATS = ("JPEG", "PNG")  # of images, as Pillow calls them


class DataError(ValueError):
    """Data that are missing, unfinished or damaged: one line that names them."""


class Skips:
    """Bad records that a run does without, up to a limit.

    Args:
      limit: how many; with 0 the first one ends the run.

    Attributes:
      lines: what is wrong with each, with its place; in the order they were met.
    """

    def __init__(self, limit: int = 0):
        self.limit, self._told = limit, 0
        self.lines: list[str] = []

    @contextlib.contextmanager
    def spare(self) -> Iterator[None]:
        """Leaves out what raises DataError in it.

        Raises:
          DataError: it is one too many.
        """
        try:
            yield
        except DataError as error:
            self.add(str(error))

    def add(self, line: str) -> None:
        """Counts a bad record, unless it was counted before.

        Raises:
          DataError: with the line, if it is one too many.
        """
        if line in self.lines:
            return
        if len(self.lines) >= self.limit:
            one_more = f" (one more than skip_bad_records={self.limit} leaves out)"
            raise DataError(line + one_more * bool(self.limit))
        self.lines.append(line)

    def news(self) -> list[str]:
        """The lines since it was last asked for."""
        told, self._told = self._told, len(self.lines)
        return self.lines[told:]

    def resume(self, lines: Iterable[str]) -> None:
        """Goes on where another process was; what it had counted is no news.

        Raises:
          DataError: the records that were met here already are too many with them.
        """
        here, self.lines = self.lines, list(lines)
        self._told = len(self.lines)
        for line in here:
            self.add(line)


class Example(NamedTuple):
    """One record, its image still encoded.

    image: a JPEG or PNG file. label: class number. place: of the record, in words.
    """

    image: bytes
    label: int
    place: str


class Records:
    """Examples of a split, read from disk when they are asked for.

    It is a Grain data source: `len(records)`, `records[i]`, and it can be sent to other
    processes.

    Args:
      source: TFDS data source of the whole split, with images left encoded.
      split: its name.
      shards: (file name, number of records) of each of its shards.
      classes: number of labels.
      numbers: i32[n], the records of the split that belong to it; all by default.

    Attributes:
      shards: their file names.
    """

    def __init__(
        self,
        source: Any,
        split: str,
        shards: Sequence[tuple[str, int]],
        classes: int,
        numbers: np.ndarray | None = None,
    ):
        self._source, self._split, self._classes = source, split, classes
        self.shards = [name for name, _ in shards]
        self._ends = list(itertools.accumulate(count for _, count in shards))
        self._numbers = np.arange(self._ends[-1]) if numbers is None else numbers

    def subset(self, numbers: np.ndarray) -> "Records":
        """Some of the records. numbers: i32[n], positions among those here."""
        ends = [0, *self._ends]
        counts = (high - low for low, high in itertools.pairwise(ends))
        shards = list(zip(self.shards, counts, strict=True))
        chosen = self._numbers[numbers].astype(np.int32)
        return Records(self._source, self._split, shards, self._classes, chosen)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example:
        number = int(self._numbers[index])
        try:
            return self._example(number, self._source[number])
        except DataError:
            raise
        except Exception as error:  # the readers raise RuntimeError, KeyError, ...
            raise self._unreadable(number, error) from error

    def read(self, indices: Iterable[int]) -> list[Example]:
        """Many records, much faster than one by one."""
        indices = list(indices)
        numbers = [int(self._numbers[index]) for index in indices]
        try:
            features = self._source.__getitems__(numbers)
        except Exception:
            # Says only that something is wrong: look for the record.
            return [self[index] for index in indices]
        return list(map(self._example, numbers, features))

    def read_good(self, indices: Iterable[int], skips: Skips) -> dict[int, Example]:
        """Many records by their positions, without the bad ones, which are counted."""
        indices = list(indices)
        try:
            return dict(zip(indices, self.read(indices), strict=True))
        except DataError:
            found = {}
            for index in indices:
                with skips.spare():
                    found[index] = self[index]
            return found

    def _example(self, number: int, features: dict[str, Any]) -> Example:
        image, label, place = features["image"], features["label"], self._place(number)
        if image is None or label is None:
            raise DataError(f"{place}: has no image or no label")
        if not 0 <= label < self._classes:
            raise DataError(
                f"{place}: label {label} is out of range, must be in "
                f"0..{self._classes - 1}"
            )
        return Example(image, label, place)

    def _unreadable(self, number: int, error: Exception) -> DataError:
        return DataError(f"{self._place(number)}: cannot be read: {first_line(error)}")

    def place(self, index: int) -> str:
        """Of a record, in words."""
        return self._place(int(self._numbers[index]))

    def _place(self, number: int) -> str:
        shard = bisect.bisect_right(self._ends, number)
        index = number - (self._ends[shard - 1] if shard else 0)
        return f"split {self._split!r}, shard {self.shards[shard]}, record {index}"


def open_splits(
    name: str, data_dir: str | Path, classes: int, splits: Sequence[str]
) -> list[Records]:
    """Finds a prepared data set and checks that it is whole; reads no record.

    Args:
      name: 'cifar10' or 'imagenet'.
      data_dir: the TFDS `data_dir` that it was prepared in.
      classes: number of labels.
      splits: the names of the splits in TFDS.

    Returns:
      Each split.

    Raises:
      DataError: it is missing or not whole, with the command that prepares it.
    """
    tfds = import_package("tensorflow_datasets")
    import_package("array_record")  # TFDS would ask for it in words of its own
    folder, again = find(name, data_dir), command(name, data_dir)
    again = f"delete that folder and prepare it again with: {again}"
    try:
        builder = tfds.builder_from_directory(folder)
        known = builder.info.features["label"].num_classes
        formats = {form.value for form in builder.info.available_file_formats()}
        sizes = {
            split: info.num_examples for split, info in builder.info.splits.items()
        }
    except Exception as error:
        raise DataError(
            f"the description of {name} in {folder} cannot be read "
            f"({first_line(error)}); {again}"
        ) from error
    if known != classes:
        raise DataError(f"{folder} has {known} classes, {name} has {classes}; {again}")
    for split in splits:
        if not sizes.get(split):
            raise DataError(f"split {split!r} of {name} in {folder} is empty; {again}")
    if "array_record" not in formats:
        raise DataError(
            f"{name} in {folder} is stored as {' and '.join(formats)}, which cannot be "
            f"read by number; convert it with: {command(name, data_dir)} "
            f"--from_tfrecord"
        )
    opened = [_open(builder, split, classes) for split in splits]
    for shard in itertools.chain.from_iterable(split.shards for split in opened):
        if not (folder / shard).is_file():
            raise DataError(
                f"{name} in {folder} is not whole, {shard} is missing; {again}"
            )
    return opened


def find(name: str, data_dir: str | Path) -> Path:
    """The folder of the newest prepared version of a data set.

    Raises:
      DataError: there is none, with the command that prepares it.
    """
    if not str(data_dir):
        raise DataError(
            f"{name} needs data_dir, the TFDS folder that it is prepared in; there, "
            f"prepare it with: {command(name, 'DIR')}"
        )
    parent = Path(data_dir).expanduser() / NAMES[name]
    found = [
        path.parent
        for path in parent.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    if not found:
        state = "only unfinished" if parent.is_dir() else "no"
        raise DataError(
            f"there is {state} {name} in {data_dir} (there is no "
            f"{parent}/<version>/dataset_info.json); prepare it with: "
            f"{command(name, data_dir)}"
        )
    return max(found, key=lambda path: [int(part) for part in path.name.split(".")])


def command(name: str, data_dir: str | Path) -> str:
    """The command line that prepares a data set."""
    folder = shlex.quote(str(data_dir))
    return f"python -m hyperdyn_jax.prepare {name} --data_dir={folder}"


def decode(example: Example) -> np.ndarray:
    """An image: u8[h, w, 3], red, green, blue; grey and CMYK ones are converted.

    Args:
      example: with a JPEG or PNG file.

    Raises:
      DataError: it cannot be decoded, with its place.
    """
    return np.asarray(load_image(example))


def load_image(example: Example, reduction: int = 1) -> "Image.Image":
    """An image in Pillow's form, as red, green and blue.

    It is not turned, whatever EXIF says; TensorFlow does not either.

    Args:
      example: with a JPEG or PNG file.
      reduction: 1, 2, 4 or 8, at most the height and width; they are divided by it
        and rounded up, which makes a JPEG much faster to decode.

    Raises:
      DataError: it cannot be decoded, with its place.
    """
    image = _open_image(example)
    try:
        if reduction > 1:
            whole = width, height = image.size
            image.draft(None, (width // reduction, height // reduction))  # JPEG alone
            if image.size == whole:
                image = image.reduce(reduction)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:
        raise DataError(f"{example.place}: the image cannot be decoded") from error


def image_size(example: Example) -> tuple[int, int]:
    """Height and width, from the head of the file alone.

    Raises:
      DataError: it is no image, with its place.
    """
    width, height = _open_image(example).size
    return height, width


def _open_image(example: Example) -> "Image.Image":
    """Reads the head of a file that has one of `FORMATS`."""
    opener = import_package("PIL.Image")
    try:
        opened: Image.Image = opener.open(io.BytesIO(example.image), "r", FORMATS)
    except Exception as error:
        raise DataError(f"{example.place}: the image cannot be decoded") from error
    return opened


def import_package(module: str) -> Any:
    """Imports what only these data sets need, when one of them is asked for.

    Raises:
      DataError: it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        name = {"PIL": "pillow"}.get(top, top.replace("_", "-"))
        mend = f"install it with: pip install {name}"
        if sys.platform == "win32" and name == "array-record":
            mend = "there is none for Windows: use Linux, macOS or WSL"
        raise DataError(
            f"reading CIFAR-10 or ImageNet needs the package {name}, which is not "
            f"installed; {mend}"
        ) from error


def _open(builder: Any, split: str, classes: int) -> Records:
    tfds = import_package("tensorflow_datasets")
    source = builder.as_data_source(
        split,
        decoders={"image": tfds.decode.SkipDecoding()},
        file_format="array_record",
    )
    instructions = builder.info.splits[split].file_instructions
    shards = [(Path(i.filename).name, i.take) for i in instructions]
    return Records(source, split, shards, classes)
