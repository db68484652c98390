"""Checkpoints in Orbax's real format: damage, full disks, and what comes of them."""

import errno
import fcntl
import functools
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from hyperdyn_jax.commands import cli
from hyperdyn_jax.run import checkpoints, config, run_dir
from hyperdyn_jax.run.checkpoints import Checkpoints, SaveError
from hyperdyn_jax.system.files import lacks
from hyperdyn_jax.training import train_step

FACTS = {"score": 1.5, "rows": {"decisions": 1, "metrics": 1}}


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    params = {
        "kernel": rng.standard_normal((3, 3, 4, 8), dtype=np.float32),
        "bias": np.float32([0.0, -0.0, np.nan, np.inf, 1e-45, 1, 2, 3]),
    }
    state = train_step.TrainState(np.int32(7), params, {}, (None, np.bool_([True])))
    tuner = {"mean": rng.standard_normal(5), "half": np.float16([0.1])}
    return {"held": [state], "tuner": tuner, "key": np.uint32([3, 2**32 - 1])}


def same(one, other):
    """Structure, dtypes, shapes and every bit."""

    def bits(tree):
        leaves, structure = jax.tree.flatten(tree)
        leaves = map(np.asarray, leaves)
        return structure, [(x.dtype, x.shape, x.tobytes()) for x in leaves]

    return bits(one) == bits(other)


def save(folder, *numbers):
    """Checkpoints of their numbers' arrays, with the last of the numbers as a fact."""
    store = Checkpoints(folder)
    for number in numbers:
        store.save(arrays(number), FACTS | {"number": number})
        store.close() if number == numbers[-1] else store._future.result()
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two checkpoints, 1 and 2."""
    return save(tmp_path_factory.mktemp("pair"), 1, 2)


@pytest.fixture
def copy(pair, tmp_path):
    return shutil.copytree(pair, tmp_path / "copy")


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_saved_comes_back_to_the_bit(pair):
    store = Checkpoints(pair)
    assert store.latest() == FACTS | {"number": 2}
    assert store.damaged == {}
    assert same(store.restore(arrays()), arrays(2))


def test_orbax_is_made_at_the_first_checkpoint_and_closed_with_the_store(
    tmp_path, monkeypatch
):
    idle = Checkpoints(tmp_path / "idle")
    idle.close()
    assert "_orbax" not in vars(idle)  # its import takes a quarter of a second
    store, closed = Checkpoints(tmp_path / "used"), []
    store.save(arrays(), FACTS)
    store._future.result()
    close = store._orbax.close
    monkeypatch.setattr(store._orbax, "close", lambda: closed.append(close()))
    store.close()
    assert len(closed) == 1


def test_bit_flips_are_never_silently_wrong(pair, tmp_path):
    """Each of every file in turn, 60 in all; the bench flips a thousand."""
    rng = np.random.default_rng(0)
    names = [path.relative_to(pair) for path in files(pair / "2")]
    for i in range(60):
        copy = shutil.copytree(pair, tmp_path / str(i))
        file = copy / names[i % len(names)]
        content = np.fromfile(file, np.uint8)
        bit = rng.integers(8 * content.size)
        content[bit // 8] ^= 1 << bit % 8
        content.tofile(file)
        store = Checkpoints(copy)
        assert store.latest() == FACTS | {"number": 1}
        assert store.damaged == {2: f"{_below(file, copy)} is not what was written"}
        assert same(store.restore(arrays()), arrays(1))


def _below(file, folder):
    """A file's path in its checkpoint."""
    return file.relative_to(folder / "2").as_posix()


@pytest.mark.parametrize("damage", ["truncate", "empty", "delete"])
def test_every_file_is_missed(pair, tmp_path, damage):
    for i, name in enumerate(path.relative_to(pair) for path in files(pair / "2")):
        copy = shutil.copytree(pair, tmp_path / str(i))
        file = copy / name
        if damage == "delete":
            file.unlink()
        else:
            os.truncate(file, 0 if damage == "empty" else file.stat().st_size // 2)
        store = Checkpoints(copy)
        assert store.latest() == FACTS | {"number": 1}
        state = "missing" if damage == "delete" else "not what was written"
        assert store.damaged == {2: f"{_below(file, copy)} is {state}"}


def test_damaged_ones_make_way_for_the_run(copy):
    (copy / "2" / "arrays" / "_METADATA").unlink()
    store = Checkpoints(copy)
    assert store.latest()["number"] == 1
    store.restore(arrays())
    store.save(arrays(3), FACTS)
    store.close()
    again = Checkpoints(copy)
    assert again.latest() == FACTS
    assert same(again.restore(arrays()), arrays(3))


def test_arrays_are_compared_after_orbax_has_read_them(copy, monkeypatch):
    """A cast that left the file alone is seen as well."""
    store = Checkpoints(copy)
    read = store._orbax.restore

    def cast(*args):
        found = read(*args)
        found["key"] = found["key"].astype(np.int32)
        return found

    monkeypatch.setattr(store._orbax, "restore", cast)
    assert store.latest() is None
    assert store.damaged == dict.fromkeys((2, 1), "key is not what was written")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": np.int32([1, 2])}, r"key is int32\[2\] here, uint32\[2\] there"),
        ({"key": np.uint32([1])}, r"key is uint32\[1\] here, uint32\[2\] there"),
        ({"more": np.zeros(1)}, r"more is float64\[1\] here, missing there"),
        ({"key": None}, r"key is missing here, uint32\[2\] there"),
    ],
)
def test_another_network_or_tuner_is_refused_and_nothing_lost(copy, change, message):
    before = files(copy)
    store = Checkpoints(copy)
    store.latest()
    with pytest.raises(
        config.ConfigError, match=f"another state or strategy: {message}"
    ):
        store.restore(arrays() | change)
    assert files(copy) == before


def two_decisions(path):
    """A run directory with a checkpoint after each of two rows."""
    with run_dir.RunDirectory(path, {}) as directory:
        directory.resume()
        for _ in range(2):
            row = {"epoch": 0, "branch": -1}
            directory.commit({"decisions": row}, arrays(), {"score": 0.0})
            directory.checkpoints._future.result()


def test_a_directory_without_a_good_checkpoint_is_a_line(tmp_path):
    two_decisions(tmp_path)
    for file in (tmp_path / "checkpoints").glob("*/facts.json"):
        file.unlink()
    with pytest.raises(config.ConfigError) as caught:
        run_dir.RunDirectory(tmp_path, {})
    (line,) = caught.value.problems
    assert line == (
        f"--workdir={tmp_path}: every checkpoint is damaged: 2 (facts.json is missing)"
        ", 1 (facts.json is missing); take another directory"
    )


def test_rows_after_the_good_checkpoint_are_cut_off_torn_ones_too(tmp_path):
    said = []
    two_decisions(tmp_path)
    with (tmp_path / "decisions.jsonl").open("a") as file:
        file.write('{"epo')
    (tmp_path / "checkpoints" / "2" / "arrays" / "_METADATA").write_text("")
    with run_dir.RunDirectory(tmp_path, {}, said.append) as directory:
        assert directory.resume()["rows"] == {"decisions": 1, "metrics": 0}
    damage = "checkpoint 2 is damaged (arrays/_METADATA is not what was written)"
    assert said == [f"warning: {damage}; going on from an older one"]
    (row,) = (tmp_path / "decisions.jsonl").read_text().splitlines()
    assert json.loads(row) == {"epoch": 0, "branch": -1}


def test_rows_are_written_after_the_checkpoint_that_holds_them(tmp_path, monkeypatch):
    """And are there again if the process ended between the two, or while at it."""
    file, appended = tmp_path / "decisions.jsonl", []

    def torn(path, content):
        appended.append(content)
        path.write_bytes(file.read_bytes() + content[:5])
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    directory = run_dir.RunDirectory(tmp_path, {})
    directory.resume()
    for epoch in range(3):
        row = {"epoch": epoch, "branch": -1}
        assert file.read_text().count("\n") == epoch
        if epoch == 2:
            monkeypatch.setattr(run_dir.jsonl, "append", torn)
        directory.commit({"decisions": row}, arrays(), {"score": 0.0})
        directory.checkpoints._future.result()
    with pytest.raises(SaveError, match="Input/output error"):
        directory.__exit__()
    assert len(appended) == 3  # tries
    assert (tmp_path / "checkpoints" / "3").exists()
    monkeypatch.undo()
    with run_dir.RunDirectory(tmp_path, {}) as directory:
        assert directory.resume()["rows"]["decisions"] == 3
        directory.resume()
    rows = map(json.loads, file.read_text().splitlines())
    assert [row["epoch"] for row in rows] == [0, 1, 2]


class Disk:
    """Has room for so many checkpoints, and says what was said."""

    def __init__(self, monkeypatch, room):
        self.room, self.said = room, []
        monkeypatch.setattr(checkpoints.shutil, "disk_usage", self)

    def __call__(self, folder):
        size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(arrays()))
        used = sum(path.name.isdecimal() for path in folder.iterdir())
        free = (self.room - used) * size + checkpoints.MARGIN
        return SimpleNamespace(free=free, total=free)


def write(store, number):
    store.save(arrays(number), FACTS | {"number": number})
    store._future.result()


def test_a_full_disk_is_emptied_of_older_checkpoints(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, 2)
    store = Checkpoints(tmp_path, disk.said.append)
    for number in (1, 2, 3):
        write(store, number)
    assert disk.said == ["warning: the disk is full but for checkpoint 3"]
    store.close()
    assert Checkpoints(tmp_path).latest()["number"] == 3


def test_only_repeated_misses_end_a_run(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, 3)
    store = Checkpoints(tmp_path, disk.said.append)
    write(store, 1)
    disk.room = 1
    for number in (2, 3):
        write(store, number)
    disk.room = 3
    write(store, 4)  # and counts anew
    disk.room = 1
    for number in (5, 6, 7):
        write(store, number)
    missed = [(2, 1), (3, 2), (5, 1), (6, 2), (7, 3)]
    assert disk.said == [
        f"warning: checkpoint {number} not written, {times} of 3 misses in a row: "
        "No space left on device"
        for number, times in missed
    ]
    for end in (lambda: write(store, 8), store.close):
        with pytest.raises(SaveError, match="takes no checkpoint: No space left"):
            end()
    store = Checkpoints(tmp_path)
    assert store.latest()["number"] == 4
    assert same(store.restore(arrays()), arrays(4))


def test_the_first_must_be_written(tmp_path, monkeypatch):
    """Without it rows would pile up that nothing counts."""
    disk = Disk(monkeypatch, 0)
    store = Checkpoints(tmp_path, disk.said.append)
    with pytest.raises(SaveError):
        write(store, 1)


def test_what_fails_half_way_is_said_cleared_away_and_tried_again(
    tmp_path, monkeypatch
):
    said = []
    store = Checkpoints(tmp_path, said.append)
    write(store, 1)
    whole = store._orbax.save

    def half(folder, *args):
        whole(folder, *args)
        (folder / "_METADATA").unlink()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(store._orbax, "save", half)
    write(store, 2)
    assert said == [
        "warning: checkpoint 2 not written, 1 of 3 misses in a row: Input/output error"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    monkeypatch.setattr(store._orbax, "save", whole)
    store.close()  # its last chance
    assert Checkpoints(tmp_path).latest()["number"] == 2
    assert len(said) == 1


class Refusing:
    """A file system under a folder that refuses calls, as some of a network do."""

    def __init__(self, monkeypatch, folder, *calls):
        self._folder = str(folder)
        for module, name, number in calls:
            call = functools.partial(self._call, getattr(module, name), number)
            monkeypatch.setattr(module, name, call)

    def _call(self, whole, number, place, *args):
        path = place if isinstance(place, str | Path) else self._path(place)
        if str(path).startswith(self._folder):
            raise OSError(number, os.strerror(number), str(path))
        return whole(place, *args)

    @staticmethod
    def _path(file):
        number = file if isinstance(file, int) else file.fileno()
        return os.readlink(f"/proc/self/fd/{number}")


def two_runs(path, said):
    """A run directory that is used twice, and what it then holds."""
    content = {"x": np.arange(3.0)}
    for number in range(2):
        with run_dir.RunDirectory(path, {}, said.append) as directory:
            facts = directory.resume()
            assert (facts or {}).get("number") == (number - 1 if number else None)
            if number:
                assert same(directory.restore(content), content)
            row = {"decisions": {"epoch": number, "branch": -1}}
            directory.commit(row, content, {"number": number})
    return (path / "decisions.jsonl").read_text().splitlines()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_what_a_file_system_refuses_ends_no_run(tmp_path, monkeypatch, number):
    """Orbax's own calls are refused too, so it has to write elsewhere."""
    path = tmp_path / "run"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    calls = [(os, "fsync", number), (os, "rename", errno.EXDEV)]
    calls += [(os, "chmod", errno.EPERM), (os, "statvfs", errno.ENOSYS)]
    Refusing(monkeypatch, path, *calls, (fcntl, "flock", errno.ENOLCK))
    said = []
    assert len(two_runs(path, said)) == 2
    cannot = "sync files, sync folders, rename folders, lock files"
    line = f"warning: the file system of {path} cannot {cannot}"
    assert said == [f"{line}; start no second run there"] * 2
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == ["1", "2"]


def test_each_call_that_is_refused_is_named_and_no_other(tmp_path, monkeypatch):
    assert lacks(tmp_path) == []
    Refusing(monkeypatch, tmp_path, (os, "rename", errno.EXDEV))
    assert lacks(tmp_path) == ["rename folders"]
    assert list(tmp_path.iterdir()) == []


def test_errors_that_matter_are_no_refusals(tmp_path, monkeypatch):
    """A disk that fails must not pass for one that cannot sync."""
    said = []
    store = Checkpoints(tmp_path, said.append)
    write(store, 1)
    Refusing(monkeypatch, tmp_path, (os, "fsync", errno.EIO))
    write(store, 2)
    assert "Input/output error" in said[0]
    monkeypatch.undo()
    store.close()


def test_what_the_background_raises_is_not_swallowed(tmp_path):
    """Here what it says of a miss cannot be said."""

    def say(line):
        raise ZeroDivisionError(line)

    store = Checkpoints(tmp_path, say)
    write(store, 1)
    store.save(arrays(2), FACTS, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="not written"):
        store.close()


def test_only_a_full_disk_is_to_be_emptied(tmp_path, monkeypatch, capsys):
    Disk(monkeypatch, 0)
    for folder, mend in ((tmp_path / "full", "make room"), (tmp_path / "gone", "mend")):
        store = Checkpoints(folder / "checkpoints", print)
        if mend == "make room":
            folder.mkdir()
        assert cli.exit_code(lambda: write(store, 1)) == 75  # noqa: B023
        (line,) = capsys.readouterr().err.splitlines()
        assert f"; {mend}" in line
        assert line.endswith(", and run the same command to resume")
    assert not (tmp_path / "gone").exists()  # it is not made again, without its rows


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    write(store, 1)
    started, gate, write_it = threading.Event(), threading.Event(), store._store

    def slow(*args):
        started.set()
        assert gate.wait(60)
        write_it(*args)

    monkeypatch.setattr(store, "_store", slow)
    store.save(arrays(2), FACTS)
    assert started.wait(60)
    store.save(arrays(3), FACTS)  # overtaken by the next
    store.save(arrays(4), FACTS)
    assert store._numbers() == [1]
    gate.set()
    store.close()
    assert store._numbers() == [2, 4]


def test_what_killed_processes_left_is_in_nobodys_way(copy):
    """Two died: one before Orbax had finished, the other just after."""
    (copy / "4.part" / "arrays.orbax-checkpoint-tmp").mkdir(parents=True)
    shutil.copytree(copy / "2", copy / "3.part")
    said = []
    store = Checkpoints(copy, said.append)
    assert store.latest()["number"] == 2
    write(store, 3)
    store.close()
    assert said == []
    assert {path.name for path in copy.iterdir()} == {"2", "3"}


@pytest.mark.parametrize(("before", "after"), [(8, 1), (1, 8), (4, 2)])
def test_values_do_not_depend_on_the_number_of_devices(tmp_path, before, after):
    def replicate(tree, count):
        copy = jax.pmap(
            lambda tree, _: tree,
            in_axes=(None, 0),
            out_axes=None,
            devices=jax.devices()[:count],
        )
        return copy(tree, np.arange(count))

    original = {"w": np.float32(np.random.default_rng(0).standard_normal((64, 33)))}
    store = Checkpoints(tmp_path)
    store.save(replicate(original, before), FACTS)
    store.close()
    store = Checkpoints(tmp_path)
    store.latest()
    restored = replicate(store.restore(original), after)
    assert len(restored["w"].sharding.device_set) == after
    assert same(jax.device_get(restored), original)
