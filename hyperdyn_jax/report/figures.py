"""Charts as Matplotlib draws them, for papers and slides."""

import importlib.resources
import io
import math
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hyperdyn_jax.report.chart import Chart, Key, Panel, Point, Scale

DASHES = ("-", "--", "-.", ":")  # d0 to d3 of page.css
MARKERS = {"dot": "o", "ring": "o", "triangle": "^", "cross": "x"}
UNITS = 72.0  # of a `Scale`, in an inch
Style: TypeAlias = dict[str, Any]  # of what Matplotlib draws


def render(chart: Chart, kind: str = "png") -> bytes:
    """The bytes of an image file, as PNG the same for the same chart.

    Raises:
      ValueError: Matplotlib does not write files of this kind.
    """
    ink, grid = _color("ink"), _color("line")
    inked = "text.color axes.labelcolor axes.edgecolor xtick.color ytick.color"
    style: Any = dict.fromkeys(inked.split(), ink) | {"grid.color": grid}
    style |= {"axes.grid": True, "axes.axisbelow": True, "axes.titlesize": "medium"}
    style |= {"savefig.dpi": 150, "legend.frameon": False, "text.parse_math": False}
    buffer = io.BytesIO()
    with matplotlib.rc_context(style):
        draw(chart).savefig(buffer, format=kind)
    return buffer.getvalue()


def draw(chart: Chart) -> Figure:
    """The panels of a chart, and one legend below them, where it hides no data."""
    columns = min(chart.columns, len(chart.panels))
    rows = math.ceil(len(chart.panels) / columns)
    width, height = chart.size
    size = (max(width * columns, 6.5), height * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    for number, panel in enumerate(chart.panels, start=1):
        _draw(figure.add_subplot(rows, columns, number), panel, chart.size)
    if chart.keys:
        texts = [key.text for key in chart.keys]
        room = int(size[0] * 12 / (max(map(len, texts)) + 6))
        legend: Style = {
            "loc": "outside lower center",
            "ncols": min(max(room, 1), len(texts)),
        }
        figure.legend(list(map(_handle, chart.keys)), texts, **legend)
    return figure


def _draw(axes: Axes, panel: Panel, size: tuple[float, float]) -> None:
    for each in panel.drawn:
        if each.values is not None:
            continue  # as in a figure there is no room to say what it means
        xs, ys = _columns(each.points)
        if each.shape == "line":
            axes.plot(xs, ys, **_line(each.look))
        elif each.shape == "band":
            axes.fill_between(xs, ys, _columns(each.ends)[1], **_area(each.look))
        elif each.shape == "bars":
            color = _color(each.look)
            axes.vlines(xs, ys, _columns(each.ends)[1], color=color, linewidth=0.8)
        else:
            axes.plot(xs, ys, **_mark(each.shape, each.look, each.size))
    axes.set_xscale(**_scale(panel.x_kind))
    axes.set_yscale(**_scale(panel.y_kind))
    axes.set(xlim=panel.across, ylim=panel.up, title=panel.head)
    axes.set(xlabel=panel.x, ylabel=panel.y)
    across = Scale(*panel.across, 0, size[0] * UNITS, panel.x_kind)
    up = Scale(*panel.up, size[1] * UNITS, 0, panel.y_kind)
    for set_ticks, ticks in (
        (axes.set_xticks, panel.x_ticks or across.ticks()),
        (axes.set_yticks, up.ticks()),
    ):
        set_ticks(*zip(*ticks, strict=True))
        set_ticks([], minor=True)


def _scale(kind: str) -> Style:
    if kind == "log_complement":
        return {"value": "function", "functions": (_to_log, _from_log)}
    return {"value": "log" if kind == "log_uniform" else "linear"}


def _to_log(x: np.ndarray) -> np.ndarray:
    return -np.log1p(-np.minimum(x, 1 - 1e-12))  # Matplotlib asks for all there is


def _from_log(x: np.ndarray) -> np.ndarray:
    return -np.expm1(-x)


def _columns(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.array(points, dtype=float).reshape(-1, 2).T  # there may be none
    return xs, ys


def _color(look: str) -> str:
    """The light one of page.css."""
    css = importlib.resources.files(__package__).joinpath("page.css").read_text("utf-8")
    found = re.search(rf"--{look.split()[0]}: (#\w+)", css)
    assert found
    return found[1]


def _line(look: str) -> Style:
    words = look.split()
    dashes = [DASHES[int(word[1])] for word in words if word in ("d1", "d2", "d3")]
    dashes += ["--"] if "dashed" in words else []
    style: Style = {"color": _color(look), "linestyle": (dashes or ["-"])[0]}
    return style | ({"linewidth": 1.0} if "thin" in words else {})


def _area(look: str) -> Style:
    return {"color": _color(look), "alpha": 0.2, "linewidth": 0}


def _mark(shape: str, look: str, radius: float) -> Style:
    color = _color(look)
    face = "none" if shape == "ring" else color
    style: Style = {"marker": MARKERS[shape], "linestyle": "none", "color": color}
    return style | {"markerfacecolor": face, "markersize": 2 * radius}


def _handle(key: Key) -> Any:
    """What a legend shows."""
    found: list[Any] = []
    for shape in key.shapes.split():
        if shape in ("band", "shade"):
            found.append(Patch(**_area(key.look)))
        elif shape in MARKERS:
            found.append(Line2D([], [], **_mark(shape, key.look, 3)))
        else:
            look = key.look + " thin dashed" * (shape == "upright")
            found.append(Line2D([], [], **_line(look)))
    return tuple(found)
