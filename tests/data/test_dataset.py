"""Splits, batches and the order of examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from hyperdyn_jax.data import dataset as data
from hyperdyn_jax.data.augment import PadCropFlip


def split(count, classes=3, start=0):
    images = np.arange(start, start + count, dtype=np.uint8)[:, None, None, None]
    return data.Split(
        np.broadcast_to(images, (count, 4, 4, 1)), np.arange(count) % classes
    )


def dataset(train=20, validation=7, batch_size=8, eval_batch_size=4, devices=1, **more):
    return data.ArrayDataset(
        split(train),
        split(validation),
        split(5),
        classes=3,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        devices=devices,
        seed=more.pop("seed", 0),
        **more,
    )


def epoch(source, number):
    steps = range(
        number * source.steps_per_epoch, (number + 1) * source.steps_per_epoch
    )
    return np.concatenate([source.train_batch(step).examples for step in steps])


@pytest.mark.parametrize("devices", [1, 4])
def test_every_epoch_visits_every_training_example_once(devices):
    source = dataset(devices=devices)
    epochs = [epoch(source, number) for number in range(3)]
    for order in epochs:
        assert sorted(order) == list(range(20))
    assert not np.array_equal(epochs[0], epochs[1])


def test_what_devices_cannot_share_waits_for_another_epoch():
    source = dataset(train=21, devices=4)
    orders = [epoch(source, number) for number in range(8)]
    assert all(len(set(order)) == len(order) == 20 for order in orders)
    assert set(np.concatenate(orders)) == set(range(21))


def test_batches_depend_on_seed_and_step_alone():
    once, again, other = dataset(), dataset(), dataset(seed=1)
    assert np.array_equal(once.train_batch(7).examples, again.train_batch(7).examples)
    assert not np.array_equal(epoch(once, 0), epoch(other, 0))


def test_evaluation_counts_every_example_once():
    batches = list(dataset().eval_batches("validation"))
    assert [len(batch.examples) for batch in batches] == [4, 4]
    counted = [b.examples[b.weights > 0] for b in batches]
    assert np.concatenate(counted).tolist() == list(range(7))
    assert batches[-1].weights.tolist() == [1, 1, 1, 0]


def test_images_are_normalised_by_the_training_split():
    source = dataset()
    everything = source.load(source.resident("train"), np.arange(20), None)
    assert everything.images.dtype == jnp.float32
    assert np.mean(everything.images) == pytest.approx(0, abs=1e-6)
    assert np.std(everything.images) == pytest.approx(1, rel=1e-6)
    assert everything.labels.tolist() == split(20).labels.tolist()


def test_augmentation_is_for_training_only():
    source = dataset(augment=lambda _, image: image + 1.0)
    keys = jax.random.split(jax.random.key(0), 2)
    raw = source.load(source.resident("train"), np.arange(2), None).images
    changed = source.load(source.resident("train"), np.arange(2), keys).images
    pixel = float(np.std(np.arange(20)))
    np.testing.assert_allclose(changed - raw, 1 / pixel, rtol=1e-5)


def test_shift_pads_and_crops_at_every_offset():
    image = np.arange(1.0, 10.0, dtype=np.float32).reshape(3, 3, 1)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    crops = {padded[i : i + 3, j : j + 3].tobytes() for i in range(5) for j in range(5)}
    augment = PadCropFlip(2, fill=(0.0,), flip=False)
    keys = jax.random.split(jax.random.key(0), 500)
    shifted = jax.vmap(lambda key: augment(key, image))(keys)
    assert {np.asarray(x).tobytes() for x in shifted} == crops


def test_digits_are_all_there_and_in_one_split_each():
    parts = data.digits()
    sizes = [len(parts[name].labels) for name in ("train", "validation", "test")]
    assert (sizes, sum(sizes)) == ([1280, 257, 260], 1797)
    images = np.concatenate([parts[n].images for n in ("train", "validation", "test")])
    assert (images.dtype, images.max()) == (np.uint8, 240)
    assert len({image.tobytes() for image in images}) == 1797
    for name in ("train", "validation", "test"):
        assert set(parts[name].labels) == set(range(10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 6, "devices": 4},
            "batch_size .*multiple .*got 6 for 4 devices",
        ),
        ({"eval_batch_size": 2, "devices": 4}, "eval_batch_size .*got 2 for 4 devices"),
        ({"batch_size": 0}, "batch_size must be a positive multiple .*got 0"),
        ({"batch_size": 24}, "at most .*got 24 for 20 examples"),
        ({"train": 0}, "split 'train' has 0 images and 0 labels"),
        ({"validation": 0}, "split 'validation' has 0 images"),
    ],
)
def test_bad_settings_are_refused_with_their_numbers(settings, message):
    with pytest.raises(ValueError, match=message):
        dataset(**settings)


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"labels from 0 to 4; they must be in 0\.\.2"):
        data.ArrayDataset(
            split(20, classes=5), split(4), split(4), classes=3, batch_size=4,
            eval_batch_size=4, devices=1, seed=0,
        )  # fmt: skip


def test_the_digits_are_those_of_scikit_learn():
    images, labels = data.load_digits()
    theirs, their_labels = datasets.load_digits(return_X_y=True)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(images, theirs)
    np.testing.assert_array_equal(labels, their_labels)
    parts = data.digits()
    together = [parts[name] for name in ("train", "validation", "test")]
    assert [len(part.labels) for part in together] == [1280, 257, 260]
    pixels = np.concatenate([part.images.reshape(-1, 64) for part in together])
    order = np.random.RandomState(0).permutation(1797)
    np.testing.assert_array_equal(pixels, 15 * theirs[order])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_hosts_share_every_batch(count):
    splits = {
        name: data.Split(np.zeros((n, 2, 2, 1), np.uint8), np.zeros(n, np.int32))
        for name, n in {"train": 21, "validation": 10, "test": 7}.items()
    }

    def dataset(**part):
        sizes = {"batch_size": 8, "eval_batch_size": 4, "devices": 4}
        return data.ArrayDataset(**splits, classes=1, seed=0, **sizes, **part)

    parts = [dataset(host=i, hosts=count) for i in range(count)]
    for step in range(6):
        batches = [part.train_batch(step) for part in parts]
        joined = map(np.concatenate, zip(*batches, strict=True))
        for one, other in zip(joined, dataset().train_batch(step), strict=True):
            np.testing.assert_array_equal(one, other)
    for split in splits:
        batches = zip(*(part.eval_batches(split) for part in parts), strict=True)
        for several, alone in zip(batches, dataset().eval_batches(split), strict=True):
            joined = map(np.concatenate, zip(*several, strict=True))
            for one, other in zip(joined, alone, strict=True):
                np.testing.assert_array_equal(one, other)
