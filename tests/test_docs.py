"""The documentation site: it builds, is whole, and fetches nothing."""

import re
import subprocess
import sys
import types
import zlib

import jax.numpy as jnp
import optax
import pytest
from paths import ROOT

import hyperdyn_jax
from hyperdyn_jax import optimizers
from hyperdyn_jax.data.registry import DATASETS
from hyperdyn_jax.optimizers import factory
from hyperdyn_jax.run import config

pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", str(DOCS), str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


def described(site):
    """Every name that a reference page describes."""
    head, _, packed = (site / "objects.inv").read_bytes().partition(b"zlib.\n")
    assert head.startswith(b"# Sphinx inventory")
    lines = zlib.decompress(packed).decode().splitlines()
    return {line.split()[0] for line in lines if " py:" in line}


def test_every_public_name_is_on_a_reference_page(site):
    names = described(site)
    public = {
        f"hyperdyn_jax.{name}"
        for name, value in vars(hyperdyn_jax).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert len(public) >= 13
    assert public <= names
    # Of what is not exported, those that a user of train.py or of a strategy meets.
    for name in (
        "loop.train_and_evaluate",
        "run.engine.Engine",
        "tuner.interface.Strategy",
    ):
        assert f"hyperdyn_jax.{name}" in names


def test_a_page_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"', text)
        loaded += re.findall(r'<link [^>]*href="([^"]+)"', text)
        assert [x for x in loaded if re.match("(https?:)?//", x)] == [], page.name


def test_formulas_are_mathml(site):
    concepts = (site / "concepts.html").read_text(encoding="utf-8")
    assert concepts.count("<math ") > 40
    assert "$" not in re.sub(r"<pre>.*?</pre>", "", concepts, flags=re.DOTALL)


def blocks(page):
    """Code of a page, as Python."""
    text = (DOCS / "howto" / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_own_data_set_as_told(monkeypatch):
    monkeypatch.setitem(DATASETS, "blobs", None)  # taken out at the end
    (code,) = blocks("data.md")
    names = {}
    exec(code, names)
    dataset = config.build(names["get_config"]().to_dict()).dataset
    examples = dataset.train_batch(0).examples
    images, labels = dataset.load(dataset.resident("train"), examples, None)
    assert images.shape == (32, 8, 8, 1)
    assert set(labels.tolist()) == {0, 1}
    # The side that is bright is the label.
    sides = images[:, :, [0, 7], 0].mean(1)
    assert (sides.argmax(1) == labels).all()


def test_another_optimizer_as_told(monkeypatch):
    for table in ("OPTIMIZERS", "HYPERPARAMETERS"):
        monkeypatch.setattr(factory, table, dict(getattr(factory, table)))
    (code,) = blocks("optimizer.md")
    names = {}
    exec(code, names)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    state = names["optimizer"].init(params)
    state = optimizers.set_hyperparams(state, {"learning_rate": 0.5})
    grads = {"w": jnp.ones((2, 2)), "b": jnp.zeros(2)}
    new = optax.apply_updates(
        params, names["optimizer"].update(grads, state, params)[0]
    )
    assert (new["w"] == 1 - 0.5 * (1 + 0.1)).all()  # the sign, and decay of matrices
    assert (new["b"] == 1).all()


def test_own_loop_as_told(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks("own_loop.md"):
        exec(code, names)
    assert names["trials"].hparams["learning_rate"].shape == (5,)
    rate = optimizers.get_hyperparams(names["opt_state"])["learning_rate"]
    assert float(rate) == pytest.approx(0.05)
