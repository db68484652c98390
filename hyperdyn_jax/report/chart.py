"""Charts as data: what is drawn, once for the page (SVG) and for papers (Matplotlib).

A look is a colour, "ink" or "c0" to "c5", and what else a line is: "d0" to "d3" for its
dashes, "dashed", "thin". The colours are those of page.css.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np

GAPS = (38.0, 20.0)  # least units between labels, across and up

Point: TypeAlias = tuple[float, float]
Values: TypeAlias = Sequence[float | None]


@dataclass(frozen=True)
class Scale:
    """An axis: values between low and high, to units between start and end.

    kind: uniform, log_uniform or log_complement, as a search space has them; or whole,
      where there is nothing between two numbers.
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
            enough = len(shown) > (self.kind != "whole")
            if enough and min(apart, default=gap) >= gap:
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
            least = 1.0 if self.kind == "whole" else 0.0
            yield _nice(self.low, self.high, count, least)


def _nice(low: float, high: float, count: int, least: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, at least, between two numbers."""
    rough = max((high - low) / count, least)
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
    least = (
        1.15 if high > low else 3.0
    )  # a constant is no reason for a magnifying glass
    if kind == "log_uniform":
        low, high = (low, high) if shown else (0.1, 1.0)
        wide = max((high / low) ** room, least)
        return low / wide, high * wide
    if kind == "log_complement":
        fewest, most = 1 - high, 1 - low
        wide = max((most / fewest) ** room, least)
        return 1 - most * wide, 1 - fewest / wide
    wide = (high - low) * room or max(abs(high) * room, 1e-3)
    return low - wide, high + wide


class Drawn(NamedTuple):
    """Something in a panel.

    shape: line, band, bars or shade; or a mark: dot, ring, triangle, cross.
    points: of it; of a band and of bars the lower ends.
    ends: their upper ends.
    size: of marks, about their radius.
    values: of a shade over the whole panel, f[rows from the bottom, columns] in [0, 1].
    """

    shape: str
    look: str
    points: Sequence[Point] = ()
    ends: Sequence[Point] = ()
    size: float = 0.0
    values: np.ndarray | None = None


@dataclass
class Panel:
    """A part of a chart, with two axes.

    title: what it shows, for those who cannot see it.
    x, y: names of the axes.
    across, up: their ends; x_kind, y_kind: as `Scale` has them.
    head: what stands above it in a figure that has no page around it.
    x_ticks: values and labels, where they are not to be found from the axis.
    """

    title: str
    x: str
    y: str
    across: tuple[float, float]
    up: tuple[float, float]
    x_kind: str = "uniform"
    y_kind: str = "uniform"
    head: str = ""
    x_ticks: list[tuple[float, str]] | None = None
    drawn: list[Drawn] = field(default_factory=list)

    def line(self, xs: Sequence[float], ys: Values, look: str) -> None:
        if points := self._seen(xs, ys):
            self.drawn.append(Drawn("line", look, points))

    def steps(self, xs: Sequence[float], ys: Values, look: str) -> None:
        """A line on which each value holds half-way to the next."""
        if points := self._seen(xs, ys):
            self.drawn.append(Drawn("line", look, _stairs(points)))

    def upright(self, x: float, look: str) -> None:
        """A line from the bottom to the top."""
        self.line([x, x], self.up, look)

    def between(self, shape: str, xs: Any, lows: Any, highs: Any, look: str) -> None:
        """A band or bars."""
        lower, upper = (list(zip(xs, ys, strict=True)) for ys in (lows, highs))
        if lower:
            self.drawn.append(Drawn(shape, look, lower, upper))

    def marks(
        self, shape: str, xs: Sequence[float], ys: Values, look: str, size: float = 3.0
    ) -> None:
        if points := self._seen(xs, ys):
            self.drawn.append(Drawn(shape, look, points, size=size))

    def _seen(self, xs: Sequence[float], ys: Values) -> list[Point]:
        """The points that the axes can show."""
        across = Scale(*self.across, 0, 1, self.x_kind)
        up = Scale(*self.up, 0, 1, self.y_kind)
        both = zip(xs, ys, strict=True)
        return [(x, y) for x, y in both if across.shows(x) and up.shows(y)]


class Key(NamedTuple):
    """A line of a legend.

    shapes: drawn over each other: line, upright, band, shade, or that of a mark.
    """

    shapes: str
    look: str
    text: str


class Chart(NamedTuple):
    """Panels with a legend.

    caption: HTML, below it on a page.
    columns: of panels in a figure; on a page there are as many as there is room for.
    size: of a panel in a figure, inches.
    """

    panels: list[Panel]
    keys: Sequence[Key] = ()
    caption: str = ""
    columns: int = 2
    size: tuple[float, float] = (4.5, 3.4)


def look_of(index: int) -> str:
    """Colour and dashes of one of many curves, by its number from 0."""
    return f"c{index % 6} d{index % 4}"


def color_of(index: int) -> str:
    return f"c{index % 6}"


def line_keys(labels: Sequence[str]) -> list[Key]:
    """The legend of several curves; a single one has no need of it."""
    found = [Key("line", look_of(i), label) for i, label in enumerate(labels)]
    return found if found[1:] else []


def _stairs(points: Sequence[Point]) -> list[Point]:
    middles = [(a[0] + b[0]) / 2 for a, b in itertools.pairwise(points)]
    ends = [points[0][0] - 0.5, *middles, points[-1][0] + 0.5]
    return [(x, y) for i, (_, y) in enumerate(points) for x in ends[i : i + 2]]
