"""Each bad input: all of its problems, a line each, before anything is made."""

import bad_inputs
import pytest
from absl import flags

from hyperdyn_jax.commands import cli


def train(words):
    """The exit code of train.py, in this process."""
    argv = ["train.py", *words]
    try:
        cli.parse_flags(argv)
    except SystemExit as stop:
        return stop.code
    except flags.UnrecognizedFlagError:  # this program has not its flags; they are good
        others = (cli.flag_value(words, name) for name in ("workdir", "fork"))
        return cli.run(cli.load_config(argv), *others)
    raise AssertionError("it takes flags that it does not know")


def test_there_are_enough_and_each_has_a_name():
    assert len({case.name for case in bad_inputs.CASES}) == len(bad_inputs.CASES) >= 70


@pytest.mark.parametrize(
    "case",
    [case for case in bad_inputs.CASES if not case.late],
    ids=lambda case: case.name.replace(" ", "_"),
)
def test_bad_input(case, tmp_path, capfd, compilations):
    with case.prepared(tmp_path):
        before = bad_inputs.contents(tmp_path)
        capfd.readouterr()
        with compilations() as counter:
            code = train(case.command(tmp_path))
        out, err = capfd.readouterr()
        assert bad_inputs.contents(tmp_path) == before
    assert (code, out, counter.count) == (2, "", 0)
    lines, expected = err.splitlines(), case.expected(tmp_path)
    assert len(lines) == len(expected), lines
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
