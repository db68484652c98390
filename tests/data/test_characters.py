"""The text problem: its windows, its splits, its network, its config."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import ROOT

from hyperdyn_jax import models
from hyperdyn_jax.commands import cli
from hyperdyn_jax.data import characters
from hyperdyn_jax.data import dataset as data
from hyperdyn_jax.distributed import collectives


@pytest.fixture(scope="module")
def text():
    return characters.characters()


def decoded(codes):
    return "".join((characters.ALPHABET + "\ufffd")[code] for code in codes)


def test_encoding_is_the_place_in_the_alphabet():
    codes = characters.encode("\n ~é\U0001f600")
    assert codes.tolist() == [0, 1, 95, 96, 96]
    assert decoded(characters.encode(characters.ALPHABET)) == characters.ALPHABET


def test_windows_are_of_the_manual_and_the_label_is_what_follows(text):
    manual = characters._manual()
    clean = decoded(characters.encode(manual))
    for name, size in characters.SIZES.items():
        split = text[name]
        assert split.images.shape == (size, 16, 1, 1)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        for i in range(0, size, size // 20):
            window = decoded([*split.images[i].ravel(), split.labels[i]])
            assert window in clean


def test_no_block_is_in_two_splits(text):
    """Windows of one split are not those of another, repeated passages aside."""
    windows = {
        name: {bytes(row) for row in text[name].images.reshape(-1, 16)}
        for name in characters.SIZES
    }
    shared = windows["train"] & windows["test"]
    assert len(shared) < 0.15 * len(windows["test"])


def test_classes_are_served_as_they_are(text):
    dataset = data.ArrayDataset(
        **text, batch_size=8, eval_batch_size=8, devices=1, seed=0
    )
    resident = dataset.resident("train")
    images, labels = dataset.load(resident, jnp.arange(8), None)
    np.testing.assert_array_equal(images, resident.images[:8])
    np.testing.assert_array_equal(labels, resident.labels[:8])


def test_network_is_the_formula():
    """softmax input = U relu(H [C(w1), ..., C(wn)] + d) + b (Bengio et al. 2003)."""
    model = models.CharacterMLP(num_classes=97, width=8, features=3)
    codes = np.random.RandomState(0).randint(97, size=(5, 16, 1, 1)).astype("f4")
    variables = model.init(jax.random.key(0), codes, train=False)
    p = jax.tree.map(np.asarray, variables["params"])
    features = p["features"]["embedding"][codes.reshape(5, 16).astype(int)]
    hidden = features.reshape(5, -1) @ p["hidden"]["kernel"] + p["hidden"]["bias"]
    logits = np.maximum(hidden, 0) @ p["head"]["kernel"] + p["head"]["bias"]
    np.testing.assert_allclose(
        model.apply(variables, codes, train=True), logits, rtol=1e-4, atol=1e-5
    )


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="features must be a whole number >= 1, got 0"):
        models.CharacterMLP(num_classes=97, features=0)


def test_config_trains(tmp_path, monkeypatch, capsys):
    """On one device: eight virtual ones on two busy cores may wait for each other for
    longer than XLA allows."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(collectives, "devices", lambda: devices)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    words = ["train.py", f"--config={ROOT / 'configs' / 'characters.py'}"]
    words += ["--config.epochs=2", "--config.strategy=cosine"]
    words += ["--config.model.width=16", "--config.optimizer.learning_rate=0.01"]
    assert cli.run(cli.load_config(words), str(tmp_path)) == 0
    assert capsys.readouterr().err == ""
    rows = [
        json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().split("\n") if x
    ]
    assert rows[-1]["step"] == 128
    assert rows[-1]["test_accuracy"] > 20  # a space is right in 16 of 100
