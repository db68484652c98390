"""A panel as SVG that takes its colours from the page, light or dark.

What is marked has its value in data attributes, to the seven digits of a float32.
"""

import base64
import html
import io
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.image import imsave

from hyperdyn_jax.report.chart import Drawn, Key, Panel, Point, Scale

Box: TypeAlias = tuple[float, float, float, float]  # left, top, width, height

SIZE = WIDTH, HEIGHT = 360.0, 230.0  # units of a panel; about pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 46.0, 8.0, 26.0, 34.0
# What legends show, beside marks, in a box of 30 by 14; {} is the look.
KEYS = {
    "line": '<path class="line {}" d="M0 7H30"/>',
    "upright": '<path class="line thin dashed {}" d="M15 0V14"/>',
    "band": '<rect class="band {}" width="30" height="14"/>',
    "shade": '<rect class="shade {}" width="30" height="14"/>',
}


def key(line: Key) -> str:
    """A line of a legend."""
    drawn = "".join(
        KEYS[shape].format(line.look)
        if shape in KEYS
        else _mark(shape, f'class="{shape} {line.look}"', (15, 7), 4)
        for shape in line.shapes.split()
    )
    picture = f'<svg viewBox="0 0 30 14" aria-hidden="true">{drawn}</svg>'
    return f"<li>{picture}{html.escape(line.text)}</li>"


def across(panel: Panel, width: float = WIDTH) -> Scale:
    """Where the values of the lower axis lie."""
    return Scale(*panel.across, LEFT, width - RIGHT, panel.x_kind)


def draw(panel: Panel, size: tuple[float, float] = SIZE) -> str:
    """The panel, `size` units wide and high."""
    width, height = size
    bottom, right = height - BOTTOM, width - RIGHT
    to_x, to_y = across(panel, width), Scale(*panel.up, bottom, TOP, panel.y_kind)
    parts = []
    for value, text in to_y.ticks():
        y = to_y(value)
        parts.append(
            f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>'
            f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" class="end">{text}</text>'
        )
    for value, text in panel.x_ticks or to_x.ticks():
        x = to_x(value)
        parts.append(
            f'<path class="tick" d="M{x:.1f} {bottom}v4"/>'
            f'<text x="{x:.1f}" y="{bottom + 15}" class="mid">{text}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    box = (LEFT, TOP, right - LEFT, bottom - TOP)
    parts += [_drawn(each, to_x, to_y, box) for each in panel.drawn]
    parts.append(
        f'<text x="0" y="12" class="name">{html.escape(panel.y)}</text>'
        f'<text x="{right}" y="{height - 4:g}" class="name end">'
        f"{html.escape(panel.x)}</text>"
    )
    title = html.escape(panel.title, quote=True)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg>"
    )


def _drawn(each: Drawn, to_x: Scale, to_y: Scale, box: Box) -> str:
    def path(points: Sequence[Point]) -> str:
        return "L".join(f"{to_x(x):.1f} {to_y(y):.1f}" for x, y in points)

    if each.values is not None:
        return _image(each.values, each.look, box)
    head = f'class="{each.shape} {each.look}"'
    if each.shape == "line":
        return f'<path {head} d="M{path(each.points)}"/>'
    if each.shape == "band":
        return f'<path {head} d="M{path([*each.points, *each.ends[::-1]])}Z"/>'
    if each.shape == "bars":
        bars = map(path, zip(each.points, each.ends, strict=True))
        return f'<path {head} d="{"".join(f"M{bar}" for bar in bars)}"/>'
    return "".join(
        _mark(
            each.shape,
            f'{head} data-x="{x:.7g}" data-y="{y:.7g}"',
            (to_x(x), to_y(y)),
            each.size,
        )
        for x, y in each.points
    )


def _mark(shape: str, attributes: str, place: Point, r: float) -> str:
    x, y = (f"{value:.1f}" for value in place)
    if shape in ("dot", "ring"):
        return f'<circle {attributes} r="{r:g}" cx="{x}" cy="{y}"/>'
    outline = f"m{-r:g} {-r:g}l{2 * r:g} {2 * r:g}m{-2 * r:g} 0l{2 * r:g} {-2 * r:g}"
    if shape == "triangle":
        outline = f"m0 {-r:g}l{r:g} {2 * r:g}h{-2 * r:g}Z"
    return f'<path {attributes} d="M{x} {y}{outline}"/>'


def _image(shades: np.ndarray, name: str, box: Box) -> str:
    pixels = np.repeat(shades[::-1, :, None], 3, axis=2)
    file = io.BytesIO()
    imsave(file, pixels, format="png")
    data = base64.b64encode(file.getvalue()).decode()
    left, top, width, height = box
    place = f'x="{left}" y="{top}" width="{width}" height="{height}"'
    return (
        f'<mask id="{name}"><image {place} preserveAspectRatio="none" '
        f'href="data:image/png;base64,{data}"/></mask>'
        f'<rect class="shade" {place} mask="url(#{name})"/>'
    )
