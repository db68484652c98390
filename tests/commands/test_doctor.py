"""The doctor: what is in order, what is missing, and what is broken."""

import sys
from importlib import metadata

import pytest
import tfds_fixture
from packaging.requirements import Requirement

from hyperdyn_jax import doctor


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_sound_machine_is_found_so(tmp_path, capsys):
    assert doctor.main([f"--workdir={tmp_path / 'runs'}"]) == 0
    out, errors = capsys.readouterr()
    assert errors == ""
    lines = [line.split(maxsplit=2) for line in out.splitlines()]
    assert {what for state, what, _ in lines if state != "ok"} <= {"extra"}
    assert {state for state, *_ in lines} <= {"ok", "missing"}
    told = {}
    for _, what, text in lines:
        told.setdefault(what, []).append(text)
    version = ".".join(map(str, sys.version_info[:3]))
    assert told["python"][0].startswith(version)
    assert told["jax"][0].startswith(metadata.version("jax"))
    assert f"flax {metadata.version('flax')}" in told["packages"][0]
    assert told["devices"][0].startswith("8 x cpu")
    assert "free, " in told["disk"][0]
    assert not (tmp_path / "runs").exists()
    assert not list(tmp_path.glob("tmp*"))


def test_what_is_broken_is_told_and_exits_2(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    flags = [f"--data_dir={tmp_path / 'none'}", f"--workdir={file / 'runs'}"]
    assert doctor.main(flags) == 2
    _, errors = capsys.readouterr()
    data, disk = errors.splitlines()
    assert data.startswith("error: data: --data_dir=")
    assert "is not a folder" in data
    assert disk.startswith("error: disk: --workdir=")
    assert f"cannot be written: {file} is not a writable folder" in disk


def test_one_part_that_fails_hides_no_other(tmp_path, monkeypatch, capsys):
    def fail():
        raise RuntimeError("no device answers")

    monkeypatch.setattr(doctor, "devices", fail)
    assert doctor.main([f"--workdir={tmp_path}"]) == 2
    out, errors = capsys.readouterr()
    assert errors == "error: devices: RuntimeError: no device answers\n"
    assert "disk" in out


def test_what_is_not_installed_is_missing_and_not_broken(monkeypatch, capsys, tmp_path):
    def lacking(requirement):
        return "wandb is not installed" if requirement.name == "wandb" else ""

    monkeypatch.setattr(doctor, "lacking", lacking)
    assert doctor.main([f"--workdir={tmp_path}", f"--data_dir={tmp_path}"]) == 0
    out, errors = capsys.readouterr()
    advice = 'pip install -e ".[wandb]" if needed'
    assert f"missing  extra     wandb: wandb is not installed; {advice}\n" in out
    assert f"missing  data      no cifar10 in {tmp_path}; python -m" in out
    assert errors == ""


def test_the_version_of_jax_is_told_where_nothing_is_installed(monkeypatch):
    def fail(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(doctor.metadata, "requires", fail)
    python, jax, package = doctor.packages()
    assert python.text.startswith(".".join(map(str, sys.version_info[:3])))
    assert jax.text.startswith(metadata.version("jax"))
    assert (package.missing, package.good) == (True, True)


@pytest.mark.parametrize(
    ("requirement", "told"),
    [
        ("jax>=0.4", ""),
        ("jax<0.1", "jax must be <0.1, it is"),
        ("no-such-package-here>=1", "no-such-package-here is not installed"),
        ("jax[tpu]", "libtpu is not installed"),
        ("jax[cuda12]", "is not installed"),
    ],
)
def test_versions_and_extras_are_compared(requirement, told):
    line = doctor.lacking(Requirement(requirement))
    assert told in line
    assert bool(line) == bool(told)


def test_data_sets_are_opened_and_their_first_records_decoded(tmp_path):
    tfds_fixture.write_cifar10(tmp_path)
    found = list(doctor.data_sets(tmp_path))
    assert all(finding.good for finding in found)
    (cifar,) = [f.text for f in found if f.text.startswith("cifar10: ")]
    assert cifar.endswith("the first of each can be read, 32x32")
    (imagenet,) = [f.text for f in found if f.text.startswith("no imagenet")]
    assert imagenet.endswith(f"prepare imagenet --data_dir={tmp_path}")


def test_a_damaged_data_set_is_broken(tmp_path):
    tfds_fixture.write_cifar10(tmp_path)
    for shard in tmp_path.rglob("*train*array_record*"):
        shard.unlink()
    (bad,) = [finding for finding in doctor.data_sets(tmp_path) if not finding.good]
    assert "is not whole" in bad.text
