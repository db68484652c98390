"""What a strategy may leave out, and what stands in for it."""

import math

import numpy as np
import pytest

from hyperdyn_jax import LogUniform, Schedule, SearchSpace, strategies
from hyperdyn_jax.strategies.hyperdyn import Hyperdyn
from hyperdyn_jax.strategies.race import Race
from hyperdyn_jax.tuner import interface

SPACE = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
EVERY = [
    Hyperdyn(SPACE),
    Race(SPACE, 48, 32),
    strategies.RandomSearch(SPACE),
    strategies.HyperbandVariant(SPACE),
    strategies.GreedyBestOfTwo(SPACE),
    strategies.DoNothingControl(Hyperdyn(SPACE)),
    strategies.AutoLRS(SPACE),
    strategies.PB2(SPACE),
    Schedule.constant(learning_rate=0.1),
    strategies.Replay({"learning_rate": 0.1}, (10, 20), 10),
    strategies.ReduceOnPlateau({"learning_rate": 0.1}),
]


class Least:
    """A user's strategy with only what it needs."""

    metric = "loss"

    def init(self, key, score):
        return {"key": key, "score": score}

    def ask(self, _):
        return interface.Trials.of({"learning_rate": [0.1]})

    def tell(self, state, *_):
        return state, None


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: type(s).__name__)
def test_every_strategy_says_all_that_a_loop_reads(strategy):
    assert isinstance(strategy, interface.Strategy)
    assert interface.complete(strategy) is strategy
    state = strategy.init(np.zeros(2, np.uint32), -2.0)
    scheduled = isinstance(strategy, Schedule | strategies.ReduceOnPlateau)
    assert set(strategy.searched) == (set() if scheduled else {"learning_rate"})
    assert strategy.metric in ("accuracy", "loss")
    assert strategy.incumbent(state) is None  # before its first decision
    steps = {"Race": 48 * 32, "Replay": 20}
    name = type(strategy).__name__
    assert strategy.accepted_steps(state) == steps.get(name)
    averaged = name == "Race"
    assert strategy.averaging == (5.0 if averaged else None)
    assert strategy.backtracking == averaged
    trials = {"AutoLRS": 1 / 40, "Race": math.inf}
    assert strategy.shortest_trial == trials.get(name, 1.0)
    made = {"epochs": 48, "steps_per_epoch": 32}
    made = dict.fromkeys(steps, made) | {"Replay": {"steps_per_epoch": 10}}
    assert strategy.made_for == made.get(name, {})


def test_a_strategy_of_four_names_gets_the_defaults():
    least = Least()
    strategy = interface.complete(least)
    state = strategy.init("a key", 1.0)
    assert state == {"key": "a key", "score": 1.0}
    assert strategy.ask(state).setting(0) == {"learning_rate": np.float32(0.1)}
    assert strategy.tell(state, None, [0.0]) == (state, None)
    assert (strategy.metric, type(strategy).__name__) == ("loss", "Least")
    assert strategy.incumbent(state) is None
    assert strategy.accepted_steps(state) is None
    assert (strategy.averaging, strategy.backtracking) == (None, False)
    assert (strategy.shortest_trial, strategy.made_for) == (1.0, {})
    assert strategy.searched == {}


def test_what_a_strategy_has_is_kept_however_it_has_it():
    class Proxy(Least):
        """One that delegates, as those do that many processes share."""

        space = SPACE
        averaging = 3.0

        def __getattr__(self, name):
            if name == "backtracking":
                return True
            raise AttributeError(name)

    least = Proxy()
    least.accepted_steps = lambda _: 7  # a function, not a method
    strategy = interface.complete(least)
    assert strategy.averaging == 3.0
    assert strategy.backtracking is True
    assert strategy.searched is SPACE
    assert strategy.accepted_steps("any state") == 7


def test_what_is_no_strategy_is_told_what_it_lacks():
    class Half:
        metric = "loss"

        def ask(self, state):
            return state

    with pytest.raises(ValueError, match="lacks init, tell"):
        interface.complete(Half())
