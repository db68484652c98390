"""The schedules that runs have learned: as a table, as a figure, and where two part.

    python -m hyperdyn_jax.schedule RUN...
    python -m hyperdyn_jax.schedule RUN... --output=FILE.png
    python -m hyperdyn_jax.schedule diff RUN RUN

RUN is a run directory or its schedule.json.
"""

import errno
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyperdyn_jax.run import arguments
from hyperdyn_jax.run.arguments import Parser
from hyperdyn_jax.strategies.learned_schedule import (
    Difference,
    differences,
    read_schedule,
)
from hyperdyn_jax.system import process

if TYPE_CHECKING:
    from hyperdyn_jax.report.chart import Chart


def table(run: str) -> str:
    """The pieces of a run's schedule; equal ones that follow each other are one."""
    ends, values = read_schedule(run)
    settings = list(zip(*values.values(), strict=True))
    rows, start = [["steps", *values]], 0
    for setting, pieces in itertools.groupby(
        zip(settings, ends, strict=True), key=lambda piece: piece[0]
    ):
        end = int(list(pieces)[-1][1])
        rows.append([f"{start:,}–{end - 1:,}", *(f"{x:.6g}" for x in setting)])
        start = end
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join([run, *(f"  {line}".rstrip() for line in lines)])


def plot(runs: Sequence[str], output: Path) -> None:
    """Draws the schedules over accepted steps, a panel a hyperparameter.

    Raises:
      ValueError: it is no kind of file that Matplotlib writes, or cannot be written.
    """
    from hyperdyn_jax.report import figures  # Matplotlib, which a table does without

    kind = output.suffix.removeprefix(".").lower()
    if not kind:
        raise ValueError(f"--output={output} must end in .png, .svg or .pdf")
    if not output.parent.is_dir():
        why = f"{output.parent}: {os.strerror(errno.ENOENT)}"
        raise ValueError(f"--output={output} cannot be written: {why}")
    image = figures.render(_chart(runs), kind)
    arguments.write_files(output.parent, {output.name: image})


def _chart(runs: Sequence[str]) -> "Chart":
    from hyperdyn_jax.report.chart import Chart, Key, Panel, extent, look_of

    paths = {run: read_schedule(run) for run in runs}
    names = dict.fromkeys(n for _, values in paths.values() for n in values)
    most, panels = max(ends[-1] for ends, _ in paths.values()), []
    for name in names:
        shown = {r: (ends, v[name]) for r, (ends, v) in paths.items() if name in v}
        every = [x for _, values in shown.values() for x in values]
        kind = "log_uniform" if min(every) > 0 else "uniform"
        title, x = f"{name} over accepted steps", "accepted optimizer steps"
        panel = Panel(
            title, x, name, (0, most * 1.02), extent(every, kind), y_kind=kind
        )
        for run, (ends, values) in shown.items():
            edges = np.repeat([0, *ends], 2)[1:-1].tolist()
            panel.line(edges, np.repeat(values, 2).tolist(), look_of(runs.index(run)))
        panels.append(panel)
    keys = [Key("line", look_of(i), run) for i, run in enumerate(runs)]
    return Chart(panels, keys, columns=1, size=(6.5, 2.5))


def diff(a: str, b: str) -> Iterator[str]:
    """Where two schedules part, a line a hyperparameter."""
    lengths, names = [], []
    for run in (a, b):
        ends, values = read_schedule(run)
        lengths.append(int(ends[-1]))
        names.append(set(values))
    yield f"steps: {lengths[0]:,} in {a}, {lengths[1]:,} in {b}"
    for name, found in differences(a, b).items():
        yield f"{name}: {_in_words(found, min(lengths))}"
    for run, alone in ((a, names[0] - names[1]), (b, names[1] - names[0])):
        for name in sorted(alone):
            yield f"{name}: only in {run}"


def _in_words(found: Difference | None, steps: int) -> str:
    if found is None:
        return f"the same at all {steps:,} steps that both have"
    first, most = (" against ".join(f"{x:.6g}" for x in pair) for pair in found.values)
    x, y = found.values[1]
    factor = f", {max(x / y, y / x):.3g}x" if min(x, y) > 0 else ""
    return (
        f"part at step {found.first:,}, {first}; differ at {found.steps:,} of "
        f"{steps:,} steps, most at step {found.most:,}, {most}{factor}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 if a run cannot be read or a file not written."""
    process.begin()
    parser = Parser("schedule", __doc__)
    parser.option("runs", metavar="[diff] RUN")
    parser.option("output", metavar="FILE", help="draw them: .png, .svg or .pdf")
    options = parser.parse_args(argv)
    runs = list(map(str, options.runs))

    def command() -> None:
        if runs[0] == "diff":
            if len(runs) != 3 or options.output:
                raise ValueError("diff takes two runs, as in schedule diff RUN RUN")
            print("\n".join(diff(*runs[1:])))
        elif options.output:
            plot(runs, options.output)
            print(options.output)
        else:
            print("\n\n".join(map(table, runs)))

    return arguments.exit_code(command)


if __name__ == "__main__":
    raise SystemExit(main())
