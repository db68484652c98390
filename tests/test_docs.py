"""The documentation site: it builds, is whole, and fetches nothing."""

import json
import re
import subprocess
import sys
import types
import zlib

import jax
import jax.numpy as jnp
import optax
import pytest
from ml_collections import ConfigDict
from paths import ROOT

import hyperdyn_jax
from hyperdyn_jax import optimizers
from hyperdyn_jax.data.registry import DATASETS
from hyperdyn_jax.optimizers import factory
from hyperdyn_jax.run import config, config_files
from hyperdyn_jax.strategies.learned_schedule import to_schedule

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
slow = pytest.mark.slow  # what needs the site


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


@slow
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


@slow
def test_a_page_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"', text)
        loaded += re.findall(r'<link [^>]*href="([^"]+)"', text)
        assert [x for x in loaded if re.match("(https?:)?//", x)] == [], page.name


@slow
def test_formulas_are_mathml(site):
    concepts = (site / "concepts.html").read_text(encoding="utf-8")
    assert concepts.count("<math ") > 40
    assert "$" not in re.sub(r"<pre>.*?</pre>", "", concepts, flags=re.DOTALL)


@slow
def test_a_page_of_each_command_has_its_options_as_they_are_typed(site):
    listed = {path.stem for path in (DOCS / "commands").glob("*.md")} - {"index"}
    assert len(listed) == 9
    for name in listed:
        page = (site / "commands" / f"{name}.html").read_text(encoding="utf-8")
        text = re.sub("<[^>]+>", "", page)
        assert "options:\n" in text, name
        assert re.search(r"^  (-h, )?--\w+", text, re.MULTILINE), name
    for page in site.rglob("*.html"):
        text = re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))
        assert not re.search(r"[–—]\w+[= ](DIR|FILE|RUN|SECONDS)", text), page.name


def code_of(page):
    """Code of a page, as Python."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_nothing_is_taken_from_the_readme():
    for page in PAGES:
        assert "README" not in page.read_text(encoding="utf-8"), page.name


RATES = {"learning_rate": 0.1, "momentum": 0.9}  # of the run that a page reads
# Pages with code that have no test of their own below, and what their code makes.
MADE = {
    "concepts.md": lambda names: names["decision"].branch == 1,
    "howto/many_runs.md": lambda names: set(names["schedules"]) == {*RATES},
    "index.md": lambda names: names["result"].metrics[-1]["total_steps"] == 400,
    "scaling.md": lambda names: names["seconds"].shape == (16,),
}
TESTED = {"howto/data.md", "howto/optimizer.md", "howto/own_loop.md"}


def test_code_of_every_page_is_run():
    pages = {str(path.relative_to(DOCS)) for path in PAGES}
    assert {page for page in pages if code_of(page)} == {*MADE, *TESTED}


@pytest.mark.parametrize("page", MADE)
def test_code_runs_as_it_stands(page, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "study" / "race" / "seed0"
    run.mkdir(parents=True)
    rows = [{"epoch": 0, "step": 40, "hyperparams": RATES}]
    (run / "schedule.json").write_text(json.dumps(to_schedule(rows)))
    names = {}
    with jax.numpy_dtype_promotion("standard"):  # what a user has
        for code in code_of(page):
            exec(code, names)
    assert MADE[page](names)
    if page == "index.md":
        shown = re.search(r"TuneResult\(.*", (DOCS / page).read_text())[0]
        number = r"-?\d+(\.\d+)?"
        printed = capsys.readouterr().out.strip()
        assert re.sub(number, "#", printed) == re.sub(number, "#", shown)


def test_own_data_set_as_told(monkeypatch):
    monkeypatch.setitem(DATASETS, "blobs", None)  # taken out at the end
    (code,) = code_of("howto/data.md")
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
    for table in (factory.OPTIMIZERS, factory.HYPERPARAMETERS):
        monkeypatch.setitem(table, "lion", None)  # taken out at the end
    (code,) = code_of("howto/optimizer.md")
    names = {}
    exec(code, names)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    optimizer = factory.create_optimizer("lion", names["values"])
    state = optimizer.init(params)
    state = optimizers.set_hyperparams(state, {"learning_rate": 0.5})
    grads = {"w": jnp.ones((2, 2)), "b": jnp.zeros(2)}
    new = optax.apply_updates(params, optimizer.update(grads, state, params)[0])
    assert (new["w"] == 1 - 0.5 * (1 + 0.1)).all()  # the sign, and decay of matrices
    assert (new["b"] == 1).all()
    settings = config_files.load("digits").to_dict() | names["sections"]
    tuner = config.build(ConfigDict(settings).to_dict()).tuner
    assert tuner.base.at(0)["learning_rate"] == pytest.approx(1e-4)


def test_own_loop_as_told(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in code_of("howto/own_loop.md"):
        exec(code, names)
    assert names["trials"].hparams["learning_rate"].shape == (5,)
    rate = optimizers.get_hyperparams(names["opt_state"])["learning_rate"]
    assert float(rate) == pytest.approx(0.05)
