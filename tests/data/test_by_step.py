"""Batches by step, of loaders that cannot seek: alike for every branch and resume."""

import importlib.util

import grain
import jax
import numpy as np
import pytest

from hyperdyn_jax import ByStep, LogUniform, SearchSpace, tune
from hyperdyn_jax.strategies import RandomSearch

DATA = np.arange(40, dtype=np.float32)


def generator(epoch):
    order = np.random.default_rng(epoch).permutation(40)
    for start in range(0, 40, 8):
        yield DATA[order[start : start + 8]]


class LikeTensorFlow:
    """An iterable with batches of its own length, as tf.data has them."""

    def __init__(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return map(np.asarray, generator(self.epoch))


def with_grain(epoch):
    data = grain.MapDataset.source(DATA).seed(epoch).shuffle()
    return data.batch(8, drop_remainder=True)


def with_torch(epoch):
    import torch

    order = torch.Generator().manual_seed(epoch)
    loader = torch.utils.data.DataLoader(DATA, 8, shuffle=True, generator=order)
    return (batch.numpy() for batch in loader)


LOADERS = [generator, LikeTensorFlow, with_grain]
LOADERS += [with_torch] if importlib.util.find_spec("torch") else []


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize("keep", [1, 4, 100])
def test_every_step_has_its_batch_in_any_order(make, keep):
    batches = ByStep(make, keep)
    epochs = [list(map(np.asarray, make(epoch))) for epoch in range(3)]
    expected = [batch for epoch in epochs for batch in epoch]
    assert len(expected) == 15
    assert any((a != b).any() for a, b in zip(epochs[0], epochs[1], strict=True))
    for step in [*range(7), 4, 5, 6, 7, 14, 0, 9]:
        np.testing.assert_array_equal(batches[step], expected[step])


def test_what_is_kept_is_not_read_again():
    made = []

    def make(epoch):
        made.append(epoch)
        return range(5)

    batches = ByStep(make, keep=6)
    for _ in range(4):  # as four branches of a trial that spans two epochs
        assert [batches[step] for step in range(3, 9)] == [3, 4, 0, 1, 2, 3]
    assert made == [0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (generator(0), "make must be a function of the epoch .* got generator"),
        (DATA, "make must be a function of the epoch .* got ndarray"),
    ],
)
def test_an_iterator_in_place_of_a_function_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        ByStep(make)


def test_an_iterator_that_has_ended_is_told():
    once = iter(range(3))
    batches = ByStep(lambda _: once)
    with pytest.raises(ValueError, match=r"make\(1\) has no batches; it must return"):
        batches[3]


def test_a_run_that_goes_on_sees_the_batches_that_it_would_have_seen(tmp_path):
    def attempt(path, stop=None):
        batches, calls = ByStep(generator, keep=4), 0

        def train(w, hparams, steps):
            for step in steps:
                w = w + hparams["learning_rate"] * (batches[step].mean() - w)
            return w

        def evaluate(w):
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            return 100 - abs(float(w) - 20)

        space = SearchSpace(learning_rate=LogUniform(1e-3, 0.5))
        strategy = RandomSearch(space, settings=3)
        size = {"epochs": 4, "steps_per_epoch": 7, "key": jax.random.key(0)}
        return tune(train, evaluate, np.float32(0), strategy, workdir=path, **size)

    with pytest.raises(KeyboardInterrupt):
        attempt(tmp_path / "stopped", stop=6)
    stopped, whole = attempt(tmp_path / "stopped"), attempt(tmp_path / "whole")
    assert stopped.state == whole.state
    assert stopped.decisions == whole.decisions
