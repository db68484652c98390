"""The program that prepares data: its command line, and converting what is there."""

import json
import sys

import google_crc32c
import pytest
import tfds_fixture
from array_record.python import array_record_module

from hyperdyn_jax import prepare
from hyperdyn_jax.data import cifar10, tfds_records

pytestmark = pytest.mark.slow

# What TensorFlow 2.21's TFRecordWriter makes of b"abc" and b"".
TFRECORD = bytes.fromhex(
    "0300000000000000b099490e6162636e57f121000000000000000029039807d8ea82a2"
)


def refused(capsys, *words):
    """The one line of an error; the exit code is 2."""
    try:
        code = prepare.main(words)
    except SystemExit as stop:
        code = stop.code
    output, errors = capsys.readouterr()
    assert code == 2
    assert output == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: DATASET, --data_dir"),
        (["cifar10"], "the following arguments are required: --data_dir"),
        (["mnist", "--data_dir=x"], "invalid choice: 'mnist'"),
        (["cifar10", "--data_dir=x", "--fast"], "unrecognized arguments: --fast"),
        (
            ["cifar10", "--data_dir=x", "--data_dri=x"],
            "--data_dri=x; did you mean --data_dir?",
        ),
    ],
)
def test_bad_command_lines_are_one_line(capsys, words, message):
    assert message in refused(capsys, *words)


def test_a_missing_tensorflow_names_the_extra(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    line = refused(capsys, "cifar10", f"--data_dir={tmp_path}")
    assert "needs the package of tensorflow, once" in line
    assert line.endswith('pip install -e ".[prepare]"\n')


def test_missing_archives_are_named(capsys, tmp_path):
    line = refused(capsys, "imagenet", f"--data_dir={tmp_path}")
    folder = tmp_path / "downloads" / "manual"
    assert "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar" in line
    assert f"must be in {folder} " in line
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    line = refused(
        capsys, "imagenet", f"--data_dir={tmp_path}", f"--manual_dir={tmp_path}"
    )
    assert "ImageNet's ILSVRC2012_img_val.tar must be in" in line


def test_what_is_prepared_already_stays(capsys, tmp_path):
    folder = tfds_fixture.write_cifar10(tmp_path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert prepare.main(["cifar10", f"--data_dir={tmp_path}"]) == 0
    assert "300 in split 'train', 60 in split 'test'" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    shard = folder / "cifar10-test.array_record-00000-of-00003"
    shard.unlink()
    assert f"{shard.name} is missing" in refused(
        capsys, "cifar10", f"--data_dir={tmp_path}"
    )


def masked(data):
    crc = google_crc32c.value(data)
    value = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    return value.to_bytes(4, "little")


def tfrecord(contents):
    """A TFRecord file."""
    parts = []
    for data in contents:
        length = len(data).to_bytes(8, "little")
        parts += [length, masked(length), data, masked(data)]
    return b"".join(parts)


def as_tfrecord(folder):
    """Turns a data set into one that TFDS stored as TFRecord: its shards."""
    shards = []
    for path in sorted(folder.glob("*.array_record-*")):
        reader = array_record_module.ArrayRecordReader(str(path))
        name = path.name.replace("array_record", "tfrecord")
        shards.append(path.with_name(name))
        shards[-1].write_bytes(tfrecord(reader.read_all()))
        path.unlink()
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    return shards


def test_tfrecords_are_read_as_tensorflow_writes_them(tmp_path):
    (tmp_path / "file").write_bytes(TFRECORD)
    assert list(prepare.read_tfrecord(tmp_path / "file")) == [b"abc", b""]
    assert tfrecord([b"abc", b""]) == TFRECORD


@pytest.mark.parametrize("position", [0, 9, 13, 16, 20])
def test_every_flipped_bit_is_noticed(tmp_path, position):
    damaged = bytearray(TFRECORD)
    damaged[position] ^= 4
    (tmp_path / "file").write_bytes(damaged)
    record = 0 if position < 19 else 1
    with pytest.raises(tfds_records.DataError, match=f"file, record {record}: damaged"):
        list(prepare.read_tfrecord(tmp_path / "file"))


@pytest.mark.parametrize("length", [5, 13, 18, 25, 33])
def test_a_cut_off_file_is_noticed(tmp_path, length):
    (tmp_path / "file").write_bytes(TFRECORD[:length])
    with pytest.raises(tfds_records.DataError, match=r"record \d: damaged or cut off"):
        list(prepare.read_tfrecord(tmp_path / "file"))


def test_a_tfrecord_copy_is_converted_beside_itself(capsys, tmp_path):
    folder = tfds_fixture.write_cifar10(tmp_path)
    expected = cifar10.cifar10(tmp_path)
    shards = as_tfrecord(folder)
    before = {path: path.read_bytes() for path in shards}
    words = ["cifar10", f"--data_dir={tmp_path}", "--from_tfrecord"]
    assert prepare.main(words) == 0
    assert capsys.readouterr().out.splitlines()[5:] == [
        "6 of 6 shards converted",
        f"cifar10 is ready in {tmp_path}: 300 in split 'train', 60 in split 'test'",
    ]
    converted = cifar10.cifar10(tmp_path)
    for name in ("train", "validation", "test"):
        assert (converted[name].images == expected[name].images).all()
        assert (converted[name].labels == expected[name].labels).all()
    assert before == {path: path.read_bytes() for path in shards}
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["fileFormat"] == "tfrecord"
    assert info["alternativeFileFormats"] == ["array_record"]


def test_a_stopped_conversion_goes_on(capsys, tmp_path):
    folder = tfds_fixture.write_cifar10(tmp_path)
    shards = as_tfrecord(folder)
    content = shards[3].read_bytes()
    shards[3].write_bytes(content[:-9])
    words = ["cifar10", f"--data_dir={tmp_path}", "--from_tfrecord"]
    assert prepare.main(words) == 2
    assert f"{shards[3].name}, record 99: damaged" in capsys.readouterr().err
    with pytest.raises(tfds_records.DataError, match="stored as tfrecord"):
        cifar10.cifar10(tmp_path)
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*record-*-of-00003")}
    shards[3].write_bytes(content)
    assert prepare.main(words) == 0
    for path, when in done.items():
        assert path == shards[3] or path.stat().st_mtime_ns == when
    assert not list(folder.glob("*incomplete*"))
    assert len(cifar10.cifar10(tmp_path)["train"].labels) == 270


def test_a_damaged_description_is_told_before_anything_is_written(capsys, tmp_path):
    folder = tfds_fixture.write_cifar10(tmp_path)
    as_tfrecord(folder)
    words = ["cifar10", f"--data_dir={tmp_path}", "--from_tfrecord"]
    for content in ('{"name": ', "[1]"):
        (folder / "dataset_info.json").write_text(content)
        before = sorted(folder.iterdir())
        assert "dataset_info.json" in refused(capsys, *words)
        assert sorted(folder.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "data"
    line = refused(capsys, "cifar10", f"--data_dir={place}")
    why = f"{tmp_path / 'file'} is not a writable folder"
    assert line == f"error: --data_dir={place} cannot be written: {why}\n"


def test_without_a_tfrecord_copy_there_is_nothing_to_convert(capsys, tmp_path):
    words = ["cifar10", f"--data_dir={tmp_path}", "--from_tfrecord"]
    assert "there is no cifar10 in" in refused(capsys, *words)
    tfds_fixture.write_cifar10(tmp_path)
    assert "there are no TFRecord shards to convert" in refused(capsys, *words)
