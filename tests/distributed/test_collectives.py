"""What processes share and agree on; here one that takes itself for two."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperdyn_jax.distributed import collectives
from hyperdyn_jax.strategies import common

Pair = collections.namedtuple("Pair", ("b", "a"))


@pytest.fixture
def two(monkeypatch):
    """The sums are those of two processes, of which the other one adds nothing."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)


def test_what_a_process_alone_asks_and_shares_is_its_own():
    tree = {"b": np.float32(1), "a": [2, None]}
    assert collectives.first()
    assert collectives.share_tree(tree) is tree
    assert collectives.share_json(tree) is tree
    assert collectives.shared(tree) is tree
    assert collectives.any_of(True)
    assert not collectives.any_of(False)
    assert collectives.agreed(test_a_tuner_shares_what_it_finds) is (
        test_a_tuner_shares_what_it_finds
    )
    assert collectives.union(["a", "b", "a"]) == ["a", "b"]


@pytest.mark.usefixtures("two")
def test_a_tree_is_shared_to_the_bit():
    """Numbers that a sum or a cast would change; orders and kinds that JAX would."""
    odd = np.array([-0.0, np.nan, np.inf, 5e-324, 1 / 3])
    odd.view(np.uint64)[1] += 5  # a NaN with a payload
    tree = {
        "z": odd,
        "a": [jnp.array([1.5, -0.0], jnp.bfloat16), np.zeros((0, 3), np.int8)],
        "m": Pair(b={"y": 3, "x": 2**40}, a=(True, 0.1, None)),
        "long": np.arange(collectives.WORDS + 1, dtype=np.int64),
    }
    shared = collectives.share_tree(tree)
    assert list(shared) == list(tree)
    assert type(shared["m"]) is Pair
    assert list(shared["m"].b) == ["y", "x"]
    for mine, other in zip(*map(jax.tree.leaves, (tree, shared)), strict=True):
        if isinstance(mine, int | float):
            assert type(other) is type(mine)
            assert other == mine
        else:
            assert other.dtype == mine.dtype
            assert other.shape == mine.shape
            assert other.tobytes() == np.asarray(mine).tobytes()


@pytest.mark.usefixtures("two")
def test_one_that_is_not_the_source_adds_nothing(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    words = np.arange(3, dtype=np.uint32)
    np.testing.assert_array_equal(collectives._from(0, words), [0, 0, 0])
    np.testing.assert_array_equal(collectives._from(1, words), words)
    assert not collectives.first()


@pytest.mark.usefixtures("two")
def test_json_and_lines_are_shared(monkeypatch):
    value = {"ü": [1, None, 0.1], "b": "x" * 5 * collectives.WORDS}
    assert collectives.share_json(value) == value
    monkeypatch.setattr(collectives, "share_json", lambda x, source: [*x, f"{source}"])
    assert collectives.union(["a", "1"]) == ["a", "1", "0"]


@pytest.mark.usefixtures("two")
def test_an_answer_comes_the_second_time_that_all_are_asked():
    """None waits for the sum that it has just begun."""
    asked = itertools.count()
    answer = collectives.agreed(lambda: next(asked) >= 1)
    every = collectives.EVERY
    assert [answer() for _ in range(2 * every)] == [False] * 2 * every
    assert [answer() for _ in range(every)] == [True, *[False] * (every - 1)]
    assert next(asked) == 3
    assert collectives.any_of(True)
    assert not collectives.any_of(False)


class Tuner:
    """Proposes what is not to be shared twice."""

    space = "its space"

    def init(self, key, score):
        return {"key": key, "score": score}

    def ask(self, state):
        return [{"learning_rate": 0.1 * state}]


@pytest.mark.usefixtures("two")
def test_a_tuner_shares_what_it_finds(monkeypatch):
    monkeypatch.setattr(collectives, "share_tree", lambda tree: ("shared", tree))
    tuner = collectives.shared(Tuner())
    assert tuner.space == "its space"
    assert tuner.init(1, 2.0) == ("shared", {"key": 1, "score": 2.0})
    assert tuner.ask(2) == ("shared", [{"learning_rate": 0.2}])


class Deciding:
    def tell(self, state, trials, scores):  # noqa: ARG002
        decision = common.accept(0, 1)._replace(verdict={"end": "upper"})
        return np.float32(state), decision


@pytest.mark.usefixtures("two")
def test_a_decision_is_shared_but_for_its_words():
    state, decision = collectives.shared(Deciding()).tell(2, None, None)
    assert (state, decision.branch) == (2, 1)
    assert decision.verdict == {"end": "upper"}
