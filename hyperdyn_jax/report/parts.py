"""The parts that pages are put together from: HTML that asks nobody for anything.

A Content-Security-Policy forbids whatever is not in the file, by the digests of its
style and its script.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from string import Template
from typing import Any

from hyperdyn_jax.report import svg
from hyperdyn_jax.report.chart import Chart, Key
from hyperdyn_jax.run import verdicts

NARROW = "\u00a0±\u00a0"  # never at the end of a line

Cells = Sequence[str]


def escape(value: object) -> str:
    """Plain text as HTML."""
    return html.escape(str(value))


def _resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8")


def assemble(
    title: str,
    eyebrow: str,
    lead: str,
    sections: Iterable[str],
    footer: str,
) -> str:
    """A page around sections.

    Args:
      title, eyebrow, footer: plain text.
      lead, sections: HTML.
    """
    style, script = _resource("page.css"), _resource("page.js")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return Template(_resource("page.html")).substitute(
        policy=policy,
        title=escape(title),
        eyebrow=escape(eyebrow),
        lead=lead,
        sections="\n".join(sections),
        footer=escape(footer),
        style=style,
        script=script,
    )


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def embed(name: str, value: Any) -> str:
    """JSON that a script can read by its name, and nothing can end early."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


# Parts ------------------------------------------------------------------------------


def section(name: str, title: str, *parts: str, note: str = "", level: int = 2) -> str:
    """A headed part of the page. name: of its anchor. note: a line below the title."""
    head = f'<h{level} id="{name}-title">{escape(title)}</h{level}>'
    head += f'\n<p class="note">{note}</p>' if note else ""
    body = "\n".join(part for part in parts if part)
    return f'<section aria-labelledby="{name}-title">\n{head}\n{body}\n</section>'


def table(
    caption: str, head: Cells, rows: Iterable[Cells], look: str = "", name: str = ""
) -> str:
    """A table whose first column heads the rows; figures are set to the right.

    Args:
      caption: plain text, "" for none.
      head, rows: plain text.
      look: its classes; with "cards" a row is a card on a phone.
      name: of its data, in `data-table`.
    """
    top = "".join(f'<th scope="col">{escape(x)}</th>' for x in head)
    lines = []
    for row in rows:
        first = f'<th scope="row">{escape(row[0])}</th>'
        cells = zip(head[1:], row[1:], strict=True)
        rest = "".join(f"<td{_labelled(x, look)}>{escape(y)}</td>" for x, y in cells)
        lines.append(f"<tr>{first}{rest}</tr>")
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "\n".join(lines)
    return (
        f'<table class="figures {look}" data-table="{name}">{title}<thead><tr>{top}'
        f"</tr></thead>\n<tbody>{body}</tbody></table>"
    )


def markdown(head: str, rows: Iterable[Cells]) -> str:
    """A table as text. head: the names of the columns, separated by |."""
    columns = head.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _labelled(label: str, look: str) -> str:
    """What a cell of a card is."""
    return f' data-label="{escape(label)}"' if "cards" in look else ""


def scroll(label: str, body: str) -> str:
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"{body}</div>"
    )


def boxed(body: str, look: str = "narrow") -> str:
    return f'<div class="plain {look}">{body}</div>'


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def figure(chart: Chart) -> str:
    """The panels beside each other, as many as there is room for, and their legend."""
    look = "panels one" if len(chart.panels) == 1 else "panels"
    text = f"<figcaption>{chart.caption}</figcaption>" if chart.caption else ""
    body = "".join(map(svg.draw, chart.panels))
    return (
        f'<figure><div class="{look}">{body}</div>{legend(chart.keys)}{text}</figure>'
    )


def legend(keys: Iterable[Key]) -> str:
    lines = "".join(map(svg.key, keys))
    return f'<ul class="key">{lines}</ul>' if lines else ""


def facts(values: Mapping[str, str]) -> str:
    """Figures to be seen first."""
    items = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


def with_interval(mean: float, half: float) -> str:
    text = verdicts.signed(mean)
    return text if math.isnan(half) else f"{text}{NARROW}{half:.2f}"


def predicted(foreseen: tuple[float, float] | None) -> str:
    """A gain that was foreseen: its mean and deviation."""
    if foreseen is None:
        return "–"
    return f"{verdicts.signed(foreseen[0])}{NARROW}{foreseen[1]:.2f}"
