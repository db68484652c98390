"""Bad records that are left out: counted, named, and the same for all workers."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
import tfds_fixture
from paths import TESTS

from hyperdyn_jax import loop, models, report
from hyperdyn_jax.commands import cli
from hyperdyn_jax.data import cifar10, imagenet, tfds_records
from hyperdyn_jax.run.console import Display
from hyperdyn_jax.run.engine import Engine
from hyperdyn_jax.system import signals

pytestmark = pytest.mark.slow

SIZE = 32  # pixels


def places(lines):
    """The shard and the record that each line names."""
    return [re.search(r"-0000(\d)-of.*, record (\d+): ", x).groups() for x in lines]


# CIFAR-10, read whole.


def write_cifar10(folder, bad):
    """CIFAR-10 whose training images with these numbers are no images."""
    examples = tfds_fixture.cifar_examples(300, 0)
    for number in bad:
        examples[number] = examples[number] | {"image": b"no image"}
    tfds_fixture.write_cifar10(folder, train=examples)
    return folder


def test_the_others_stay_in_their_splits(tmp_path):
    whole = cifar10.cifar10(write_cifar10(tmp_path / "whole", []))
    bad = cifar10.cifar10(write_cifar10(tmp_path / "bad", [7, 8, 250]), skip=3)
    order = np.random.RandomState(0).permutation(300)
    for name, part in (("train", order[:270]), ("validation", order[270:])):
        good = ~np.isin(part, [7, 8, 250])
        assert np.array_equal(bad[name].images, whole[name].images[good])
        assert np.array_equal(bad[name].labels, whole[name].labels[good])
    assert np.array_equal(bad["test"].images, whole["test"].images)
    assert len(bad["train"].labels) + len(bad["validation"].labels) == 297
    assert places(bad["skips"].lines) == [("0", "7"), ("0", "8"), ("2", "50")]


def test_damaged_records_are_left_out_too(tmp_path):
    folder = tfds_fixture.write_cifar10(tmp_path)
    shard = folder / "cifar10-train.array_record-00001-of-00003"
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 1
    shard.write_bytes(content)
    parts = cifar10.cifar10(tmp_path, skip=1)
    (line,) = parts["skips"].lines
    assert f"shard {shard.name}, record " in line
    assert "cannot be read: Corrupted" in line
    assert len(parts["train"].labels) + len(parts["validation"].labels) == 299


def test_one_more_than_allowed_is_named(tmp_path):
    write_cifar10(tmp_path, [7, 8, 250])
    with pytest.raises(tfds_records.DataError) as caught:
        cifar10.cifar10(tmp_path, skip=2)
    assert str(caught.value) == (
        "split 'train', shard cifar10-train.array_record-00002-of-00003, record 50: "
        "the image cannot be decoded (one more than skip_bad_records=2 leaves out)"
    )


def test_a_split_of_bad_records_is_refused(tmp_path):
    write_cifar10(tmp_path, range(300))
    with pytest.raises(
        tfds_records.DataError, match="split 'train' has no good record"
    ):
        cifar10.cifar10(tmp_path, skip=300)


# ImageNet, streamed.

# In which order a training image comes is drawn; these numbers are places on the disk.
BAD = [30, 31, 77]


def write_imagenet(folder, bad=BAD, test=(3,)):
    train = tfds_fixture.imagenet_examples(120, 0)
    validation = tfds_fixture.imagenet_examples(14, 1)
    for number in bad:
        train[number] = train[number] | {"image": b"no image"}
    for number in test:
        validation[number] = validation[number] | {"image": b""}
    tfds_fixture.write_imagenet(folder, train=train, validation=validation)
    return folder


def stream(folder, **settings):
    settings = {
        "batch_size": 16,
        "eval_batch_size": 8,
        "devices": 1,
        "seed": 0,
        "image_size": SIZE,
        "workers": 0,
    } | settings
    return imagenet.StreamedDataset(**imagenet.imagenet(folder), **settings)


def batches(source, epochs=2):
    """Of training and of the test, and the counts of left-out records after each."""
    seen, counts = [], []
    for step in range(epochs * source.steps_per_epoch):
        seen.append(source.train_batch(step))
        counts.append(len(source.skips.lines))
    for batch in source.eval_batches("test"):
        seen.append(batch)
        counts.append(len(source.skips.lines))
    source.close()
    return seen, counts


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    write_imagenet(root / "whole", (), ())
    return root / "whole", write_imagenet(root / "bad")


@pytest.fixture(scope="module")
def left_out(folders):
    source = stream(folders[1], skip=4)
    return source, *batches(source)


def test_a_neighbour_takes_the_place_and_the_rest_is_the_same(folders, left_out):
    source, seen, counts = left_out
    whole, _ = batches(stream(folders[0]))
    train = imagenet.imagenet(folders[0])["train"]
    labels = [train[i].label for i in range(len(train))]
    replaced = 0
    for mine, other in zip(seen[:-2], whole[:-2], strict=True):
        assert mine.weights.all()
        for i, label in enumerate(other.examples.labels):
            if label not in BAD:
                assert mine.examples.labels[i] == label
                same = mine.examples.images[i] == other.examples.images[i]
                assert same.all()
                continue
            after = labels.index(label) + 1
            while labels[after % len(labels)] in BAD:
                after += 1
            assert mine.examples.labels[i] == labels[after % len(labels)]
            assert mine.examples.images[i].any()
            replaced += 1
    assert replaced == 2 * 3  # in each of two epochs
    assert counts[source.steps_per_epoch - 1] == counts[-3] == 3
    assert counts[-1] == 4


def test_an_evaluation_counts_every_good_example_once(folders, left_out):
    _, seen, _ = left_out
    test = seen[-2:]
    counted = np.concatenate([b.examples.labels[b.weights > 0] for b in test])
    assert counted.tolist() == [0, 1, 2, *range(4, 14)]
    assert sum(batch.weights.sum() for batch in test) == 13
    whole, _ = batches(stream(folders[0]), 0)
    for mine, other in zip(test, whole, strict=True):
        good = mine.weights > 0
        same = mine.examples.images[good] == other.examples.images[good]
        assert same.all()


def test_each_is_named_once_and_is_news_once(left_out):
    source, *_ = left_out
    lines = source.skips.news()
    assert len({*lines}) == len(lines) == 4
    expected = [("0", "3"), ("0", "30"), ("0", "31"), ("1", "37")]
    assert sorted(places(lines)) == expected
    assert source.skips.news() == []


def test_workers_change_neither_batches_nor_counts(folders, left_out):
    _, seen, counts = left_out
    source = stream(folders[1], skip=4, workers=2)
    for step in range(source.steps_per_epoch):
        batch = source.train_batch(step)
        for mine, other in zip(
            jax.tree.leaves(batch), jax.tree.leaves(seen[step]), strict=True
        ):
            assert np.array_equal(mine, other)
        assert len(source.skips.lines) == counts[step]
    source.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_one_more_than_allowed_ends_it(folders, workers):
    source = stream(folders[1], skip=2, workers=workers)
    with pytest.raises(tfds_records.DataError) as caught:
        batches(source)
    source.close()
    assert re.search(
        r"record \d+: the image cannot be decoded \(one more than "
        r"skip_bad_records=2 leaves out\)$",
        str(caught.value),
    )


def test_bad_records_in_a_row_end_it_at_once(tmp_path):
    source = stream(write_imagenet(tmp_path, range(40, 60)), skip=3)
    with pytest.raises(tfds_records.DataError, match="the image cannot be decoded"):
        batches(source)


def test_a_split_without_a_good_record_is_refused(tmp_path):
    source = stream(write_imagenet(tmp_path, (), range(14)), skip=20)
    with pytest.raises(tfds_records.DataError, match="split 'test' has no good record"):
        batches(source)


# A run.


class Tiny(nn.Module):
    """Enough of a network to train."""

    @nn.compact
    def __call__(self, images, train):  # noqa: ARG002 (as all networks here)
        return nn.Dense(1000)(images.mean((1, 2)))


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Nothing that takes seconds and is tested elsewhere."""
    monkeypatch.setitem(models.MODELS, "tiny", lambda *_, **__: Tiny())
    monkeypatch.setattr(imagenet, "WORKERS", 0)
    monkeypatch.setattr(signals, "_asked", False)
    monkeypatch.setattr(report, "write_report", lambda _: "report.html")


def settings(folder, **changes):
    config = cli.load_config(["train.py", "--config=configs/imagenet.py:smoke"])
    short = {"epochs": 3, "image_size": SIZE, "batch_size": 40, "eval_batch_size": 16}
    tiny = {"model": {"name": "tiny"}, "strategy": "constant"}
    return config.to_dict() | short | tiny | {"data_dir": str(folder)} | changes


class Stopping(Display):
    """Stops the run after so many decisions, and keeps what it was told."""

    def __init__(self, decisions=99):
        super().__init__()
        self.left, self.lines = decisions, []

    def say(self, text):
        self.lines.append(text)

    def decision(self, *_):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def run(config, workdir, decisions=99):
    display = Stopping(decisions)
    loop.train_and_evaluate(config, workdir, display)
    return [line for line in display.lines if line.startswith("warning")]


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in found]


def test_a_run_names_and_counts_them_and_resumes_to_the_bit(
    folders, tmp_path, monkeypatch
):
    config = settings(folders[1], skip_bad_records=4)
    warnings = run(config, tmp_path / "whole")
    assert len(warnings) == 4
    assert all(line.endswith("cannot be decoded; left out") for line in warnings)
    metrics = rows(tmp_path / "whole")
    assert [row["skipped_records"] for row in metrics] == [3, 3, 4]

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "stopped", decisions=2)
    assert len(rows(tmp_path / "stopped")) == 2
    again = run(config, tmp_path / "stopped")  # named before are the others
    assert again == warnings[3:]
    assert rows(tmp_path / "stopped") == metrics

    # A state that is saved inside an epoch holds those that were met on the way to it.
    original, saved = Engine.save, []

    def watched(engine, run, directory, rows=None):
        saved.append((run.pending is not None, len(run.skipped)))
        original(engine, run, directory, rows)

    monkeypatch.setattr(Engine, "save", watched)
    run(config | {"save_minutes": 0.0}, tmp_path / "often")
    first = saved[: [pending for pending, _ in saved].index(False)]
    counts = [count for _, count in first]
    assert 0 < counts[0] <= counts[-1] <= 3
    assert counts == sorted(counts)
    assert rows(tmp_path / "often") == metrics

    with monkeypatch.context() as patch:
        patch.setattr(imagenet.StreamedDataset, "train_batch", stop_at(4))
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "inside")
    monkeypatch.setattr(signals, "_asked", False)
    assert len(rows(tmp_path / "inside")) == 1
    run(config, tmp_path / "inside")
    assert rows(tmp_path / "inside") == metrics


def stop_at(step, train_batch=imagenet.StreamedDataset.train_batch):
    """As train_batch, and a signal to stop comes at a step."""

    def wrapped(self, number):
        if number == step:
            signals._asked = True
        return train_batch(self, number)

    return wrapped


def test_one_more_exits_with_2_and_can_be_allowed_later(folders, tmp_path, capsys):
    config = settings(folders[1], skip_bad_records=3)
    assert cli.exit_code(lambda: run(config, tmp_path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("(one more than skip_bad_records=3 leaves out)")
    config["skip_bad_records"] = 4
    assert len(run(config, tmp_path)) == 1
    assert [row["skipped_records"] for row in rows(tmp_path)] == [3, 3, 4]


PROCESS = """
import sys
sys.path[:0] = {paths!r}
import test_skipping
from hyperdyn_jax import models
from hyperdyn_jax.commands import cli
from hyperdyn_jax.data import imagenet
from ml_collections import ConfigDict
models.MODELS["tiny"] = lambda *_, **__: test_skipping.Tiny()
imagenet.WORKERS = 0
place = ["127.0.0.1:{port}", "2", sys.argv[1], "60"]
sys.exit(cli.run(ConfigDict({config!r}), {workdir!r}, None, place))
"""


def test_processes_count_them_together(folders, tmp_path):
    """Each reads its own share of every batch, and meets its own bad records."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    config = settings(folders[1], skip_bad_records=4, epochs=2)
    program = PROCESS.format(
        paths=[str(Path(__file__).parent), str(TESTS)],
        port=port,
        config=config,
        workdir=str(tmp_path),
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, number],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in "01"
    ]
    (out, err), _ = (process.communicate(timeout=300) for process in both)
    warnings = [line for line in out.splitlines() if line.startswith("warning")]
    assert [process.returncode for process in both] == [0, 0], err
    assert len(warnings) == 4
    assert [row["skipped_records"] for row in rows(tmp_path)] == [3, 4]


def test_without_the_setting_nothing_is_counted(folders, tmp_path):
    run(settings(folders[0], epochs=1), tmp_path / "run")
    assert "skipped_records" not in rows(tmp_path / "run")[0]
