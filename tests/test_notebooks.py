"""The notebooks: made from their sources, without outputs, and run top to bottom."""

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import jupytext
import nbformat
import pytest
import tfds_fixture
from paths import ROOT

pytestmark = pytest.mark.slow

# Of each, the variables that make it small.
SMALL = {
    "quickstart": {"EPOCHS": "4"},
    "own_loop": {"EPOCHS": "20"},
    "cifar10": {"EPOCHS": "2", "CONFIG": "configs/cifar10.py:smoke"},
    "belief": {"EPOCHS": "4"},
}


def notebook(name):
    return nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_run():
    for kind in ("py", "ipynb"):
        assert {file.stem for file in (ROOT / "colab").glob(f"*.{kind}")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_notebook_is_made_from_its_source_and_has_no_outputs(name):
    """`jupytext --update --to ipynb colab/*.py` makes them."""
    source, made = jupytext.read(ROOT / "colab" / f"{name}.py"), notebook(name)
    nbformat.validate(made)
    assert [(cell.cell_type, cell.source) for cell in source.cells] == [
        (cell.cell_type, cell.source) for cell in made.cells
    ]
    for cell in made.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tfds_fixture.write_cifar10(folder)
    return os.environ | {
        "DATA_DIR": str(folder),
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }


@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs_top_to_bottom(name, environment, tmp_path):
    """In a process of its own, as jupyter would."""
    program = """
import sys, nbformat
from nbclient import NotebookClient
made = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(made, timeout=300, kernel_name="python3").execute()
nbformat.write(made, "executed.ipynb")
"""
    file = ROOT / "colab" / f"{name}.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", program, file],
        env=environment | SMALL[name], cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    executed = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    outputs = [out for cell in executed.cells for out in cell.get("outputs", [])]
    kinds = {kind for out in outputs for kind in out.get("data", {})}
    if name in ("quickstart", "cifar10"):
        assert "image/png" in kinds
    if name == "belief":
        (page,) = (
            o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})
        )
        assert '"epoch": 3' in page
        assert not {"FRAMES", "RATES", "LAST"} & set(page.replace(",", " ").split())
    assert "jax " in outputs[0].text


def install_cells():
    return {
        next(c.source for c in notebook(n).cells if c.cell_type == "code")
        for n in SMALL
    }


@pytest.mark.parametrize(
    ("backend", "extras"),
    [("cpu", ""), ("gpu", "[cuda12]"), ("tpu", "[tpu]"), ("", "")],
)
def test_install_cell_takes_what_the_runtime_needs(
    backend, extras, monkeypatch, tmp_path
):
    """The same in all; without the library it clones and installs, told from where."""
    (cell,) = install_cells()
    commands = []

    def run(words, **_):
        commands.append(" ".join(map(str, words)))
        return SimpleNamespace(stdout=f"{backend}\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(RuntimeError, match="into REPOSITORY, above"):
        exec(cell, {})
    assert not commands
    exec(cell.replace('REPOSITORY = ""', 'REPOSITORY = "https://example.org/x"'), {})
    clone, look, install = commands
    assert (
        clone
        == f"git clone --depth=1 https://example.org/x {tmp_path}/hyperdyn_jax_clone"
    )
    assert "jax.default_backend()" in look
    assert install.endswith(
        f"pip install --quiet -e {tmp_path}/hyperdyn_jax_clone{extras}"
    )
