"""Flags of several processes, and clusters: which process this one is."""

import pytest

from hyperdyn_jax.commands import cli
from hyperdyn_jax.distributed import rendezvous
from hyperdyn_jax.distributed.place import JoinError, detected, place_of


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ((None, "2", None, None), ["--processes=2 needs --coordinator"]),
        (("here", "2", "0", None), ["--coordinator must be auto or HOST:PORT, a port"]),
        (("a:0", "2", "0", None), ["port in [1, 65535], got 'a:0'"]),
        (("a:1", None, "0", None), ["--processes is missing; it must be a whole"]),
        (
            ("a:1", "0", "0", None),
            ["--processes must be a whole number in [1, 1"],
        ),
        (("a:1", "two", "0", None), ["got 'two'"]),
        (("a:1", "2", "2", None), ["--process must be a whole number in [0, 1], got"]),
        (("a:1", "2", "-1", None), ["got '-1'"]),
        (
            ("a:1", "2", "0", "1"),
            ["--heartbeat must be a number in [2, 3600], got '1'"],
        ),
        (("a:1", "2", "0", "nan"), ["got 'nan'"]),
        (("a:1", "2", "0", ""), ["--heartbeat must be a number in [2, 3600], got ''"]),
        (("x", "2", "0", "y"), ["--heartbeat", "--coordinator"]),
        (("auto", "2", None, "1"), ["--heartbeat", "--processes is found by"]),
    ],
)
def test_flags_that_are_wrong_are_told_of_in_a_line_each(values, problems):
    with pytest.raises(JoinError) as error:
        place_of(*values)
    assert error.value.code == 2
    assert len(error.value.problems) == len(problems)
    for line, part in zip(error.value.problems, problems, strict=True):
        assert part in line


def test_a_process_alone_has_no_place():
    assert place_of() is None
    assert place_of("a:1", "1", "0", None) is None
    assert place_of("[::1]:80", "3", "2", "5") == ("::1", 80, 3, 2, 5.0, "::1")
    assert place_of("a:1", "2", "0").heartbeat == 10


def test_a_cluster_is_found(monkeypatch):
    for name, value in {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "node1,node2",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    place = detected(place_of("auto"))
    assert (place.host, place.processes, place.process) == ("node1", 2, 1)
    with pytest.raises(JoinError, match="--process is found by"):
        place_of("auto", process="1")


def test_no_cluster_is_found():
    with pytest.raises(JoinError, match="finds no cluster here"):
        rendezvous.join(place_of("auto"), {})


def test_the_command_tells_of_all_flags_at_once(capsys):
    flags = ["--config=digits", "--config.epochs=0", "--process=1"]
    with pytest.raises(SystemExit) as error:
        cli.parse_flags(["train.py", *flags])
    assert error.value.code == cli.BAD_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: --process=1 needs --coordinator")
    assert lines[1].startswith("error: config.epochs must be >= 1")
