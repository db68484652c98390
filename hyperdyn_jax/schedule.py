"""The schedules that runs have learned: as a table, as a figure, and where two part.

    python -m hyperdyn_jax.schedule RUN...
    python -m hyperdyn_jax.schedule RUN... --output=FILE.png
    python -m hyperdyn_jax.schedule diff RUN RUN

RUN is a run directory or its schedule.json.
"""

import errno
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperdyn_jax.run import arguments
from hyperdyn_jax.run.arguments import Parser
from hyperdyn_jax.strategies.learned_schedule import (
    Difference,
    differences,
    read_schedule,
)
from hyperdyn_jax.system import process

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    import matplotlib  # which the library itself does without

    kind = output.suffix.removeprefix(".").lower()
    if not kind:
        raise ValueError(f"--output={output} must end in .png, .svg or .pdf")
    if not output.parent.is_dir():
        why = f"{output.parent}: {os.strerror(errno.ENOENT)}"
        raise ValueError(f"--output={output} cannot be written: {why}")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):  # $ in the name of a run
        _draw(runs).savefig(buffer, format=kind, dpi=150)
    arguments.write_files(output.parent, {output.name: buffer.getvalue()})


def _draw(runs: Sequence[str]) -> "Figure":
    from matplotlib.figure import Figure

    paths = {run: read_schedule(run) for run in runs}
    names = list(dict.fromkeys(n for _, values in paths.values() for n in values))
    figure = Figure(figsize=(6.5, 2.5 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), squeeze=False, sharex=True)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        axes.set_ylabel(name)
        shown = {r: (ends, v[name]) for r, (ends, v) in paths.items() if name in v}
        if min(values.min() for _, values in shown.values()) > 0:
            axes.set_yscale("log")
        for run, (ends, values) in shown.items():
            # Matplotlib leaves labels that begin with _ out of a legend.
            label = f"./{run}" if run.startswith("_") else run
            style: Any = {"label": label, "color": f"C{runs.index(run)}"}
            axes.stairs(values, [0, *ends], baseline=None, **style)
    panels[-1].set_xlabel("accepted optimizer steps")
    panels[0].legend()
    return figure


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
                raise ValueError("diff takes two runs and nothing else")
            print("\n".join(diff(*runs[1:])))
        elif options.output:
            plot(runs, options.output)
            print(options.output)
        else:
            print("\n\n".join(map(table, runs)))

    return arguments.exit_code(command)


if __name__ == "__main__":
    raise SystemExit(main())
