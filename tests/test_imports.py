"""Imports run one way: a folder imports from those below it and from no other."""

import ast

import pytest
from paths import ROOT

PACKAGE = ROOT / "hyperdyn_jax"

# What each folder may import from, besides itself. A module that lies directly in the
# package has a line of its own where others import it, and is else a command.
ARROWS = {
    "system": set(),
    "distributed": {"system"},
    "tuner": {"system"},
    "strategies": {"tuner"},
    "models": {"system"},
    "optimizers": {"system"},
    "data": {"system"},
    "training": {"system", "distributed", "tuner", "models", "optimizers", "data"},
    "run": {"training", "strategies"},
    "report": {"run"},
    "loop": {"report"},
    "tuning": {"run"},
    "__init__": {"tuning"},
    "commands": {"loop", "report"},
    "command": {"commands"},
}
WHOLE = {"hyperdyn_jax"}  # the package itself: its version, its public names


def allowed(folder):
    """Everything below a folder."""
    below = set(ARROWS[folder])
    for each in ARROWS[folder]:
        below |= allowed(each)
    return below


def folder_of(module):
    """The folder of a module that is named as in an import."""
    first = module.split(".")[1] if "." in module else "__init__"
    return first if first in ARROWS or (PACKAGE / first).is_dir() else "command"


def imported(tree):
    """The modules of the package that a file imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "hyperdyn_jax":
            names = [f"hyperdyn_jax.{name.name}" for name in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            continue
        yield from (x for x in names if x.split(".")[0] == "hyperdyn_jax")


def is_a_name(module):
    """Whether an import asks the package itself for one of its public names."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    return not (path.is_dir() or path.with_suffix(".py").exists())


def wrong(file, source):
    """The imports of a file that its folder may not have."""
    module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    here = folder_of(module)
    for there in imported(ast.parse(source)):
        whole = there in WHOLE or is_a_name(there)
        # The package is made from its folders; those above it may ask for its version.
        if whole and here in ("commands", "command", "report"):
            continue
        folder = "__init__" if whole else folder_of(there)
        if folder != here and folder not in allowed(here):
            yield f"{module} imports {there}"


def files():
    return [x for x in PACKAGE.rglob("*.py") if "configs" not in x.parts]


def test_imports_run_one_way():
    found = [line for file in files() for line in wrong(file, file.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("where", "planted"),
    [
        ("tuner/gp.py", "from hyperdyn_jax.strategies import hyperdyn"),
        ("strategies/hyperdyn.py", "from hyperdyn_jax.training.trainer import Trainer"),
        ("data/dataset.py", "import hyperdyn_jax.run.config"),
        ("run/config.py", "def f():\n    from hyperdyn_jax import loop"),
        ("training/trainer.py", "from hyperdyn_jax import report"),
        ("report/page.py", "from hyperdyn_jax import compare"),
        ("tuner/gp.py", "from hyperdyn_jax import Hyperdyn"),
    ],
)
def test_a_wrong_import_is_found(where, planted):
    assert list(wrong(PACKAGE / where, planted))


def test_every_folder_is_in_the_table_and_ls_fits_on_a_screen():
    folders = {x.name for x in PACKAGE.iterdir() if (x / "__init__.py").exists()}
    assert folders <= set(ARROWS)
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def test_no_module_imports_itself_through_others():
    """No cycle, counting imports at the top of a module."""
    graph = {}
    for file in files():
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        tree = ast.parse(file.read_text())
        graph[module.removesuffix(".__init__")] = set(top_level(tree))

    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done or module not in graph:
            return
        path.append(module)
        for each in graph[module]:
            visit(each)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


def top_level(tree):
    """The modules that a file imports when it is loaded."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield node.module if is_a_name(whole) else whole
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
