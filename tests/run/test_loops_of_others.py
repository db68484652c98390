"""Loops of many kinds run through `tune`, with few lines changed, and resume."""

import difflib
import functools
import inspect

import jax
import loops_of_others as loops
import numpy as np
import pytest

KINDS = ("mlp", "vae", "transformer", "resnet", "accumulated", "rnn", "sharded",
         "pinn", "reinforce", "bfloat16")  # fmt: skip
HEAVY = ("vae", "transformer", "resnet", "rnn")  # to compile
LOSSES = ("vae", "pinn")
CHANGED = 10  # lines at most
# Their ranges are narrow, which is told.
pytestmark = pytest.mark.filterwarnings("ignore:.*widen the range at its")


def marked(kinds):
    slow = pytest.mark.slow
    return [pytest.param(x, marks=slow) if x in HEAVY else x for x in kinds]


@pytest.fixture(autouse=True)
def as_at_home():
    """JAX as it comes, which is less strict than the other tests have it."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def lines(function):
    """Its lines without their indentation, blank ones and its name."""
    found = [line.strip() for line in inspect.getsource(function).splitlines()]
    return [line for line in found[1:] if line]


@pytest.mark.parametrize("kind", KINDS)
def test_few_lines_change(kind):
    plain, tuned = (getattr(loops, f"{x}_{kind}") for x in ("plain", "tuned"))
    diff = list(difflib.ndiff(lines(plain), lines(tuned)))
    assert 0 < sum(line.startswith("+ ") for line in diff) <= CHANGED
    assert 0 < sum(line.startswith("- ") for line in diff) <= CHANGED


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The tuned run of a kind, which is not stopped."""

    @functools.cache
    def run(kind):
        workdir = tmp_path_factory.mktemp(kind)
        return getattr(loops, f"tuned_{kind}")(workdir=workdir)

    return run


@pytest.mark.parametrize("kind", marked(KINDS))
def test_it_runs_as_it_is_and_tuned(kind, whole):
    """As many steps in all, and no worse for them."""
    plain, result = float(getattr(loops, f"plain_{kind}")()), whole(kind)
    assert result.metrics[-1]["total_steps"] == loops.STEPS
    untrained, sign = result.decisions[0]["score_before"], -1 if kind in LOSSES else 1
    gains = [sign * score - untrained for score in (plain, result.score)]
    assert gains[1] > 0.95 * gains[0] > 0


@pytest.mark.parametrize(
    ("kind", "calls"),
    [("mlp", 60), ("sharded", 5), ("reinforce", 5), ("reinforce", 60)],
)
def test_a_killed_run_goes_on_to_the_bit(kind, calls, whole, tmp_path, monkeypatch):
    tuned, tune = getattr(loops, f"tuned_{kind}"), loops.tune
    expected = whole(kind)

    def stopping(train, *arguments, **options):
        left = iter(range(calls))

        def killed(*given):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return train(*given)

        return tune(killed, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loops, "tune", stopping)
        with pytest.raises(KeyboardInterrupt):
            tuned(workdir=tmp_path)
    result = tuned(workdir=tmp_path)
    assert result.decisions == expected.decisions
    assert result.score == expected.score
    states = (jax.tree.leaves(x.state) for x in (result, expected))
    for a, b in zip(*states, strict=True):
        assert a is b or (a.dtype == b.dtype and bool(np.all(a == b)))
