"""Prepares CIFAR-10 or ImageNet, once; the only program here that uses TensorFlow.

    pip install -e ".[prepare]"     in a copy of the repository
    python -m hyperdyn_jax.prepare cifar10 --data_dir=DIR
    python -m hyperdyn_jax.prepare imagenet --data_dir=DIR --manual_dir=TARS
    python -m hyperdyn_jax.prepare imagenet --data_dir=DIR --from_tfrecord

CIFAR-10 is downloaded (170 MB). ImageNet's two archives, ILSVRC2012_img_train.tar and
ILSVRC2012_img_val.tar, have to be downloaded by hand from https://image-net.org (145
GB, and room for as much again). A data set that TFDS prepared as TFRecord before is
converted in its folder, beside what is there; that works without TensorFlow, and after
a stop the same command goes on with it.
"""

import importlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hyperdyn_jax.data import tfds_records
from hyperdyn_jax.data.tfds_records import DataError
from hyperdyn_jax.run import arguments
from hyperdyn_jax.run.arguments import Parser
from hyperdyn_jax.system import errors, files, process

# Of each data set: the number of classes, and the splits that training uses.
SPLITS = {
    "cifar10": (10, ("train", "test")),
    "imagenet": (1000, ("train", "validation")),
}

ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares what the command line names; returns the exit code."""
    process.begin()
    options = _parser().parse_args(argv)

    def command() -> None:
        name, data_dir = options.dataset, options.data_dir
        prepare(name, data_dir, options.manual_dir, options.from_tfrecord)
        print(f"{name} is ready in {data_dir}: {_check(name, data_dir)}")

    return arguments.exit_code(command)


def prepare(
    name: str,
    data_dir: str | Path,
    manual_dir: str | Path | None = None,
    from_tfrecord: bool = False,
) -> None:
    """Writes a data set as ArrayRecord, unless it is there already.

    Args:
      name: 'cifar10' or 'imagenet'.
      data_dir: the TFDS `data_dir` to prepare it in.
      manual_dir: of ImageNet's archives; data_dir/downloads/manual by default.
      from_tfrecord: convert the copy that is in data_dir as TFRecord.

    Raises:
      DataError: what it needs is not there, or it went wrong.
    """
    if why := files.unwritable(Path(data_dir)):
        raise DataError(f"--data_dir={data_dir} cannot be written: {why}")
    if from_tfrecord:
        convert(tfds_records.find(name, data_dir))
    elif not _is_there(name, data_dir):
        manual = Path(manual_dir or Path(data_dir, "downloads", "manual"))
        missing = [file for file in ARCHIVES if not (manual / file).is_file()]
        if name == "imagenet" and missing:
            raise DataError(
                f"ImageNet's {' and '.join(missing)} must be in {manual} (or another "
                f"folder that --manual_dir names); get them from https://image-net.org"
            )
        _generate(name, data_dir, manual)


def convert(folder: Path) -> None:
    """Adds ArrayRecord shards to a data set that TFDS stored as TFRecord.

    Args:
      folder: <data_dir>/<name>/<version>.

    Raises:
      DataError: there is nothing to convert, or a record is damaged.
    """
    shards = sorted(folder.glob("*.tfrecord-*"))
    if not shards:
        raise DataError(f"there are no TFRecord shards to convert in {folder}")
    # Told last: until then the data set is as it was.
    description = folder / "dataset_info.json"
    info = _description(description)
    for number, source in enumerate(shards, 1):
        name = source.name.replace(".tfrecord-", ".array_record-")
        if not (folder / name).exists():
            _write(folder / f"{name}.incomplete", read_tfrecord(source))
            (folder / f"{name}.incomplete").replace(folder / name)
        print(f"{number} of {len(shards)} shards converted", flush=True)
    formats = {*info.get("alternativeFileFormats", []), "array_record"}
    info["alternativeFileFormats"] = sorted(formats - {info.get("fileFormat")})
    new = description.with_suffix(".incomplete")
    new.write_text(json.dumps(info, indent=2))
    new.replace(description)


def read_tfrecord(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file.

    Each has a u64 length, u32 checksum of it, the data, u32 checksum of them:
    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.

    Raises:
      DataError: a checksum is wrong or the file ends too soon, naming the record.
    """
    crc32c = _import("google_crc32c")

    def masked(data: bytes) -> int:
        crc = crc32c.value(data)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    with path.open("rb") as file:
        for number in itertools.count():
            head = file.read(12)
            if not head:
                return
            whole = len(head) == 12 and masked(head[:8]) == _u32(head[8:])
            data = file.read(int.from_bytes(head[:8], "little")) if whole else b""
            if not whole or masked(data) != _u32(file.read(4)):
                raise DataError(f"{path}, record {number}: damaged or cut off")
            yield data


def _u32(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _description(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(info, dict):
        raise DataError(f"{path} is not a description of a data set")
    return info


def _write(path: Path, contents: Iterable[bytes]) -> None:
    module = tfds_records.import_package("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")  # as TFDS does
    for record in contents:
        writer.write(record)
    writer.close()


def _generate(name: str, data_dir: str | Path, manual: Path) -> None:
    _import("tensorflow")
    tfds = _import("tensorflow_datasets")
    try:
        builder = tfds.builder(
            tfds_records.NAMES[name], data_dir=data_dir, file_format="array_record"
        )
        settings = tfds.download.DownloadConfig(manual_dir=manual)
        builder.download_and_prepare(download_config=settings)
    except Exception as error:  # of the network, of the archives, a full disk
        line = f"{name} could not be prepared: {errors.first_line(error)}"
        raise DataError(line) from error


def _is_there(name: str, data_dir: str | Path) -> bool:
    """Raises DataError where it is, but not whole: nothing is deleted unasked."""
    try:
        tfds_records.find(name, data_dir)
    except DataError:
        return False
    _check(name, data_dir)
    return True


def _check(name: str, data_dir: str | Path) -> str:
    """The sizes of the splits, if they are whole."""
    classes, splits = SPLITS[name]
    opened = tfds_records.open_splits(name, data_dir, classes, splits)
    return ", ".join(
        f"{len(split)} in split {split_name!r}"
        for split_name, split in zip(splits, opened, strict=True)
    )


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"preparing data needs the package of {module}, once; install it with: "
            f'pip install -e ".[prepare]"'
        ) from error


def _parser() -> Parser:
    parser = Parser("prepare", __doc__)
    names = sorted(SPLITS)
    listed = " or ".join(names)
    parser.add_argument("dataset", choices=names, metavar="DATASET", help=listed)
    parser.option("data_dir", "they are written there", required=True)
    parser.add_argument(
        "--manual_dir",
        type=arguments.path,
        metavar="DIR",
        help="folder of ImageNet's archives; DATA_DIR/downloads/manual by default",
    )
    parser.add_argument(
        "--from_tfrecord",
        action="store_true",
        help="convert the TFRecord copy in --data_dir",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
