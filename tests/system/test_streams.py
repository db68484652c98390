"""Random streams: none of a run's meets another."""

import jax
import numpy as np
import pytest

from hyperdyn_jax.data import dataset
from hyperdyn_jax.system import streams

COUNTED = 2000  # epochs, steps or examples that are looked at


def raw(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def counted(key, count=COUNTED):
    """The keys of what is counted under a key; a split's are among them."""
    numbers = np.arange(count)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    return set(map(raw, keys))


@pytest.fixture
def shuffled(monkeypatch):
    """The keys that orders are drawn from, once for each epoch."""
    keys, draw = [], jax.random.permutation

    def permutation(key, size):
        keys.append(raw(key))
        return draw(key, size)

    monkeypatch.setattr(jax.random, "permutation", permutation)
    return keys


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_no_stream_of_a_run_is_the_order_of_an_epoch(seed, shuffled):
    images, labels = np.zeros((4, 1, 1, 1), np.uint8), np.arange(4, dtype=np.int32)
    split = dataset.Split(images, labels)
    source = dataset.ArrayDataset(
        split, split, split, classes=4, batch_size=4, eval_batch_size=4, devices=1,
        seed=seed,
    )  # fmt: skip
    for epoch in range(8):
        source.train_batch(epoch)
    of_run = streams.of_run(seed)
    own = set(map(raw, of_run))
    assert (len(set(shuffled)), len(own)) == (8, 3)
    assert not own & set(shuffled)
    # Nor what is counted or split below them: steps, decisions, layers.
    below = [counted(key) for key in of_run]
    everything = set.union(own, set(shuffled), *below)
    assert len(everything) == 3 + 8 + 3 * COUNTED


def test_names_are_apart_from_every_count_and_from_each_other():
    key = jax.random.key(7)
    names = ["weights", "tuner", "augmentation", "order", "rollback", "batches"]
    named = {raw(streams.stream(key, name)) for name in names}
    assert len(named) == len(names)
    assert not named & counted(key)
    assert raw(jax.random.split(key, 3)[2]) in counted(key)  # which is why


def test_a_stream_is_the_same_in_every_process():
    """Names are hashed by CRC-32; Python's own hash differs from start to start."""
    wanted = jax.random.fold_in(jax.random.key(3), np.uint32(0xF5299398))
    assert raw(streams.of_seed(3, "order")) == raw(wanted)
