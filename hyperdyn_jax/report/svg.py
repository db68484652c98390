"""Small charts as SVG that takes its colours from the page, light or dark.

What is marked has its value in data attributes, to the seven digits of a float32.
"""

import base64
import html
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from matplotlib.image import imsave

WIDTH, HEIGHT = 360.0, 230.0  # units of a panel; about pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 46.0, 8.0, 26.0, 34.0
GAPS = (30.0, 20.0)  # least units between labels, across and up

Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """An axis: values between low and high, to units between start and end.

    kind: uniform, log_uniform or log_complement, as a search space has them.
    """

    low: float
    high: float
    start: float
    end: float
    kind: str = "uniform"

    def __call__(self, value: float) -> float:
        low, high = self._linear(self.low), self._linear(self.high)
        share = (self._linear(value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def shows(self, value: float | None) -> TypeGuard[float]:
        """Whether a value can be drawn."""
        if value is None or not math.isfinite(value):
            return False
        return {"log_uniform": value > 0, "log_complement": value < 1}.get(
            self.kind, True
        )

    def _linear(self, value: float) -> float:
        if self.kind == "log_uniform":
            return math.log(value)
        return -math.log1p(-value) if self.kind == "log_complement" else value

    def ticks(self) -> list[tuple[float, str]]:
        """Values to label, with their labels: as many as there is room for."""
        gap = GAPS[0] if self.end > self.start else GAPS[1]
        for candidates in self._candidates():
            shown = [x for x in candidates if self.low <= x <= self.high]
            places = sorted(map(self, shown))
            apart = (b - a for a, b in itertools.pairwise(places))
            if len(shown) > 1 and min(apart) >= gap:
                return [(value, label(value)) for value in shown]
        return [(value, label(value)) for value in (self.low, self.high)]

    def _candidates(self) -> Iterator[list[float]]:
        """Values to choose from, the most of them first."""
        if self.kind == "log_complement":
            for parts in ((5, 2, 1), (3, 1), (1,)):
                near = [1 - x * 10.0**-k for k in range(1, 7) for x in parts]
                yield [round(x, 7) for x in [0.0, *near]]
        if self.kind == "log_uniform":
            low, high = math.log10(self.low), math.log10(self.high)
            for parts in ((1, 2, 5), (1, 3), (1,)) if high - low > 0.7 else ():
                decades = range(math.floor(low), math.ceil(high) + 1)
                yield [x * 10.0**k for k in decades for x in parts]
            yield [10.0**k for k in range(math.floor(low), math.ceil(high) + 1, 2)]
        for count in (6, 4, 3, 2):
            yield _nice(self.low, self.high, count)


def _nice(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two numbers."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(x * power for x in (1, 2, 5, 10) if x * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value: float) -> str:
    """A number on an axis: 1,500 as 1.5k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.6g}".replace("-", "−") if abs(value) > 1e-12 else "0"


def extent(
    values: Iterable[float | None], kind: str = "uniform", room: float = 0.06
) -> tuple[float, float]:
    """The ends of an axis that shows all values, with some room."""
    probe = Scale(0.0, 1.0, 0.0, 1.0, kind)
    shown = [float(v) for v in values if v is not None and probe.shows(v)]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    if kind == "log_uniform":
        low, high = (low, high) if shown else (0.1, 1.0)
        wide = max((high / low) ** room, 1.15)
        return low / wide, high * wide
    if kind == "log_complement":
        least, most = 1 - high, 1 - low
        wide = max((most / least) ** room, 1.15)
        return 1 - most * wide, 1 - least / wide
    wide = (high - low) * room or max(abs(high) * room, 1e-3)
    return low - wide, high + wide


@dataclass
class Panel:
    """A chart with two axes.

    title: what it shows, for those who cannot see it; x, y: names of the axes.
    """

    title: str
    x: str
    y: str
    across: tuple[float, float]
    up: tuple[float, float]
    x_kind: str = "uniform"
    y_kind: str = "uniform"
    width: float = WIDTH
    height: float = HEIGHT
    parts: list[str] = field(default_factory=list)
    x_ticks: Sequence[Sequence[Any]] | None = None  # values and labels

    def __post_init__(self) -> None:
        self.to_x = Scale(*self.across, LEFT, self.width - RIGHT, self.x_kind)
        self.to_y = Scale(*self.up, self.height - BOTTOM, TOP, self.y_kind)

    def _place(self, x: float, y: float) -> str:
        return f"{self.to_x(x):.1f} {self.to_y(y):.1f}"

    def _seen(self, xs: Sequence[float], ys: Sequence[float | None]) -> list[Point]:
        both = zip(xs, ys, strict=True)
        return [(x, y) for x, y in both if self.to_x.shows(x) and self.to_y.shows(y)]

    def line(
        self,
        xs: Sequence[float],
        ys: Sequence[float | None],
        look: str,
        steps: bool = False,
    ) -> None:
        """A line through points; with `steps` each holds half-way to the next."""
        points = self._seen(xs, ys)
        if steps and points:
            points = _stairs(points)
        if points:
            path = "L".join(self._place(*point) for point in points)
            self.parts.append(f'<path class="line {look}" d="M{path}"/>')

    def band(
        self,
        xs: Iterable[float],
        lows: Iterable[float],
        highs: Iterable[float],
        look: str,
    ) -> None:
        """The area between two lines."""
        there = [self._place(*p) for p in zip(xs, highs, strict=True)]
        back = [self._place(*p) for p in zip(xs, lows, strict=True)]
        path = "L".join(there + back[::-1])
        self.parts.append(f'<path class="band {look}" d="M{path}Z"/>')

    def points(
        self,
        xs: Sequence[float],
        ys: Sequence[float | None],
        look: str,
        shape: str = "dot",
        size: float = 3.0,
    ) -> None:
        """Marks: dot, ring, triangle or cross."""
        for x, y in self._seen(xs, ys):
            data = f'data-x="{x:.7g}" data-y="{y:.7g}"'
            head = f'class="{shape} {look}" {data}'
            a, b = f"{self.to_x(x):.1f}", f"{self.to_y(y):.1f}"
            if shape in ("dot", "ring"):
                mark = f'<circle {head} r="{size:g}" cx="{a}" cy="{b}"/>'
            else:
                mark = f'<path {head} d="M{a} {b}{_outline(shape, size)}"/>'
            self.parts.append(mark)

    def intervals(
        self,
        xs: Sequence[float],
        lows: Sequence[float],
        highs: Sequence[float],
        look: str,
    ) -> None:
        """Upright bars."""
        ends = zip(xs, lows, highs, strict=True)
        path = "".join(
            f"M{self._place(x, low)}V{self.to_y(high):.1f}" for x, low, high in ends
        )
        self.parts.append(f'<path class="bar {look}" d="{path}"/>')

    def image(self, shades: np.ndarray, look: str) -> None:
        """Shades over the whole chart, f[rows from the bottom, columns] in [0, 1]."""
        pixels = np.repeat(shades[::-1, :, None], 3, axis=2)
        file = io.BytesIO()
        imsave(file, pixels, format="png")
        data = base64.b64encode(file.getvalue()).decode()
        wide, high = self.width - LEFT - RIGHT, self.height - TOP - BOTTOM
        self.parts.append(
            f'<mask id="{look}"><image x="{LEFT}" y="{TOP}" width="{wide}" '
            f'height="{high}" preserveAspectRatio="none" '
            f'href="data:image/png;base64,{data}"/></mask>'
            f'<rect class="shade" x="{LEFT}" y="{TOP}" width="{wide}" '
            f'height="{high}" mask="url(#{look})"/>'
        )

    def __str__(self) -> str:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        frame = []
        for value, text in self.to_y.ticks():
            y = self.to_y(value)
            frame.append(
                f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>'
                f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" class="end">{text}</text>'
            )
        for value, text in self.x_ticks or self.to_x.ticks():
            x = self.to_x(value)
            frame.append(
                f'<path class="tick" d="M{x:.1f} {bottom}v4"/>'
                f'<text x="{x:.1f}" y="{bottom + 15}" class="mid">{text}</text>'
            )
        frame.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
        names = (
            f'<text x="0" y="12" class="name">{html.escape(self.y)}</text>'
            f'<text x="{right}" y="{self.height - 4:g}" class="name end">'
            f"{html.escape(self.x)}</text>"
        )
        title = html.escape(self.title, quote=True)
        size = f"0 0 {self.width:g} {self.height:g}"
        return (
            f'<svg viewBox="{size}" role="img" aria-label="{title}">'
            f"{''.join(frame)}{''.join(self.parts)}{names}</svg>"
        )


def _outline(shape: str, r: float) -> str:
    """The path of a mark from its middle on."""
    if shape == "triangle":
        return f"m0 {-r:g}l{r:g} {2 * r:g}h{-2 * r:g}Z"
    return f"m{-r:g} {-r:g}l{2 * r:g} {2 * r:g}m{-2 * r:g} 0l{2 * r:g} {-2 * r:g}"


def _stairs(points: Sequence[Point]) -> list[Point]:
    middles = [(a[0] + b[0]) / 2 for a, b in itertools.pairwise(points)]
    ends = [points[0][0] - 0.5, *middles, points[-1][0] + 0.5]
    return [(x, y) for i, (_, y) in enumerate(points) for x in ends[i : i + 2]]
