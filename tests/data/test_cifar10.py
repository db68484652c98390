"""CIFAR-10 as TFDS keeps it: what is read, how it is split, and what can be wrong."""

import io
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tfds_fixture
from paths import ROOT
from PIL import Image

from hyperdyn_jax.data import cifar10, dataset, tfds_records
from hyperdyn_jax.data.augment import PadCropFlip

REAL = ROOT.parent / "shared" / "data" / "tfds"
NAMES = ("train", "validation", "test")
SPLIT_SIZES = {"batch_size": 32, "eval_batch_size": 16}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar")
    tfds_fixture.write_cifar10(folder)
    return folder


@pytest.fixture(scope="module")
def small(data_dir):
    return cifar10.cifar10(data_dir)


@pytest.fixture(scope="module")
def real():
    if not REAL.is_dir():
        pytest.skip("there is no copy of CIFAR-10 beside the repository")
    began = time.perf_counter()
    return cifar10.cifar10(REAL), time.perf_counter() - began


def pillow(file):
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def test_images_are_decoded_as_pillow_does(data_dir):
    train, test = tfds_records.open_splits("cifar10", data_dir, 10, ["train", "test"])
    for split, examples in (
        (train, tfds_fixture.cifar_examples(300, 0)),
        (test, tfds_fixture.cifar_examples(60, 1)),
    ):
        (images, labels), good = cifar10.load(split, tfds_records.Skips())
        assert good.all()
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert labels.tolist() == [example["label"] for example in examples]
        for image, example in zip(images, examples, strict=True):
            assert np.array_equal(image, pillow(example["image"]))


def test_a_fixed_tenth_of_the_training_images_validates(small, data_dir):
    assert [len(small[name].labels) for name in NAMES] == [270, 30, 60]
    together = [image.tobytes() for name in NAMES for image in small[name].images]
    every = tfds_fixture.cifar_examples(300, 0) + tfds_fixture.cifar_examples(60, 1)
    assert sorted(together) == sorted(pillow(e["image"]).tobytes() for e in every)
    again = cifar10.cifar10(data_dir)
    for name in NAMES:
        assert np.array_equal(small[name].images, again[name].images)


@pytest.mark.parametrize("devices", [1, 4])
def test_every_epoch_visits_every_training_example_once(small, devices):
    parts = small | {"train": dataset.Split(*(x[:268] for x in small["train"]))}
    source = dataset.ArrayDataset(**parts, **SPLIT_SIZES, devices=devices, seed=0)
    steps = source.steps_per_epoch
    for epoch in range(3):
        batches = [source.train_batch(epoch * steps + i) for i in range(steps)]
        visited = np.concatenate([batch.examples for batch in batches])
        assert sorted(visited) == list(range(268))
        assert all(len(batch.examples) % devices == 0 for batch in batches)


def reference(image, offset, mirror, pad, fill):
    """Pad, crop and flip in NumPy."""
    padded = np.stack(
        [
            np.pad(channel, pad, constant_values=value)
            for channel, value in zip(np.moveaxis(image, -1, 0), fill, strict=True)
        ],
        axis=-1,
    )
    height, width, _ = image.shape
    top, left = offset
    cropped = padded[top : top + height, left : left + width]
    return cropped[:, ::-1] if mirror else cropped


@pytest.mark.parametrize(("pad", "size"), [(4, 32), (2, 16)])
def test_augmentation_equals_a_numpy_reference(pad, size):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (512, size, size, 3)).astype(np.float32)
    augment = PadCropFlip(pad, (125.25, 122.5, 113.75))
    keys = jax.random.split(jax.random.key(1), len(images))
    augmented = np.asarray(jax.jit(jax.vmap(augment))(keys, images))
    offsets, mirrored = map(np.asarray, jax.vmap(augment.draw)(keys))
    for i, image in enumerate(images):
        expected = reference(image, offsets[i], mirrored[i], pad, augment.fill)
        assert np.array_equal(augmented[i], expected)
    # Every offset occurs, and either side of the mirror about as often.
    assert {*offsets.ravel()} == set(range(2 * pad + 1))
    assert 200 < mirrored.sum() < 312


def test_the_border_is_the_mean_colour_of_the_training_images(small):
    source = dataset.ArrayDataset(**small, **SPLIT_SIZES, devices=1, seed=0)
    keys = jax.random.split(jax.random.key(0), 64)
    tops = np.asarray(jax.vmap(small["augment"].draw)(keys)[0])[:, 0]
    images = source.load(source.resident("train"), np.arange(64), keys).images
    borders = [
        image[: max(0, 4 - top)] for image, top in zip(images, tops, strict=True)
    ]
    assert max(len(border) for border in borders) == 4
    np.testing.assert_allclose(np.concatenate(borders), 0, atol=1e-6)


def test_without_padding_nothing_is_augmented(data_dir):
    assert cifar10.cifar10(data_dir, pad=0)["augment"] is None


def test_the_twin_is_the_head_of_each_split_at_half_the_size(small, data_dir):
    twin = cifar10.cifar10_twin(data_dir, sizes=(100, 20, 50))
    assert twin["augment"].pixels == 2
    for name, size in zip(NAMES, (100, 20, 50), strict=True):
        images, labels = twin[name]
        assert images.shape == (size, 16, 16, 3)
        assert images.dtype == np.uint8
        blocks = small[name].images.reshape(-1, 16, 2, 16, 2, 3)
        halves, whole = blocks.mean((2, 4)), small[name].labels
        chosen = np.arange(size)
        if name == "test":
            chosen = np.random.RandomState(0).permutation(60)[:50]
        assert np.abs(images - halves[chosen]).max() <= 0.5
        assert labels.tolist() == whole[chosen].tolist()
    with pytest.raises(
        tfds_records.DataError, match="'validation' has 30 images, the twin"
    ):
        cifar10.cifar10_twin(data_dir, sizes=(100, 31, 50))


def test_the_real_copy_is_whole_and_fast_to_load(real):
    parts, seconds = real
    assert seconds < 60
    assert [len(parts[name].labels) for name in NAMES] == [45000, 5000, 10000]
    counts = {name: np.bincount(parts[name].labels) for name in NAMES}
    assert (counts["train"] + counts["validation"]).tolist() == [5000] * 10
    assert counts["test"].tolist() == [1000] * 10
    assert counts["validation"].min() > 400
    # Known means and deviations of CIFAR-10's training images, on [0, 1].
    mean, deviation = dataset.moments(parts["train"].images)
    np.testing.assert_allclose(mean / 255, [0.4914, 0.4822, 0.4465], atol=2e-3)
    np.testing.assert_allclose(deviation / 255, [0.2470, 0.2435, 0.2616], atol=3e-3)
    test = tfds_records.open_splits("cifar10", REAL, 10, ["test"])[0]
    for i in (0, 17, 9999):
        assert np.array_equal(parts["test"].images[i], pillow(test[i].image))


def test_moments_are_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (1234, 5, 4, 3), dtype=np.uint8)
    mean, deviation = dataset.moments(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(deviation, images.std((0, 1, 2)), rtol=1e-6)


COMMAND = "python -m hyperdyn_jax.prepare cifar10 --data_dir={}"


def refused(data_dir):
    """The one line that says why a folder is not taken."""
    with pytest.raises(tfds_records.DataError) as caught:
        cifar10.cifar10(data_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_data_name_the_command_that_prepares_them(tmp_path):
    assert refused(tmp_path).endswith(COMMAND.format(tmp_path))
    spaced = tmp_path / "my data"
    assert refused(spaced).endswith(COMMAND.format(f"'{spaced}'"))
    assert "needs data_dir" in refused("")


def test_an_unfinished_preparation_is_no_data_set(tmp_path):
    folder = tfds_fixture.write_cifar10(tmp_path)
    folder.rename(folder.with_name("incomplete.A1B2C3_3.0.2"))
    line = refused(tmp_path)
    assert "only unfinished cifar10" in line
    assert line.endswith(COMMAND.format(tmp_path))


def test_the_newest_version_is_read(tmp_path):
    folder = tfds_fixture.write_cifar10(tmp_path)
    for version in ("3.0.10", "notes"):
        other = folder.with_name(version)
        other.mkdir()
        (other / "dataset_info.json").write_text("{}")
    assert tfds_records.find("cifar10", tmp_path).name == "3.0.10"


def test_damaged_descriptions_and_missing_shards_are_named(tmp_path):
    folder = tfds_fixture.write_cifar10(tmp_path)
    shard = folder / "cifar10-test.array_record-00001-of-00003"
    content = shard.read_bytes()
    shard.unlink()
    assert f"is not whole, {shard.name} is missing" in refused(tmp_path)
    shard.write_bytes(content)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text()[:40])
    line = refused(tmp_path)
    assert "the description of cifar10" in line
    assert line.endswith(COMMAND.format(tmp_path))


def test_data_stored_as_tfrecord_name_the_command_that_converts_them(tmp_path):
    folder = tfds_fixture.write_cifar10(tmp_path)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    line = refused(tmp_path)
    assert "stored as tfrecord" in line
    assert line.endswith(COMMAND.format(tmp_path) + " --from_tfrecord")


def test_other_classes_are_refused(tmp_path):
    tfds_fixture.write_cifar10(tmp_path, classes=100)
    assert "has 100 classes, cifar10 has 10" in refused(tmp_path)


def with_bad(tmp_path, change):
    """CIFAR-10 with ten training images of which the eighth, in shard 2, is changed."""
    examples = tfds_fixture.cifar_examples(10, 0)
    examples[7] = examples[7] | change
    tfds_fixture.write_cifar10(tmp_path, train=examples)
    return refused(tmp_path)


PLACE = "split 'train', shard cifar10-train.array_record-00002-of-00003, record 1: "


def large():
    return tfds_fixture.encode(np.zeros((40, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image": b"no image"}, "the image cannot be decoded"),
        ({"image": b""}, "the image cannot be decoded"),
        ({"image": large()[:-20]}, "the image cannot be decoded"),
        ({"image": large()}, "the image has 40x32 pixels, must have 32x32"),
    ],
)
def test_bad_images_are_named_with_their_place(tmp_path, change, problem):
    assert with_bad(tmp_path, change) == PLACE + problem


def test_labels_out_of_range_are_named_with_their_place(tmp_path):
    examples = tfds_fixture.cifar_examples(10, 0)
    examples[7]["label"] = 10  # for which TFDS has to be told of more classes
    folder = tfds_fixture.write_cifar10(tmp_path, train=examples, classes=11)
    features = folder / "features.json"
    features.write_text(features.read_text().replace('"11"', '"10"'))
    assert refused(tmp_path) == PLACE + "label 10 is out of range, must be in 0..9"


def test_a_damaged_record_is_named_with_its_place(tmp_path):
    folder = tfds_fixture.write_cifar10(tmp_path)
    shard = folder / "cifar10-train.array_record-00001-of-00003"
    content = bytearray(shard.read_bytes())
    position = len(content) // 4
    content[position] ^= 1
    shard.write_bytes(content)
    line = refused(tmp_path)
    assert f"split 'train', shard {shard.name}, record " in line
    assert "cannot be read: Corrupted" in line
    shard.write_bytes(b"")
    assert f"shard {shard.name}, record 0: cannot be read" in refused(tmp_path)


def test_a_record_without_its_fields_is_named_with_its_place(tmp_path):
    examples = tfds_fixture.cifar_examples(10, 0)
    examples[7] = b"\n\x00"  # a tf.train.Example of nothing
    tfds_fixture.write_cifar10(tmp_path, train=examples)
    assert refused(tmp_path).startswith(PLACE + "has no image")


def test_an_empty_split_is_refused(tmp_path):
    tfds_fixture.write_cifar10(tmp_path, test=[])
    assert "split 'test' of cifar10" in refused(tmp_path)
    assert "is empty" in refused(tmp_path)


def test_a_batch_larger_than_the_split_is_refused(small):
    with pytest.raises(ValueError, match=r"at most .*got 512 for 270 examples"):
        dataset.ArrayDataset(
            **small, batch_size=512, eval_batch_size=16, devices=1, seed=0
        )


def test_packages_that_are_not_installed_are_named(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    line = refused(data_dir)
    assert "needs the package tensorflow-datasets" in line
    assert line.endswith("; install it with: pip install tensorflow-datasets")


def test_a_system_without_the_reader_is_told_in_one_line(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record", None)
    assert refused(data_dir).endswith("pip install array-record")
    monkeypatch.setattr(sys, "platform", "win32")
    line = refused(data_dir)
    assert "needs the package array-record" in line
    assert line.endswith("there is none for Windows: use Linux, macOS or WSL")


SCRIPT = """
import sys
from hyperdyn_jax.data import cifar10, dataset
parts = cifar10.cifar10({data_dir!r})
source = dataset.ArrayDataset(
    **parts, batch_size=32, eval_batch_size=32, devices=1, seed=0
)
source.load(source.resident("train"), source.train_batch(0).examples, None)
assert "tensorflow_datasets" in sys.modules
assert "tensorflow" not in sys.modules
"""


def test_tensorflow_is_not_imported(data_dir, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('it was')")
    script = SCRIPT.format(data_dir=str(data_dir))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
