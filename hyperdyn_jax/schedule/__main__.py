"""The schedules that runs have learned: as a table, as a figure, and where two part.

    python -m hyperdyn_jax.schedule RUN...
    python -m hyperdyn_jax.schedule RUN... --output=FILE.png
    python -m hyperdyn_jax.schedule diff RUN RUN

RUN is a run directory or its schedule.json.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence

from hyperdyn_jax.arguments import BAD_INPUT, Parser
from hyperdyn_jax.schedule import Difference, differences, read_schedule


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


def plot(runs: Sequence[str], output: str) -> None:
    """Draws the schedules over accepted steps, a panel a hyperparameter.

    Raises:
      ValueError: it is no kind of file that Matplotlib writes.
    """
    from matplotlib.figure import Figure  # which the library itself does without

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
            color = f"C{runs.index(run)}"
            axes.stairs(values, [0, *ends], baseline=None, label=run, color=color)
    panels[-1].set_xlabel("accepted optimizer steps")
    panels[0].legend()
    figure.savefig(output, dpi=150)


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
    parser = Parser("schedule", __doc__)
    parser.add_argument("runs", nargs="+", metavar="[diff] RUN", help="run directory")
    parser.add_argument("--output", metavar="FILE", help="draw them: .png, .svg, .pdf")
    arguments = parser.parse_args(argv)
    runs = arguments.runs
    try:
        if runs[0] == "diff":
            if len(runs) != 3 or arguments.output:
                raise ValueError("diff takes two runs and nothing else")
            print("\n".join(diff(*runs[1:])))
        elif arguments.output:
            plot(runs, arguments.output)
            print(arguments.output)
        else:
            print("\n\n".join(map(table, runs)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
