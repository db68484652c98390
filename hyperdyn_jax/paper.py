"""Table 1 and Figures 1 to 4 of the paper, from run directories.

    python -m hyperdyn_jax.paper table1 runs/study
    python -m hyperdyn_jax.paper figure1a runs/study --output=figures
    python -m hyperdyn_jax.paper all runs/study

Runs are looked for below the given folders and told apart by their configs. Every
figure comes with a table: mean ± standard deviation over seeds, the steps of the
accepted path and the total with trials included, and what the paper says. `all`
leaves out what there are no runs for.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hyperdyn_jax.report import Run, figures, find_runs
from hyperdyn_jax.report.paper_figures import FIGURES, curves, table1
from hyperdyn_jax.run import arguments
from hyperdyn_jax.run.arguments import Parser
from hyperdyn_jax.system import process

NAMES = ("table1", *FIGURES)


def make(name: str, runs: Sequence[Run]) -> tuple[str, dict[str, bytes]]:
    """A table and, of a figure, its picture.

    Returns:
      The text of the table; and the contents of NAME.md and NAME.png.

    Raises:
      ValueError: naming the runs that are missing.
    """
    if name == "table1":
        text, files = table1(runs), {}
    else:
        figure, found = FIGURES[name], curves(name, runs)
        text = f"{figure.table(found)}\n\nThe paper says: {figure.claim}."
        files = {f"{name}.png": figures.render(figure.chart(found))}
    return text, files | {f"{name}.md": arguments.encoded(text + "\n")}


def make_all(
    runs: Sequence[Run], say: Callable[[str], Any]
) -> dict[str, tuple[str, dict[str, bytes]]]:
    """Everything that there are runs for; `say` is told of the rest, a line each.

    Raises:
      ValueError: there are runs for nothing.
    """
    made, left_out = {}, []
    for name in NAMES:
        try:
            made[name] = make(name, runs)
        except ValueError as error:
            text = str(error)
            left_out.append(text if text.startswith(name) else f"{name}: {text}")
    if not made:
        raise ValueError(f"nothing can be made of these runs: {left_out[0]}")
    for why in left_out:
        say(f"left out: {why}")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 if runs are missing or cannot be read."""
    process.begin()
    parser = Parser("paper", __doc__)
    listed = f"{', '.join(NAMES)} or all"
    parser.add_argument("what", choices=[*NAMES, "all"], metavar="WHAT", help=listed)
    parser.option("runs", "also a folder of them")
    parser.option("output", "paper by default", default=Path("paper"))
    options = parser.parse_args(argv)

    def command() -> None:
        what, folder = options.what, options.output
        arguments.check_output(folder)
        runs = find_runs(options.runs, arguments.note)
        all_of_it = what == "all"
        made = make_all(runs, arguments.note) if all_of_it else {what: make(what, runs)}
        for name, (text, files) in made.items():
            arguments.write_files(folder, files)
            print(f"{name}\n\n{text}\n")
        print(f"written to {folder}/: {', '.join(made)}")

    return arguments.exit_code(command)


if __name__ == "__main__":
    raise SystemExit(main())
