"""Runs that are stopped anywhere, also inside an epoch, and go on in this process.

On the characters: their perceptron is compiled in a second. The real command, killed
at random moments, is in test_loop.py and, a hundred times, in benchmarks/faults.py.
"""

import json
import time

import jax
import numpy as np
import pytest
from paths import ROOT
from run_state import state

from hyperdyn_jax import loop
from hyperdyn_jax.data.dataset import ArrayDataset
from hyperdyn_jax.distributed import collectives
from hyperdyn_jax.run.config_errors import ConfigError
from hyperdyn_jax.run.console import Display
from hyperdyn_jax.strategies import hyperdyn
from hyperdyn_jax.system import signals


class Recorder(Display):
    """Keeps the lines."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def config(**changes):
    namespace = {}
    exec((ROOT / "configs" / "characters.py").read_text(), namespace)
    config = namespace["get_config"]()
    config.update(batch_size=2048, eval_batch_size=2048, epochs=4)
    config.model.width = 8
    config.hyperdyn.update(capacity=16)
    config.race.update(max_overhead=6.0)
    config.update(changes)
    return config.to_dict()


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Faster than eight virtual ones."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(collectives, "devices", lambda: devices)
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture
def stop_after(monkeypatch):
    """`stop_after(n)`: as if a signal came with the n-th batch from now."""
    left, send = [np.inf], loop.Trainer._send

    def counting(trainer, *batch):
        left[0] -= 1
        if left[0] <= 0:
            monkeypatch.setattr(signals, "_asked", True)
        return send(trainer, *batch)

    def stop_after(count):
        monkeypatch.setattr(signals, "_asked", False)
        left[0] = count

    monkeypatch.setattr(loop.Trainer, "_send", counting)
    return stop_after


@pytest.mark.parametrize(
    ("strategy", "save_minutes"),
    [
        ("hyperdyn", 10.0),
        pytest.param("race", 0.0, marks=pytest.mark.slow),
        pytest.param("pb2", 10.0, marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(
    tmp_path, stop_after, strategy, save_minutes
):
    """A signal at a random batch of training or evaluation, again and again."""
    settings = config(strategy=strategy, save_minutes=save_minutes)
    loop.train_and_evaluate(settings, tmp_path / "whole", Recorder())
    rng, display = np.random.default_rng(0), Recorder()
    inside = stops = 0
    while not any("total steps" in line for line in display.lines):
        stop_after(rng.integers(5, 35))
        display = Recorder()
        try:
            loop.train_and_evaluate(settings, tmp_path / "run", display)
        except KeyboardInterrupt:
            stops += 1
        inside += any(", step " in line for line in display.lines)
    assert stops >= 2
    assert inside >= 1
    assert state(tmp_path / "run") == state(tmp_path / "whole")


def test_a_search_beside_the_training_changes_nothing(tmp_path, monkeypatch):
    """However long it takes, and where the incumbent diverges meanwhile."""
    settings, joined = config(strategy="hyperdyn"), []
    ask, join = hyperdyn.Hyperdyn.ask, loop.Trainer.join

    def slow(tuner, state):
        time.sleep(0.3 * (int(state.epoch) % 3))
        return ask(tuner, state)

    def counting(trainer, ahead, *others):
        joined.append(ahead.steps)
        return join(trainer, ahead, *others)

    monkeypatch.setattr(hyperdyn.Hyperdyn, "ask", slow)
    monkeypatch.setattr(loop.Trainer, "join", counting)
    loop.train_and_evaluate(settings, tmp_path / "beside", Recorder())
    assert len(set(joined)) > 1  # as long as an epoch, and shorter
    assert max(joined) > 1
    monkeypatch.setattr(hyperdyn.Hyperdyn, "incumbent", lambda *_: None)
    count = len(joined)
    loop.train_and_evaluate(settings, tmp_path / "before", Recorder())
    assert len(joined) == count
    assert state(tmp_path / "beside") == state(tmp_path / "before")


def test_a_kill_loses_no_more_than_the_save_interval(tmp_path, monkeypatch):
    """What a process that is saved at every step has done is not done again."""
    settings = config(strategy="constant", epochs=2, save_minutes=0.0)
    trained, step = [], loop.Trainer.train

    def dying(trainer, progress, steps, *others):
        if progress.steps == 9:
            raise ZeroDivisionError  # nothing is saved from here on
        trained.append(progress.start + progress.steps)
        return step(trainer, progress, steps, *others)

    monkeypatch.setattr(loop.Trainer, "train", dying)
    with pytest.raises(ZeroDivisionError):
        loop.train_and_evaluate(settings, tmp_path, Recorder())
    monkeypatch.undo()
    display = Recorder()
    loop.train_and_evaluate(settings, tmp_path, display)
    assert trained == list(range(9))
    assert f"resuming {tmp_path} at epoch 0, step 9" in display.lines


def test_a_fork_starts_anew_from_the_weights(tmp_path):
    """With another optimizer setting, strategy and length; the first run stays."""
    parent = config(strategy="constant", epochs=3)
    rows = loop.train_and_evaluate(parent, tmp_path / "parent", Recorder())
    before = sorted(str(path) for path in (tmp_path / "parent").rglob("*"))
    settings = config(strategy="cosine", epochs=1) | {"fork": str(tmp_path / "parent")}
    settings["optimizer"] |= {"learning_rate": 1e-7}
    (row,) = loop.train_and_evaluate(settings, tmp_path / "fork", Recorder())
    assert row["validation_loss"] == pytest.approx(rows[-1]["validation_loss"], 1e-3)
    assert (row["epoch"], row["step"]) == (0, 16)
    assert before == sorted(str(path) for path in (tmp_path / "parent").rglob("*"))
    assert json.loads((tmp_path / "fork" / "config.json").read_text())["fork"]


def test_a_fork_from_another_network_is_refused_with_a_diff(tmp_path, compilations):
    parent = config(strategy="constant", epochs=1)
    loop.train_and_evaluate(parent, tmp_path / "parent", Recorder())
    settings = config() | {"fork": str(tmp_path / "parent")}
    settings["model"]["width"] = 16
    with compilations() as counter, pytest.raises(ConfigError) as caught:
        loop.train_and_evaluate(settings, tmp_path / "fork", Recorder())
    (line,) = caught.value.problems
    assert "hidden/bias is float32[16] here, float32[8] there" in line
    assert counter.count == 0
    assert not (tmp_path / "fork").exists()
    settings["fork"] = str(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="nothing is no folder"):
        loop.train_and_evaluate(settings, tmp_path / "fork", Recorder())


def test_other_data_are_refused_with_a_diff(tmp_path, monkeypatch):
    settings = config(strategy="constant", epochs=1)
    loop.train_and_evaluate(settings, tmp_path, Recorder())
    monkeypatch.setattr(loop, "is_finished", lambda _: False)
    size = ArrayDataset.size
    monkeypatch.setattr(ArrayDataset, "size", lambda *a: size(*a) - 1)
    with pytest.raises(ConfigError, match=r"4,095 validation.*there") as caught:
        loop.train_and_evaluate(settings, tmp_path, Recorder())
    assert "32,768 train, 4,096 validation, 4,096 test there" in str(caught.value)
