"""Sphinx: the documentation site.

    sphinx-build -W -n docs build/docs

Nothing is fetched, neither by the build nor by a reader's browser.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import hyperdyn_jax  # noqa: E402 (of this folder, not of the environment)

project = "hyperdyn_jax"
release = version = hyperdyn_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = html_show_sphinx = False
html_math_renderer = "mathml"
exclude_patterns = ["paper/*.md"]  # included by paper.md
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

# `name` in a docstring is a link if it can be, and code if not.
default_role = "py:obj"
smartquotes = False  # what is typed is what is printed: -- is an option
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False  # "alpha, beta: of ..." is one entry
napoleon_custom_sections = [("Fields", "params_style")]
autodoc_inherit_docstrings = False
# Other libraries' names are not looked up: that would take a network.
OTHERS = "jax|jaxlib|numpy|np|nn|flax|optax|tinygp|rich|matplotlib"
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:class", r"hyperdyn_jax\.(tuning\.State|data\.by_step\.Batch)"),  # any type
    ("py:.*", rf"({OTHERS}|collections|pathlib|typing)\..*"),
    ("py:.*", r"Array(Like)?|Path|Any|Mapping|Sequence|Callable|Iterator|optional"),
]


class Help(SphinxDirective):
    """What a command prints for --help: `{help} study`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        command = [sys.executable, "-m", f"hyperdyn_jax.{self.arguments[0]}", "--help"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        return [nodes.literal_block(done.stdout, done.stdout, language="text")]


def _fields(_app: Any, kind: str, _name: str, thing: Any, _options: Any, lines: Any):
    """The fields of a class, told as "name: what", as a list.

    In front of a colon in what a property is Napoleon would see a type.
    """
    if kind == "property":
        lines[:1] = [lines[0].replace(": ", " – ")]
    names = set(getattr(thing, "__annotations__", ())) if kind == "class" else set()
    if not names or any(line.startswith("Args:") for line in lines):
        return
    starts = [i for i, line in enumerate(lines) if _named(line) & names]
    if starts:
        end = next((i for i in range(starts[-1], len(lines)) if not lines[i]), None)
        block = [f"  {line}" for line in lines[starts[0] : end]]
        lines[starts[0] : end] = ["Fields:", *block]


def _named(line: str) -> set[str]:
    head, colon, _ = line.partition(": ")
    return set(head.split(", ")) if colon else set()


def _skip(
    _app: Any, _kind: str, _name: str, thing: Any, skip: bool, _options: Any
) -> bool:
    """Fields of a tuple, which its own docstring tells of, are no members."""
    return skip or type(thing).__name__ == "_tuplegetter"


# What `jax.typing.ArrayLike` stands for.
ARRAY_LIKE = "Array | ndarray | bool | number | bool | int | float | complex"


def _signature(
    _app: Any, _kind: str, _name: str, _thing: Any, _options: Any, *parts: str | None
) -> tuple[str | None, ...]:
    """Arguments and result, with the short name of a long type."""
    return tuple(part and part.replace(ARRAY_LIKE, "ArrayLike") for part in parts)


def _inline_math(translator: Any, node: Any) -> None:
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block_math(translator: Any, node: Any) -> None:
    translator.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    app.add_directive("help", Help)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _fields, priority=100)
