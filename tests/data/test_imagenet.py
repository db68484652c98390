"""ImageNet as TFDS keeps it: crops, order, workers, hosts, and what can be wrong."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import flax.linen as nn
import jax
import numpy as np
import pytest
import tfds_fixture
from PIL import Image

from hyperdyn_jax import optimizers
from hyperdyn_jax.data import augment, imagenet, streaming, tfds_records
from hyperdyn_jax.system import signals
from hyperdyn_jax.training import trainer as training

SIZE = 48  # pixels: small, so that the tests are fast
PROCESS = "grain-process-prefetch"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    tfds_fixture.write_imagenet(folder)
    return folder


@pytest.fixture(scope="module")
def splits(data_dir):
    return imagenet.imagenet(data_dir)


@pytest.fixture
def make(splits):
    """Makes data sets, and closes them."""
    made = []

    def dataset(**settings):
        settings = {
            "batch_size": 16,
            "eval_batch_size": 8,
            "devices": 1,
            "seed": 0,
            "image_size": SIZE,
            "workers": 0,
        } | settings
        made.append(imagenet.StreamedDataset(**(splits | settings)))
        return made[-1]

    yield dataset
    for source in made:
        source.close()


def epochs(source, count):
    """The batches of each of the first epochs."""
    steps = source.steps_per_epoch
    return [
        [source.train_batch(epoch * steps + i) for i in range(steps)]
        for epoch in range(count)
    ]


def labels(batches):
    return np.concatenate([batch.examples.labels for batch in batches])


def assert_same(batch, other):
    for mine, its in zip(jax.tree.leaves(batch), jax.tree.leaves(other), strict=True):
        assert np.array_equal(mine, its)


def workers():
    return [p for p in multiprocessing.active_children() if p.name.startswith(PROCESS)]


def test_a_fixed_hundredth_of_the_training_images_validates(splits, data_dir):
    names = ("train", "validation", "test")
    assert [len(splits[name]) for name in names] == [119, 1, 14]
    together = [
        example.label
        for name in names[:2]
        for example in splits[name].read(range(len(splits[name])))
    ]
    assert sorted(together) == list(range(120))
    again = imagenet.imagenet(data_dir)
    assert [again["train"][i] for i in (0, 50)] == [splits["train"][i] for i in (0, 50)]


@pytest.mark.parametrize("devices", [1, 4])
def test_every_epoch_visits_every_training_example_once(make, devices):
    source = make(devices=devices)
    every = {example.label for example in source._splits["train"].read(range(119))}
    visits = epochs(source, 3)
    for batches in visits:
        sizes = [len(batch.weights) for batch in batches]
        assert sizes == [16] * 7 + [119 % 16 // devices * devices]
        assert all(batch.weights.all() for batch in batches)
        visited = labels(batches)
        assert len({*visited}) == len(visited) == sum(sizes)
        assert {*visited} <= every
    assert not np.array_equal(labels(visits[0]), labels(visits[1]))
    # Over the epochs the ones that had to wait have had their turn.
    assert {*labels([b for batches in visits for b in batches])} == every


def test_order_and_crops_follow_from_seed_and_step(make):
    once, again, other = make(), make(), make(seed=1)
    steps = once.steps_per_epoch
    story = [once.train_batch(step) for step in range(2 * steps)]
    for step in (steps + 3, 0, 5, 6, 2 * steps - 1, steps, 1):  # and so it can resume
        assert_same(again.train_batch(step), story[step])
        assert_same(once.train_batch(step), story[step])
    assert not np.array_equal(other.train_batch(0).examples.labels, labels(story[:1]))
    # Examples are cropped anew in each epoch; of the longest the centre is taken.
    crops = [
        {
            label: image.tobytes()
            for batch in batches
            for image, label in zip(*batch.examples, strict=True)
        }
        for batches in (story[:steps], story[steps:])
    ]
    same = [label for label, crop in crops[0].items() if crops[1][label] == crop]
    assert len(same) < 119 / 4


class Interrupted:
    """An iterator whose second element is lost to Ctrl-C."""

    def __init__(self, iterator):
        self._iterator, self._count = iterator, 0

    def __next__(self):
        self._count += 1
        element = next(self._iterator)
        if self._count == 2:
            raise KeyboardInterrupt
        return element

    def __getattr__(self, name):
        return getattr(self._iterator, name)


def test_an_interrupted_step_can_be_asked_for_again(make, monkeypatch):
    source, other = make(), make()
    start = streaming.Passes._start
    monkeypatch.setattr(
        streaming.Passes, "_start", lambda self: [*map(Interrupted, start(self))]
    )
    monkeypatch.setattr("grain.experimental.set_next_index", seek)
    source.train_batch(0)
    with pytest.raises(KeyboardInterrupt):
        source.train_batch(1)
    assert_same(source.train_batch(1), other.train_batch(1))


def seek(iterator, index):
    iterator._set_next_index(index)


@pytest.mark.slow
def test_worker_processes_make_the_same_batches_and_are_closed(make):
    here, there = make(), make(workers=2)
    expected = [batch for batches in epochs(here, 2) for batch in batches]
    assert not workers()
    for step, batch in enumerate(expected):
        assert_same(there.train_batch(step), batch)
    assert len(workers()) == 2
    assert os.getpid() not in {process.pid for process in workers()}
    pids = {process.pid for process in workers()}
    for step in (3, 4, 9, 2):
        assert_same(there.train_batch(step), expected[step])
    assert {process.pid for process in workers()} == pids  # they were sent elsewhere
    for mine, its in zip(
        there.eval_batches("test"), here.eval_batches("test"), strict=True
    ):
        assert_same(mine, its)
    assert len(workers()) == 4
    there.close()
    assert not workers()
    here.close()
    here.close()  # again: nothing happens
    assert_same(here.train_batch(1), expected[1])  # and it can be used again


def test_hosts_share_every_batch(make):
    whole = make(devices=4)
    hosts = [make(devices=4, hosts=2, host=host) for host in range(2)]
    assert {source.steps_per_epoch for source in hosts} == {whole.steps_per_epoch}
    for step in range(whole.steps_per_epoch + 2):
        batch = whole.train_batch(step).examples
        parts = [source.train_batch(step).examples for source in hosts]
        assert len(parts[0].labels) == len(parts[1].labels)
        for host, part in enumerate(parts):
            assert_same(part, jax.tree.map(lambda x, i=host: x[i::2], batch))
    for split, size in (("validation", 1), ("test", 14)):
        both = [list(source.eval_batches(split)) for source in hosts]
        assert len(both[0]) == len(both[1]) == -(-size // 8)
        assert all(b.examples.images.shape == (4, SIZE, SIZE, 3) for b in both[1])
        counted = [b.examples.labels[b.weights > 0] for bs in both for b in bs]
        assert len(np.concatenate(counted)) == size
        assert len({*np.concatenate(counted)}) == size


def test_evaluation_counts_every_example_once_again_and_again(make):
    source = make()
    first, second = (list(source.eval_batches("test")) for _ in range(2))
    next(source.eval_batches("test"))  # and is left
    third = list(source.eval_batches("test"))
    for batches in (first, second, third):
        assert [len(batch.weights) for batch in batches] == [8, 8]
        counted = np.concatenate([b.examples.labels[b.weights > 0] for b in batches])
        assert counted.tolist() == list(range(14))
    for batch, other in zip(first, third, strict=True):
        assert_same(batch, other)
    assert not first[1].examples.images[6:].any()


def test_images_are_normalised_on_the_device(make):
    source = make()
    batch = source.train_batch(0).examples
    loaded = jax.jit(source.load)((), batch, None)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = (batch.images / 255 - mean) / deviation
    np.testing.assert_allclose(loaded.images, expected, atol=1e-5)
    assert loaded.images.dtype == np.float32
    assert np.array_equal(loaded.labels, batch.labels)


class Tiny(nn.Module):
    """Enough of a network to train."""

    @nn.compact
    def __call__(self, images, train):  # noqa: ARG002 (as all networks here)
        return nn.Dense(1000)(images.mean((1, 2)))


def test_a_network_trains_on_it_over_four_devices(make):
    source = make(devices=4)
    settings = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    optimizer = optimizers.create_optimizer("sgd", settings)
    trainer = training.Trainer(Tiny(), optimizer, source, jax.devices()[:4])
    state = trainer.init(jax.random.key(0))
    values = {name: np.float32(value) for name, value in settings.items()}
    steps = source.steps_per_epoch
    branches = trainer.begin([state, state], [values, values])
    progress = trainer.train(branches, steps, jax.random.key(1))
    losses = progress.losses.mean(1)
    assert losses[0] == losses[1] < np.log(1000) + 1
    assert trainer.evaluate(progress.states[0], "test").count == 14
    assert trainer.is_finite(progress.states[0])


# Crops.


def example(image, kind="JPEG", **settings):
    return tfds_records.Example(tfds_fixture.encode(image, kind, **settings), 7, "here")


def resized(image, box, size):
    """Bilinear interpolation in NumPy: f64[size, size, 3]."""

    def taps(start, length, limit):
        at = (np.arange(size) + 0.5) * length / size - 0.5
        low = np.floor(at).astype(int)
        ends = np.clip([low, low + 1], 0, length - 1) + start
        assert ends.max() < limit
        return ends, at - low

    (top, bottom), down = taps(box.top, box.height, image.shape[0])
    (left, right), along = taps(box.left, box.width, image.shape[1])
    down, along = down[:, None, None], along[None, :, None]
    upper = image[top][:, left] * (1 - along) + image[top][:, right] * along
    lower = image[bottom][:, left] * (1 - along) + image[bottom][:, right] * along
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize("height_width", [(90, 60), (64, 80), (47, 47), (95, 95)])
def test_training_crops_equal_a_numpy_reference(height_width):
    rng = np.random.default_rng(0)
    picture = tfds_fixture.picture(rng, *height_width)
    file = example(picture, "PNG")
    crop, mirrored = augment.TrainingCrop(SIZE), 0
    for seed in range(20):
        image = crop(file, np.random.default_rng(seed))
        replay = np.random.default_rng(seed)
        box = augment.random_box(*height_width, replay)
        expected = resized(picture, box, SIZE)
        if replay.random() < 0.5:
            mirrored, expected = mirrored + 1, expected[:, ::-1]
        assert image.dtype == np.uint8
        np.testing.assert_allclose(image, expected, atol=1.5)
    assert 0 < mirrored < 20


@pytest.mark.parametrize(
    "height_width", [(375, 500), (500, 375), (256, 256), (60, 90), (1000, 700)]
)
def test_the_evaluated_centre_is_that_of_resizing_first(height_width):
    picture = tfds_fixture.picture(np.random.default_rng(1), *height_width)
    image = augment.CentreCrop(224)(example(picture, "PNG"))
    height, width = (max(256, round(256 * x / min(height_width))) for x in height_width)
    whole = Image.fromarray(picture).resize((width, height), Image.BILINEAR)
    top, left = (height - 224) // 2, (width - 224) // 2
    centre = np.asarray(whole)[top : top + 224, left : left + 224]
    # The box is rounded to whole pixels of the original, and Pillow averages.
    assert image.shape == centre.shape
    assert np.abs(image.astype(int) - centre).mean() < 2


def test_the_smallest_images_are_enlarged():
    dot = example(np.full((1, 1, 3), 99, np.uint8), "PNG")
    assert (augment.CentreCrop(224)(dot) == 99).all()
    assert (augment.TrainingCrop(224)(dot, np.random.default_rng(0)) == 99).all()


def test_large_images_are_decoded_at_a_fraction():
    picture = tfds_fixture.picture(np.random.default_rng(2), 1100, 1500)
    file = example(picture, quality=95)
    box = augment.Box(100, 200, 900, 1100)
    image = augment.crop(file, box, 100)
    part = Image.fromarray(picture).resize(
        (100, 100), Image.BILINEAR, box=(200, 100, 1300, 1000)
    )
    assert np.abs(image.astype(int) - np.asarray(part)).mean() < 2


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "box",
    [(0, 0, 300, 200), (17, 30, 60, 40), (250, 3, 50, 190), (99, 99, 1, 1)],
    ids=["shrunk", "enlarged", "both", "a pixel"],
)
def test_crops_are_those_of_bilinear_interpolation(box, mirrored):
    picture = tfds_fixture.picture(np.random.default_rng(5), 300, 200)
    box = augment.Box(*box)
    made = augment.crop(example(picture, "PNG"), box, 120, mirrored)
    wanted = resized(picture, box, 120)
    wanted = wanted[:, ::-1] if mirrored else wanted
    assert (made.dtype, made.shape) == (np.uint8, (120, 120, 3))
    assert made.flags.c_contiguous  # batches are put together of whole rows
    np.testing.assert_allclose(made, wanted, atol=0.51)


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_reduced_images_are_rounded_up(kind, reduction):
    picture = tfds_fixture.picture(np.random.default_rng(6), 41, 50)
    file = example(picture, kind, **({"quality": 95} if kind == "JPEG" else {}))
    reduced = np.asarray(tfds_records.load_image(file, reduction))
    size = (-(-41 // reduction), -(-50 // reduction))
    assert reduced.shape == (*size, 3)
    whole = picture[: 41 // reduction * reduction, : 50 // reduction * reduction]
    blocks = whole.reshape(41 // reduction, reduction, 50 // reduction, reduction, 3)
    inner = reduced[: 41 // reduction, : 50 // reduction].astype(int)
    assert np.abs(inner - blocks.mean((1, 3))).mean() < 2


def test_no_other_formats_are_read():
    """Each is a decoder of bytes that may be anyone's."""
    file = example(np.zeros((8, 8, 3), np.uint8), "BMP")
    for read in (tfds_records.decode, tfds_records.image_size):
        with pytest.raises(tfds_records.DataError, match="the image cannot be decoded"):
            read(file)


def test_an_image_that_is_cut_off_is_a_bad_record():
    whole = example(tfds_fixture.picture(np.random.default_rng(7), 200, 200))
    half = whole._replace(image=whole.image[: len(whole.image) // 2])
    assert tfds_records.image_size(half) == (200, 200)
    with pytest.raises(tfds_records.DataError, match="the image cannot be decoded"):
        tfds_records.decode(half)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_colour_modes_become_red_green_and_blue(mode):
    picture = tfds_fixture.picture(np.random.default_rng(3), 40, 50)
    file = example(picture, mode=mode, quality=95, subsampling=0)
    decoded = tfds_records.decode(file)
    assert tfds_records.image_size(file) == decoded.shape[:2] == (40, 50)
    wanted = np.asarray(Image.fromarray(picture).convert(mode).convert("RGB"))
    assert np.abs(decoded - wanted.astype(int)).mean() < 2


def test_a_photograph_is_not_turned():
    tag = Image.Exif()
    tag[274] = 6  # "turn it by 90 degrees"
    file = example(np.zeros((40, 50, 3), np.uint8), exif=tag)
    assert tfds_records.decode(file).shape == (40, 50, 3)


def test_random_boxes_have_the_areas_and_ratios_they_should():
    rng, height, width = np.random.default_rng(4), 300, 400
    boxes = np.array([augment.random_box(height, width, rng) for _ in range(4000)])
    top, left, tall, wide = boxes.T
    assert (np.minimum(top, left) >= 0).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    area, ratio = tall * wide / (height * width), wide / tall
    assert 0.079 < area.min() < 0.09
    assert area.max() > 0.9
    assert (np.abs(np.log(ratio)) < np.log(1.37)).all()
    # Boxes that do not fit are drawn again, which only large ones do not.
    small = area[area < 0.5]
    assert abs(np.mean(small < 0.29) - 0.5) < 0.04
    # Both ends of the places occur.
    assert {0, 1} <= {*top[tall < 150]}
    assert (top + tall == height).any()


@pytest.mark.parametrize(
    ("height_width", "box"),
    [
        ((1000, 30), augment.Box(480, 0, 40, 30)),
        ((30, 1000), augment.Box(0, 480, 30, 40)),
    ],
)
def test_images_in_which_no_box_fits_are_cropped_at_the_centre(height_width, box):
    drawn = {
        augment.random_box(*height_width, np.random.default_rng(i)) for i in range(9)
    }
    assert drawn == {box}


# What can be wrong.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 6, "devices": 4},
            "batch_size .*multiple .*got 6 for 4 devices",
        ),
        ({"eval_batch_size": 2, "devices": 4}, "eval_batch_size .*got 2 for 4"),
        ({"batch_size": 120}, "at most .*got 120 for 119 examples"),
        ({"hosts": 2}, "got 1 devices and host 0 of 2"),
        ({"devices": 2, "hosts": 2, "host": 2}, "got 2 devices and host 2 of 2"),
        ({"image_size": 0}, "image_size must be at least 1 .*got 0 and 0"),
        ({"workers": -1}, "workers at least 0, got 48 and -1"),
    ],
)
def test_bad_settings_are_refused_with_their_numbers(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_an_empty_split_is_refused(make, splits):
    empty = splits["train"].subset(np.arange(0))
    with pytest.raises(ValueError, match="split 'validation' is empty"):
        make(validation=empty)


def test_missing_data_name_the_command_that_prepares_them(tmp_path):
    with pytest.raises(tfds_records.DataError) as caught:
        imagenet.imagenet(tmp_path)
    command = f"python -m hyperdyn_jax.prepare imagenet --data_dir={tmp_path}"
    assert str(caught.value).endswith(command)


def write_bad(folder, **change):
    examples = tfds_fixture.imagenet_examples(12, 0)
    examples[6] = examples[6] | change  # one that trains
    return tfds_fixture.write_imagenet(folder, train=examples)


PLACE = "split 'train', shard imagenet2012-train.array_record-00001-of-00003, record 2"


@pytest.mark.parametrize("count", [0, 1])
def test_an_image_that_cannot_be_decoded_is_named_with_its_place(tmp_path, count):
    write_bad(tmp_path, image=b"no image")
    source = imagenet.StreamedDataset(
        **imagenet.imagenet(tmp_path),
        batch_size=4, eval_batch_size=4, devices=1, seed=0, workers=count,
    )  # fmt: skip
    with pytest.raises(tfds_records.DataError) as caught:
        epochs(source, 1)
    assert str(caught.value) == f"{PLACE}: the image cannot be decoded"
    assert not workers()


def test_a_truncated_image_is_named_with_its_place(tmp_path):
    whole = tfds_fixture.imagenet_examples(12, 0)[6]["image"]
    write_bad(tmp_path, image=whole[: len(whole) // 2])
    train = imagenet.imagenet(tmp_path)["train"]
    (bad,) = [item for item in train.read(range(len(train))) if item.label == 6]
    with pytest.raises(
        tfds_records.DataError, match=f"{PLACE}: the image cannot be dec"
    ):
        augment.CentreCrop(32)(bad)


def test_a_damaged_record_is_named_with_its_place(tmp_path):
    folder = tfds_fixture.write_imagenet(tmp_path)
    shard = folder / "imagenet2012-validation.array_record-00002-of-00003"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    source = imagenet.StreamedDataset(
        **imagenet.imagenet(tmp_path),
        batch_size=4, eval_batch_size=4, devices=1, seed=0, workers=0,
    )  # fmt: skip
    with pytest.raises(
        tfds_records.DataError, match=f"{shard.name}, record .* Corrupted"
    ):
        list(source.eval_batches("test"))


@pytest.mark.slow
def test_a_worker_that_dies_is_reported_in_one_line(make):
    source = make(workers=1)
    source.train_batch(0)
    (worker,) = workers()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(
        tfds_records.DataError, match="a process that decodes images died"
    ):
        labels(source.train_batch(step) for step in range(1, 99))
    assert not workers()


@pytest.mark.slow
def test_a_signal_to_all_of_a_group_leaves_the_workers_to_their_parent(make):
    """`timeout`, a closed terminal and schedulers reach them too."""
    source = make(workers=1)
    source.train_batch(0)
    (worker,) = workers()
    for number in signals.STOPPING:
        os.kill(worker.pid, number)
    assert len(labels(source.train_batch(step) for step in range(1, 30))) > 0
    assert workers() == [worker]
    source.close()
    assert not workers()


SCRIPT = """
import multiprocessing, sys, time
from hyperdyn_jax.data import imagenet

if __name__ == "__main__":
    source = imagenet.StreamedDataset(
        **imagenet.imagenet({data_dir!r}), batch_size=16, eval_batch_size=8,
        devices=1, seed=0, image_size=32, workers=1,
    )
    source.train_batch(0)
    assert "tensorflow_datasets" in sys.modules
    assert "tensorflow" not in sys.modules
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    time.sleep({seconds})
"""


def start(data_dir, tmp_path, seconds):
    """A program that streams from a folder where importing TensorFlow is fatal."""
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('it was imported')")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(data_dir=str(data_dir), seconds=seconds))
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_program_that_forgets_to_close_ends_quietly(data_dir, tmp_path):
    program = start(data_dir, tmp_path, seconds=0)
    output, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (0, "")
    assert not os.path.exists(f"/proc/{output.strip()}")


@pytest.mark.slow
def test_workers_end_when_their_program_is_killed(data_dir, tmp_path):
    program = start(data_dir, tmp_path, seconds=60)
    worker = program.stdout.readline().strip()
    assert os.path.exists(f"/proc/{worker}")
    program.kill()
    program.communicate()
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{worker}"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
