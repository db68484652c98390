"""Prepares CIFAR-10 or ImageNet, once; the only program here that needs TensorFlow.

    pip install 'hyperdyn_jax[prepare]'
    python -m hyperdyn_jax.prepare cifar10 --data_dir=DIR
    python -m hyperdyn_jax.prepare imagenet --data_dir=DIR --manual_dir=TARS
    python -m hyperdyn_jax.prepare imagenet --data_dir=DIR --from_tfrecord

CIFAR-10 is downloaded (170 MB). ImageNet's two archives have to be downloaded by hand
from https://image-net.org (145 GB, and room for as much again). A data set that TFDS
prepared as TFRecord before is converted in its folder, beside what is there.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hyperdyn_jax import records
from hyperdyn_jax.records import DataError

# Of each data set: the number of classes, and the splits that training uses.
SPLITS = {
    "cifar10": (10, ("train", "test")),
    "imagenet": (1000, ("train", "validation")),
}

ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")

_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares what the command line names; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        prepare(args.dataset, args.data_dir, args.manual_dir, args.from_tfrecord)
        sizes = _check(args.dataset, args.data_dir)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return _BAD_INPUT
    print(f"{args.dataset} is ready in {args.data_dir}: {sizes}")
    return 0


def prepare(
    name: str, data_dir: str, manual_dir: str | None = None, from_tfrecord: bool = False
) -> None:
    """Writes a data set as ArrayRecord, unless it is there already.

    Args:
      name: 'cifar10' or 'imagenet'.
      data_dir: the TFDS `data_dir` to prepare it in.
      manual_dir: of ImageNet's archives; data_dir/downloads/manual by default.
      from_tfrecord: convert the copy that is in data_dir as TFRecord.

    Raises:
      DataError: TensorFlow or what is to be converted or prepared is not there.
    """
    _import("tensorflow")
    if from_tfrecord:
        _convert(records.find(name, data_dir))
    elif not _is_there(name, data_dir):
        manual = Path(manual_dir or Path(data_dir, "downloads", "manual"))
        missing = [file for file in ARCHIVES if not (manual / file).is_file()]
        if name == "imagenet" and missing:
            raise DataError(
                f"ImageNet's {' and '.join(missing)} must be in {manual} (or another "
                f"folder that --manual_dir names); get them from https://image-net.org"
            )
        _generate(name, data_dir, manual)


def _generate(name: str, data_dir: str, manual: Path) -> None:
    tfds = _import("tensorflow_datasets")
    builder = tfds.builder(
        records.NAMES[name], data_dir=data_dir, file_format="array_record"
    )
    settings = tfds.download.DownloadConfig(manual_dir=manual)
    builder.download_and_prepare(download_config=settings)


def _convert(folder: Path) -> None:
    utils = _import("tensorflow_datasets.scripts.cli.convert_format_utils")
    utils.convert_dataset(
        out_dir=None, out_file_format="array_record", dataset_version_dir=str(folder)
    )


def _is_there(name: str, data_dir: str) -> bool:
    """Raises DataError where it is, but not whole: nothing is deleted unasked."""
    try:
        records.find(name, data_dir)
    except DataError:
        return False
    _check(name, data_dir)
    return True


def _check(name: str, data_dir: str) -> str:
    """The sizes of the splits, if they are whole."""
    classes, splits = SPLITS[name]
    opened = records.open_splits(name, data_dir, classes, splits)
    return ", ".join(
        f"{len(split)} in split {split_name!r}"
        for split_name, split in zip(splits, opened, strict=True)
    )


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"preparing data needs {module.partition('.')[0]}, once; install it with: "
            f"pip install 'hyperdyn_jax[prepare]'"
        ) from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as every program here reports bad input."""
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(_BAD_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m hyperdyn_jax.prepare",
        description="Prepares a data set as ArrayRecord, once; needs TensorFlow.",
    )
    parser.add_argument("dataset", choices=sorted(SPLITS))
    parser.add_argument("--data_dir", required=True, help="the TFDS folder to write to")
    parser.add_argument("--manual_dir", help="the folder of ImageNet's archives")
    parser.add_argument(
        "--from_tfrecord",
        action="store_true",
        help="convert the TFRecord copy in data_dir",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
