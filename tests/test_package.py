"""What is installed: a wheel is whole and runs the quick start from an empty folder."""

import ast
import os
import pydoc
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT

import hyperdyn_jax

# What needs an extra, and says which where it is asked for and missing.
EXTRAS = {"google_crc32c", "mlflow", "sqlalchemy", "tensorflow", "wandb"}
IMPORTS = re.compile(r"(import_package|import_module|\b_import)$")  # by name


def test_help_shows_the_public_names():
    shown = pydoc.plain(pydoc.render_doc(hyperdyn_jax, renderer=pydoc.plaintext))
    assert "    tune(" in shown
    assert "    class Race(" in shown
    own = {
        name
        for name, x in vars(hyperdyn_jax).items()
        if getattr(x, "__module__", "").startswith("hyperdyn_jax.")
    }
    assert own <= set(hyperdyn_jax.__all__) <= set(dir(hyperdyn_jax))
    assert issubclass(hyperdyn_jax.TooShortError, ValueError)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist and the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("built")
    # Nothing is installed for it, so that no network is needed.
    command = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={folder}"]
    ended = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


# What the command that pip makes of it does.
CONSOLE = """
import importlib.metadata, sys
(entry,) = importlib.metadata.entry_points(name="hyperdyn-train")
sys.argv[0] = entry.name
sys.exit(entry.load()())
"""


def test_the_wheel_runs_the_quick_start_from_an_empty_folder(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    module = "hyperdyn_jax"
    for source in (ROOT / module).rglob("*"):
        if source.is_file() and "__pycache__" not in source.parts:
            assert str(source.relative_to(ROOT)) in names
    for config in (ROOT / "configs").glob("*.py"):
        assert f"{module}/configs/{config.name}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {module}

    empty = tmp_path / "empty"
    empty.mkdir()
    short = ["--config.strategy=cosine", "--config.epochs=1", "--config.model.width=4"]
    reader, nobody_reads = os.pipe()  # as after `| head -1`
    os.close(reader)
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path / "installed"),
        "XLA_FLAGS": "",
        "XDG_CACHE_HOME": str(wheel),
    }
    del environment["JAX_COMPILATION_CACHE_DIR"]
    ended = subprocess.run(
        [sys.executable, "-c", CONSOLE, "--config=digits", *short],
        cwd=empty,
        env=environment,
        stdout=nobody_reads,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(nobody_reads)
    assert ended.returncode == 0, ended.stderr
    # A folder that cannot be made, as the cache of a user without a home.
    assert "note: compiled programs are not kept: " in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert (empty / "runs" / "digits" / "report.html").is_file()


def test_the_sdist_has_what_the_tests_and_the_docs_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("train.py", "README.md", "LICENSE", "docs/conf.py", "launch/run.sh"):
        assert name in names
    assert "tests/test_package.py" in names


def imported(file):
    """The packages that a file imports, also by name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif isinstance(node, ast.Call) and IMPORTS.search(ast.unparse(node.func)):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def test_what_is_imported_is_installed_without_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {canonicalize_name(Requirement(x).name) for x in project["dependencies"]}
    files = [ROOT / "train.py", *(ROOT / "configs").glob("*.py")]
    files += [*(ROOT / "hyperdyn_jax").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
    modules = {name.partition(".")[0] for file in files for name in imported(file)}
    modules -= {*sys.stdlib_module_names, "hyperdyn_jax", *EXTRAS, "equinox"}
    comes_from = metadata.packages_distributions()
    missing = {
        module
        for module in modules
        if not needed & set(map(canonicalize_name, comes_from.get(module, [module])))
    }
    assert missing == set()
    assert {"PIL", "array_record", "grain", "tensorflow_datasets"} <= modules


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_only_what_a_system_has_is_asked_for(system):
    """There is no array-record for Windows; the rest installs there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    place = {"sys_platform": system, "python_version": "3.12"}
    left_out = {
        each.name
        for each in map(Requirement, project["dependencies"])
        if each.marker and not each.marker.evaluate(place)
    }
    windows = {"array-record"} if system == "win32" else set()
    assert left_out == {"importlib_resources"} | windows


def test_one_version_everywhere():
    version = hyperdyn_jax.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["license"] == project["license"]
    # Every version has its section, the newest first, and what comes next before it.
    changes = (ROOT / "CHANGELOG.md").read_text()
    titles = re.findall(r"^## (.*)$", changes, re.M)
    assert titles[0] == "Unreleased"
    for title in titles[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", title)
    for kind in re.findall(r"^### (.*)$", changes, re.M):
        assert kind in (
            "Added",
            "Changed",
            "Deprecated",
            "Removed",
            "Fixed",
            "Security",
        )
