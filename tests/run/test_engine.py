"""The engine that networks and a user's own loop share, driven through `tune`."""

import itertools
import json
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from hyperdyn_jax import DivergedError, LogUniform, SearchSpace, tune
from hyperdyn_jax.run import verdicts
from hyperdyn_jax.run.engine import Engine, rollback
from hyperdyn_jax.run.own_loop import OwnLoop
from hyperdyn_jax.run.rows import InMemory
from hyperdyn_jax.strategies import common, learned_schedule
from hyperdyn_jax.tuner.interface import Strategy, Trials

KEY = jax.random.key(0)


class Scripted(Strategy):
    """Plays decisions that were written down: each is (rates, is a probe)."""

    metric = "accuracy"
    space = SearchSpace(learning_rate=LogUniform(1e-6, 10.0))

    def __init__(self, *script, name="learning_rate"):
        self.script, self.name = script, name

    def init(self, key, score):  # noqa: ARG002 (nothing is random)
        return np.int32(0)

    def _turn(self, state):
        return self.script[min(int(state), len(self.script) - 1)]

    def ask(self, state):
        return Trials.of({self.name: self._turn(state)[0]})

    def tell(self, state, trials, scores):  # noqa: ARG002
        best, (_, probe) = common.best_branch(scores), self._turn(state)
        if probe or best < 0:
            decision = common.stay(0, hold=[len(scores)])
        else:
            decision = common.accept(0, best)
        return state + np.int32(1), decision


def train(state, hparams, steps):
    """Diverges above a rate of 1."""
    bad = max(hparams.values()) > 1
    return state + (np.float32(np.nan) if bad else np.float32(len(steps)))


def run(*script, epochs=3, evaluate=float, **options):
    size = {"epochs": epochs, "steps_per_epoch": 2, "key": KEY}
    strategy = Scripted(*script)
    return tune(train, evaluate, np.float32(0), strategy, **size, **options)


SOUND, PROBE, BAD = ([0.5], False), ([0.5], True), ([5.0], False)


def test_sound_probes_between_them_do_not_keep_a_diverging_run_alive():
    """Of a hyperparameter that has no limit which could be lowered."""
    endless = itertools.chain.from_iterable([(BAD, PROBE)] * 9)
    strategy = Scripted(SOUND, *endless, name="noise")
    size = {"epochs": 3, "steps_per_epoch": 2, "key": KEY}
    with pytest.raises(DivergedError, match=r"every branch of epoch 1 .* 4 times in a"):
        tune(train, float, np.float32(0), strategy, **size)


def test_only_where_everything_diverges_is_the_range_narrowed_and_a_way_back_told():
    result = run(BAD, PROBE, BAD, PROBE, ([0.9], False), ([3.0], False))
    told = [row["rollback"] for row in result.decisions]
    first, second = {"attempt": 1}, {"attempt": 2, "learning_rate_limit": 0.5}
    assert told[0] == first | {"learning_rate_limit": None}
    assert told[1] is None  # a sound probe
    assert told[2] == second
    assert told[3:] == [None] * len(told[3:])
    tried = [row["trials"][0]["learning_rate"] for row in result.decisions]
    assert tried[3:] == [0.5, 0.5, 0.5, 0.5]  # under the limit, which stays


def test_seconds_are_those_of_a_clock_with_every_probe_and_score(monkeypatch):
    """Each call of the user's functions takes what it says, and nothing else time."""
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def slow(seconds, function):
        def call(*arguments):
            nonlocal now
            now += seconds
            return function(*arguments)

        return call

    size = {"epochs": 2, "steps_per_epoch": 2, "key": KEY}
    script = Scripted(PROBE, ([0.5, 0.25], True), SOUND, ([0.5, 0.25], False))

    def apart(state, hparams, steps):  # by a little, or that is told
        return (
            train(state, hparams, steps) + np.float32(1e-3) * hparams["learning_rate"]
        )

    result = tune(slow(1.0, apart), slow(16.0, float), np.float32(0), script, **size)
    # The score of the untrained state belongs to no epoch.
    assert [row["seconds"] for row in result.metrics] == [4 * 17, 2 * 17]
    assert [row["trial_seconds"] for row in result.metrics] == [3 * 17, 17]
    assert (
        "12 total steps with every trial (+200%)\n    trials added 200% to"
        in result.summary()
    )
    assert now - 100.0 == 16 + sum(row["seconds"] for row in result.metrics)


def test_total_steps_are_those_that_were_trained():
    trained = 0

    def counting(state, hparams, steps):
        nonlocal trained
        trained += len(steps)
        return train(state, hparams, steps)

    size = {"epochs": 3, "steps_per_epoch": 4, "key": KEY}
    script = Scripted(([0.1, 5.0], True), ([0.1, 0.2, 0.3], False), BAD, SOUND)
    result = tune(counting, float, np.float32(0), script, **size)
    last = result.metrics[-1]
    assert last["step"] == 12 == result.state
    extra = sum(row["extra_steps"] for row in result.decisions)
    assert last["total_steps"] == trained == last["step"] + extra


class GoingBack(Scripted):
    """Holds on to the state after the first epoch, and goes back to it after the
    third."""

    def tell(self, state, trials, scores):  # noqa: ARG002
        epoch = int(state)
        hold = [[0, 0], [0, 2], [2, 2], [0, 2]][min(epoch, 3)]
        stays = epoch == 2
        decision = common.stay(epoch, hold) if stays else common.accept(epoch, 0)
        return state + np.int32(1), decision._replace(hold=np.array(hold))


def test_a_run_that_goes_back_has_the_steps_of_the_state_that_it_goes_on_from(capsys):
    seen = []

    def watched(state, hparams, steps):
        seen.append(steps)
        return train(state, hparams, steps)

    rates = [([rate], False) for rate in (0.1, 0.2, 0.3, 0.4, 0.5)]
    size = {"epochs": 3, "steps_per_epoch": 2, "key": KEY}
    going_back = GoingBack(*rates)
    result = tune(watched, float, np.float32(0), going_back, progress=True, **size)
    ranges = [range(0, 2), range(2, 4), range(4, 6), range(2, 4), range(4, 6)]
    assert seen == ranges
    assert [row["step"] for row in result.metrics] == [2, 4, 4, 6]
    assert ["path" in row for row in result.metrics] == [False, False, True, False]
    assert result.decisions[2]["rollback"] == {"step": 2}
    told = "clearly behind its best score; the run goes back to step 2, leaving lr 0.3"
    assert told in capsys.readouterr().out.splitlines()[2]
    extra = sum(row["extra_steps"] for row in result.decisions)
    assert result.metrics[-1]["total_steps"] == 10 == 6 + extra
    assert "with every trial and what was taken back (+67%)" in result.summary()
    assert result.state == 6
    rate = result.schedule["learning_rate"]
    expected = np.float32([0.1, 0.1, 0.4, 0.4, 0.5, 0.5])
    assert [float(rate(i)) for i in range(6)] == expected.tolist()


class Undoing(Scripted):
    """Takes back what it calls a probe, as steps of the run."""

    def tell(self, state, trials, scores):
        _, undone = self._turn(state)
        state, decision = super().tell(state, trials, scores)
        return state, decision._replace(undone=undone)


def test_steps_that_a_run_takes_back_at_once_are_no_probe(capsys):
    size = {"epochs": 2, "steps_per_epoch": 2, "key": KEY, "progress": True}
    script = Undoing(SOUND, PROBE, SOUND)
    result = tune(train, float, np.float32(0), script, **size)
    told = [row["rollback"] for row in result.decisions]
    assert told == [None, {"step": 2}, None]
    line = "clearly behind its best score; the run goes back to step 2, leaving lr 0.5"
    assert line in capsys.readouterr().out


def test_a_run_that_diverges_tells_the_earlier_step_that_it_goes_back_to():
    before = SimpleNamespace(attempts=0, step=40)
    after = SimpleNamespace(attempts=1, step=20, limit=None)
    back = {"attempt": 1, "learning_rate_limit": None, "step": 20}
    assert rollback(before, after, True) == back
    row = {"branch": -1, "rollback": back, "trials": [{}], "scores": [None]}
    row |= {"score_before": 1.0, "epoch": 0}
    assert verdicts.outcome(row) == "rolled back"
    assert verdicts.reason(row).startswith("every branch diverged; back to step 20, a")


class Spending(Scripted):
    """Trials that diverge come out of the run's own steps."""

    def init(self, key, score):  # noqa: ARG002
        return np.zeros(2, np.int32)  # decisions, steps that are gone

    def ask(self, state):
        return super().ask(state[0])

    def accepted_steps(self, state):
        return 8 - int(state[1])

    def tell(self, state, trials, scores):
        _, decision = super().tell(state[0], trials, scores)
        gone = 2 * (decision.branch < 0)
        return state + np.array([1, gone], np.int32), decision


def test_a_run_whose_last_steps_went_into_a_trial_ends_where_it_stands(tmp_path):
    size = {"epochs": 4, "steps_per_epoch": 2, "key": KEY, "workdir": tmp_path}
    script = Spending(SOUND, BAD, SOUND, BAD)
    for _ in range(2):  # the second only reads it
        result = tune(train, float, np.float32(0), script, **size)
        assert [row["step"] for row in result.metrics] == [2, 4, 4]
        assert result.metrics[-1]["total_steps"] == 8
        assert (result.state, result.score, result.best_epoch) == (4, 4, 2)
        rate = result.schedule["learning_rate"]
        assert [float(rate(i)) for i in range(4)] == [0.5] * 4


def test_a_run_whose_trials_took_every_step_says_so_and_trains_no_more():
    """Not even where that is none: a length of 0 is not a length that is not given."""
    trained = 0

    def counting(state, hparams, steps):
        nonlocal trained
        trained += len(steps)
        return train(state, hparams, steps)

    size = {"epochs": 4, "steps_per_epoch": 2, "key": KEY}
    probing = Spending(PROBE)  # which leaves the run where it is
    with pytest.raises(
        DivergedError, match="trials took all 8 steps before any was ac"
    ):
        tune(counting, float, np.float32(0), probing, **size)
    assert trained == 8


def test_a_last_row_without_a_step_tells_no_training_and_follows_on_its_state():
    class Back(Spending):
        """Goes back to the first state in its last decision, which ends the run."""

        def tell(self, state, trials, scores):  # noqa: ARG002
            first, last = state[0] == 0, state[0] == 2
            decision = common.stay(0, [2, 2]) if last else common.accept(0, 0)
            hold = [0, 0] if first else [2, 2] if last else [0, 2]
            gone = 6 * last
            new = state + np.array([1, gone], np.int32)
            return new, decision._replace(hold=np.array(hold))

    size = {"epochs": 4, "steps_per_epoch": 2, "key": KEY}
    rates = [([rate], False) for rate in (0.1, 0.2, 0.3)]
    result = tune(train, float, np.float32(0), Back(*rates), **size)
    last = result.metrics[-1]
    assert (last["step"], last["train_loss"], result.state) == (2, None, 2)
    rate = result.schedule["learning_rate"]
    assert [float(rate(i)) for i in range(2)] == np.float32([0.1, 0.1]).tolist()
    assert len(rate_pieces(result)) == 1


def rate_pieces(result):
    return learned_schedule.to_schedule(result.metrics)["until_step"]


def test_the_last_row_of_a_network_without_a_step_has_no_training_loss():
    """As the mean over no step would be a number."""

    class Network(OwnLoop):
        def _scored(self, held):
            return super()._scored(held)._replace(train_loss=0.5)

    strategy = Spending(SOUND, BAD, SOUND, BAD)
    training = Network(strategy, train, float, np.float32(0), 4, 2)
    directory = InMemory()
    engine = Engine(strategy, training, backtracking=False)
    engine.run_to_end(training.begin(KEY), directory, lambda *_: None)
    told = [(row["step"], row["train_loss"]) for row in directory.rows["metrics"]]
    assert told == [(2, 0.5), (4, 0.5), (4, None)]


class Population(Scripted):
    """Three states, each with a rate of its own; another one leads in every epoch."""

    ranks = ((0, 1, 2), (1, 0, 2), (1, 2, 0), (2, 0, 1))

    def ask(self, state):
        rates = np.float32([0.1, 0.2, 0.3]) + np.float32(0.01) * int(state)
        parents = np.zeros(3) if state == 0 else np.arange(3)
        trials = Trials.of({"learning_rate": rates})
        return trials._replace(parents=parents.astype(np.int32))

    def tell(self, state, trials, scores):  # noqa: ARG002
        hold = np.array(self.ranks[int(state)])
        decision = common.accept(int(state), hold[0], hold=hold)
        return state + np.int32(1), decision


def test_the_schedule_is_the_path_of_the_state_that_the_run_ends_with():
    """Also where the run is another one of a population from epoch to epoch."""

    def remember(state, hparams, steps):
        return np.append(state, [hparams["learning_rate"]] * len(steps))

    size = {"epochs": 4, "steps_per_epoch": 2, "key": KEY}
    start = np.zeros(0, np.float32)
    whole = tune(remember, last_of, start, Population(), **size)
    rate = whole.schedule["learning_rate"]
    assert [float(rate(i)) for i in range(8)] == whole.state.tolist()
    assert len(set(whole.state.tolist())) == 4


class Holding(Strategy):
    """Decisions that were written down: rates, the held states that they start from,
    the branch that is accepted (-1 for none), and what is held on to."""

    metric = "loss"

    def __init__(self, *script):
        self.script = script

    def init(self, key, score):  # noqa: ARG002 (nothing is random)
        return np.int32(0)

    def ask(self, state):
        rates, parents, *_ = self.script[int(state)]
        trials = Trials.of({"learning_rate": rates})
        return trials._replace(parents=np.array(parents, np.int32))

    def tell(self, state, trials, scores):  # noqa: ARG002
        *_, branch, hold = self.script[int(state)]
        stays = branch < 0
        decision = common.stay(0, hold) if stays else common.accept(0, branch)
        return state + np.int32(1), decision._replace(hold=np.array(hold))


FORK = ([0.1, 0.2], [0, 0], 0, [0, 1])  # the run at 0.1, the other at 0.2


@pytest.mark.parametrize(
    "script",
    [
        # The run becomes the other state before it is trained on.
        [FORK, ([0.3], [0], -1, [2]), ([0.4], [0], 0, [0]), ([0.5], [0], 0, [0])],
        # It goes on as the other, and comes back to the one that the rows told.
        [FORK, ([0.3], [1], 0, [0, 1]), ([0.4], [1], 0, [0]), ([0.5], [0], 0, [0])],
        # Both: it becomes the other, which is trained on, and comes back.
        [FORK, ([0.3], [0], -1, [2, 1]), ([0.4], [0], 0, [0, 2]),
         ([0.5], [1], 0, [0]), ([0.6], [0], 0, [0])],
    ],
    ids=["becomes", "comes back", "both"],
)  # fmt: skip
def test_the_path_of_a_state_that_was_held_is_its_own(script):
    def remember(state, hparams, steps):
        return np.append(state, [hparams["learning_rate"]] * len(steps))

    size = {"epochs": 3, "steps_per_epoch": 2, "key": KEY}
    start = np.zeros(0, np.float32)
    result = tune(remember, last_of, start, Holding(*script), **size)
    rate = result.schedule["learning_rate"]
    assert len(result.state) == 6
    assert [float(rate(i)) for i in range(6)] == result.state.tolist()


LEAVES = [([0.9, 0.2], [0, 0], 0, [0, 1]), ([0.3], [1], 0, [0]), ([0.4], [0], 0, [0])]
THROUGH = [([0.9], [0], 0, [0]), FORK, ([0.3], [1], 0, [0])]
TAKES_BACK = [([0.1], [0], 0, [0, 0]), ([0.9], [0], 0, [0, 2]), ([0.3], [1], -1, [2]),
              ([0.4], [0], 0, [0]), ([0.5], [0], 0, [0])]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "best", "through"),
    [(LEAVES, 2, [1, 2]), (THROUGH, 0, [0, 2]), (TAKES_BACK, 3, [0, 2, 3])],
    ids=["leaves", "through", "takes back"],
)
def test_the_best_epoch_is_one_that_the_run_came_through(
    tmp_path, script, best, through
):
    """Also where the run was stopped and gone on with."""

    class Backtracking(Holding):
        backtracking = True

    def note(state, hparams, steps):
        state = state.copy()
        state[list(steps)] = hparams["learning_rate"]
        return state

    evaluate = interrupted(lambda state: last_of(state[state > 0]), at=4)

    def again():
        size = {"epochs": 3, "steps_per_epoch": 2, "key": KEY}
        return tune(note, evaluate, np.zeros(6, np.float32), Backtracking(*script),
                    workdir=tmp_path, **size)  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        again()
    result = again()
    assert result.best_epoch == best
    assert learned_schedule.on_path(result.metrics) == through
    rate, steps = result.schedule["learning_rate"], result.metrics[best]["step"]
    assert [float(rate(i)) for i in range(steps)] == result.state[:steps].tolist()


def last_of(state):
    return float(state[-1]) if len(state) else 0.0


def interrupted(evaluate, at):
    """The same function, but for a Ctrl-C at one of its calls."""
    calls = itertools.count(1)

    def stopped(state):
        if next(calls) == at:
            raise KeyboardInterrupt
        return evaluate(state)

    return stopped


@pytest.fixture
def kept(tmp_path):
    """A run that was stopped in its third epoch, and how to go on with it."""

    def again(stop=None, epochs=4, **options):
        evaluate = interrupted(float, at=stop)
        return run(SOUND, epochs=epochs, evaluate=evaluate, workdir=tmp_path, **options)

    with pytest.raises(KeyboardInterrupt):
        again(stop=4)
    return tmp_path, again


@pytest.mark.parametrize("name", ["a[b]", "a*?", "[é] #1"])
def test_a_folder_with_a_name_like_a_pattern_can_be_gone_on_with(tmp_path, name):
    evaluate = interrupted(float, at=4)
    options = {"epochs": 4, "evaluate": evaluate, "workdir": tmp_path / name}
    with pytest.raises(KeyboardInterrupt):
        run(SOUND, **options)
    assert run(SOUND, **options).state == 8


def test_a_damaged_state_is_told_and_the_one_before_it_goes_on(kept, capsys):
    path, again = kept
    newest = max((path / "checkpoints").iterdir(), key=lambda x: int(x.name))
    (newest / "facts.json").write_text("{}")
    assert again().state == 8
    assert f"checkpoint {newest.name} is damaged" in capsys.readouterr().out


def test_rows_are_added_to_their_files_and_never_written_again(kept):
    path, again = kept
    before = (path / "metrics.jsonl").stat()
    result = again()
    after = (path / "metrics.jsonl").stat()
    assert after.st_ino == before.st_ino
    assert after.st_size > before.st_size
    lines = (path / "metrics.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == result.metrics


def test_an_unfinished_run_of_another_version_is_refused(kept):
    path, again = kept
    for folder in (path / "checkpoints").iterdir():
        replace_format(folder / "facts.json")
    with pytest.raises(ValueError, match="of another version, format 1, not 2; finish"):
        again()


def replace_format(file):
    """What a version without one would have written."""
    from hyperdyn_jax.run import checkpoints

    sealed = json.loads(file.read_text())
    del sealed["digest"]
    del sealed["facts"]["format"]
    digest = checkpoints._digest_json(sealed)
    file.write_text(json.dumps(sealed | {"digest": digest}))


def test_texts_and_integers_of_any_size_are_kept(tmp_path):
    """As a NumPy generator's state has them."""

    def step(state, _, steps):
        rng = np.random.default_rng()
        rng.bit_generator.state = state["rng"]
        drawn = state["sum"] + rng.standard_normal(len(steps)).sum()
        return {"rng": rng.bit_generator.state, "sum": drawn, "what": b"\0walk"}

    stop, calls = 3, 0

    def evaluate(state):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return state["sum"]

    start = {"rng": np.random.default_rng(7).bit_generator.state, "sum": 0.0}
    start |= {"what": b"walk"}
    size = {"epochs": 3, "steps_per_epoch": 5, "key": KEY}
    with pytest.raises(KeyboardInterrupt):
        tune(step, evaluate, start, Scripted(SOUND), workdir=tmp_path, **size)
    result = tune(step, evaluate, start, Scripted(SOUND), workdir=tmp_path, **size)
    expected = np.random.default_rng(7)
    total = 0.0
    for _ in range(3):
        total = total + expected.standard_normal(5).sum()
    assert result.state["sum"] == total
    assert result.state["rng"] == expected.bit_generator.state
    assert result.state["what"] == b"\0walk"


def test_leaves_come_back_as_what_they_became(tmp_path):
    """Python's numbers that a step has made arrays of, as Flax's count of steps."""

    def step(state, _, steps):
        count = jax.numpy.asarray(state["count"] + len(steps), "int32")
        return {"count": count, "w": np.float32(state["w"]), "on": not state["on"]}

    stop, calls, seen = 3, 0, []

    def evaluate(state):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        seen.append({name: type(x) for name, x in state.items()})
        return 50.0

    start = {"count": 0, "w": 0.5, "on": False}
    size = {"epochs": 4, "steps_per_epoch": 49, "key": KEY}
    with pytest.raises(KeyboardInterrupt):
        tune(step, evaluate, start, Scripted(SOUND), workdir=tmp_path, **size)
    result = tune(step, evaluate, start, Scripted(SOUND), workdir=tmp_path, **size)
    assert int(result.state["count"]) == 4 * 49
    assert all(types == seen[-1] for types in seen[1:])
    assert result.state["on"] is False


def test_a_score_beyond_float32_is_no_sound_one():
    """The strategy sees an infinity; so does the engine, or the run would never end."""
    calls = iter(range(20))  # a run without an end would take more

    def evaluate(state):
        assert next(calls, None) is not None
        return -1e300 if state else 0.0

    with pytest.raises(DivergedError):
        run(SOUND, evaluate=evaluate)


def test_a_finished_run_is_read_whatever_its_scores_were(tmp_path):
    """A loss that falls to 0 and beyond begins no run of this strategy."""

    class Strict(Scripted):
        def init(self, key, score):
            if not score < 0:
                raise ValueError(score)
            return super().init(key, score)

    size = {"epochs": 2, "steps_per_epoch": 2, "key": KEY, "workdir": tmp_path}
    for _ in range(2):
        start = np.float32(-1)
        assert tune(train, float, start, Strict(SOUND), **size).score == 3


def test_the_callback_is_given_the_state_of_its_row():
    class Backtracking(Scripted):
        backtracking = True

    told = []
    size = {"epochs": 3, "steps_per_epoch": 2, "key": KEY}
    tune(
        train, lambda state: -abs(float(state) - 2), np.float32(0), Backtracking(SOUND),
        callback=lambda state, row: told.append((float(state), row["step"])), **size,
    )  # fmt: skip
    assert told == [(2, 2), (4, 4), (6, 6)]


def test_every_decision_is_told_before_what_it_accepts():
    told = []
    result = run(
        PROBE, SOUND, BAD, PROBE, SOUND,
        callback=lambda _, row: told.append(row), on_decision=told.append,
    )  # fmt: skip
    assert [row for row in told if "trials" in row] == result.decisions
    assert [row for row in told if "trials" not in row] == result.metrics
    kinds = ["trials" in row for row in told]
    assert kinds == [True, True, False, True, True, True, False, True, False]


def test_the_model_s_lengths_have_the_names_of_its_axes():
    class Modelled(Scripted):
        space = SearchSpace(noise=LogUniform(1e-3, 1), decay=LogUniform(1e-3, 1))

        def ask(self, state):  # noqa: ARG002
            lengths = np.array([1, 2], np.float32)
            trials = Trials.of({"decay": [0.1], "noise": [0.2]})  # as jit sorts them
            return trials._replace(model={"length_scale": lengths})

    size = {"epochs": 1, "steps_per_epoch": 2, "key": KEY}
    (row,) = tune(train, float, np.float32(0), Modelled(SOUND), **size).decisions
    assert row["gp"]["length_scales"] == {"noise": 1.0, "decay": 2.0}


def test_other_settings_of_a_strategy_without_a_repr_are_another_run(tmp_path):
    run(SOUND, workdir=tmp_path)
    with pytest.raises(ValueError, match="holds a run of another config"):
        run(PROBE, SOUND, workdir=tmp_path)


def test_the_same_of_a_class_that_is_no_subclass(tmp_path):
    class Plain:
        metric = "loss"

        def __init__(self, rate):
            self.rate = rate

        def init(self, key, score):  # noqa: ARG002
            return np.int32(0)

        def ask(self, state):  # noqa: ARG002
            return Trials.of({"learning_rate": [self.rate]})

        def tell(self, state, trials, scores):  # noqa: ARG002
            return state, common.accept(0, 0)

    size = {"epochs": 2, "steps_per_epoch": 2, "key": KEY, "workdir": tmp_path}
    for _ in range(2):
        assert tune(train, float, np.float32(0), Plain(0.1), **size).state == 4
    with pytest.raises(ValueError, match="holds a run of another config"):
        tune(train, float, np.float32(0), Plain(0.2), **size)


def test_evaluate_may_not_change_the_state():
    def spoil(state):
        state["w"] = 2.0
        return 1.0

    size = {"epochs": 1, "steps_per_epoch": 2, "key": KEY}
    with pytest.raises(ValueError, match="evaluate changes the state that it is given"):
        tune(lambda s, *_: s, spoil, {"w": np.float32(0)}, Scripted(SOUND), **size)


class Loader:
    """Something that branches would share."""


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (Loader(), r"a Loader at state\['x'\], which is neither numbers nor text"),
        (iter([1]), r"a list_iterator at state\['x'\]"),
        (np.random.default_rng(), r"a Generator at state\['x'\]"),
        (np.array(["a"]), r"an array of <U1 at state\['x'\], which is no number"),
        (np.array([Loader()]), r"an array of object at state\['x'\]"),
    ],
)
def test_what_branches_would_share_is_refused_before_the_first_step(leaf, message):
    called = []
    size = {"epochs": 3, "steps_per_epoch": 4, "key": KEY}
    with pytest.raises(ValueError, match=f"the state holds {message}"):
        tune(called.append, called.append, {"x": leaf}, Scripted(SOUND), **size)
    assert not called


def test_functions_may_stand_in_a_state():
    state = {"w": np.float32(0), "act": jax.nn.relu, "jit": jax.jit(abs), "kind": float}
    size = {"epochs": 1, "steps_per_epoch": 1, "key": KEY}

    def step(state, *_):
        return state | {"w": state["w"] + 1}

    result = tune(step, lambda s: s["w"], state, Scripted(SOUND), **size)
    assert result.state["act"] is jax.nn.relu
