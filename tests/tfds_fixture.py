"""Small data sets in TFDS' own format on disk, written without TensorFlow."""

import io
import itertools
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image


def encode(image, kind="JPEG", mode="RGB", **settings):
    """u8[h, w, 3] as a file of one of Pillow's kinds and colour modes."""
    buffer = io.BytesIO()
    Image.fromarray(image).convert(mode).save(buffer, kind, **settings)
    return buffer.getvalue()


def picture(rng, height, width):
    """Smooth noise, u8[h, w, 3]: what JPEG keeps well."""
    noise = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.BICUBIC))


def cifar_examples(count, seed):
    """count examples of 32x32 pixels, every other a PNG, and their pixels."""
    rng = np.random.default_rng(seed)
    pixels = [picture(rng, 32, 32) for _ in range(count)]
    files = [encode(x, "JPEG" if i % 2 else "PNG") for i, x in enumerate(pixels)]
    return [
        {"image": file, "label": i % 10, "id": f"example_{i}"}
        for i, file in enumerate(files)
    ]


def write_cifar10(data_dir, train=None, test=None, classes=10):
    """CIFAR-10 with 300 training and 60 test images, or with the examples given."""
    features = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(num_classes=classes),
        }
    )
    splits = {
        "train": cifar_examples(300, 0) if train is None else train,
        "test": cifar_examples(60, 1) if test is None else test,
    }
    return write(Path(data_dir, "cifar10", "3.0.2"), features, splits)


SIZES = [
    (375, 500),
    (500, 375),
    (60, 80),
    (700, 120),
    (64, 64),
    (333, 250),
    (500, 500),
    (32, 300),
    (90, 61),
    (1000, 900),
    (224, 224),
    (256, 257),
]


def imagenet_examples(count, seed):
    """count examples of varied sizes, numbered by their labels.

    The third is grey and the fourth CMYK.
    """
    rng = np.random.default_rng(seed)
    modes = {2: "L", 3: "CMYK"}
    return [
        {
            "image": encode(
                picture(rng, *SIZES[i % len(SIZES)]), mode=modes.get(i, "RGB")
            ),
            "label": i % 1000,
            "file_name": f"n{i:08}_{seed}.JPEG",
        }
        for i in range(count)
    ]


def write_imagenet(data_dir, train=None, validation=None):
    """ImageNet with 120 training and 14 validation images, or with those given."""
    features = tfds.features.FeaturesDict(
        {
            "file_name": tfds.features.Text(),
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=1000),
        }
    )
    splits = {
        "train": imagenet_examples(120, 0) if train is None else train,
        "validation": imagenet_examples(14, 1) if validation is None else validation,
    }
    return write(Path(data_dir, "imagenet2012", "5.1.0"), features, splits)


def write(folder, features, splits, shards=3):
    """A data set: `shards` files a split, and what TFDS tells about them.

    Args:
      folder: <data_dir>/<name>/<version>.
      features: TFDS features.
      splits: lists of examples with encoded images; bytes are a record as it is.
    """
    folder.mkdir(parents=True)
    infos = []
    for split, examples in splits.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=folder.parent.name,
            split=split,
            filetype_suffix="array_record",
        )
        ends = [len(examples) * i // shards for i in range(shards + 1)]
        parts = [examples[a:b] for a, b in itertools.pairwise(ends)]
        for i, part in enumerate(parts):
            path = template.sharded_filepath(shard_index=i, num_shards=shards)
            _write_shard(path, features, part)
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(part) for part in parts],
                num_bytes=0,
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=infos, check_data=False
    )
    return folder


def _write_shard(path, features, examples):
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for example in examples:
        raw = isinstance(example, bytes)
        writer.write(example if raw else features.serialize_example(example))
    writer.close()
