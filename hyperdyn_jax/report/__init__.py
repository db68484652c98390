"""Report: one self-contained page, and its figures as PNG, from run directories.

    python -m hyperdyn_jax.report runs/digits                   runs/digits/report.html
    python -m hyperdyn_jax.report runs/a runs/b --output both   both/report.html

Accuracies are in percent; scores and gains are in percentage points or, where a
strategy goes by the loss as a race does, in nats. Steps are always given in both
counts: of the accepted path, and in total with trials included.
"""

from collections.abc import Sequence
from pathlib import Path

import jax

import hyperdyn_jax
from hyperdyn_jax.report import belief_page, charts, figures
from hyperdyn_jax.report.gather import find_runs as find_runs
from hyperdyn_jax.report.numbers import Run as Run
from hyperdyn_jax.report.numbers import load_run as load_run
from hyperdyn_jax.report.numbers import load_runs
from hyperdyn_jax.report.page import page
from hyperdyn_jax.run import arguments
from hyperdyn_jax.run.arguments import Parser
from hyperdyn_jax.system import process


def write_report(paths: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Writes `report.html` and `figures/*.png`, and returns the path of the page.

    Args:
      paths: run directories, at least one.
      output: folder to write to; by default the run directory itself if there is
        one, else `report` in the current directory.

    Raises:
      ValueError: a run directory cannot be read, and nothing has been written then; or
        the folder cannot be written.
    """
    from hyperdyn_jax.report import belief_model  # the tuner, which others do without

    runs = load_runs(paths)
    folder = Path(output or (runs[0].path if len(runs) == 1 else "report"))
    arguments.check_output(folder)
    beliefs = [belief_model.recompute(run) for run in runs]
    drawn = {draw.__name__: draw(runs) for draw in charts.FIGURES}
    known = [pair for pair in zip(runs, beliefs, strict=True) if pair[1] is not None]
    for i, pair in enumerate(known):
        drawn["belief" + str(i) * (len(known) > 1)] = belief_page.chart(*pair)
    images = {
        name: figures.render(chart) for name, chart in drawn.items() if chart.panels
    }
    files = {f"figures/{name}.png": image for name, image in images.items()}
    text = page(runs, beliefs, hyperdyn_jax.__version__)
    files["report.html"] = arguments.encoded(text)
    arguments.write_files(folder, files)
    return folder / "report.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 if a run directory cannot be read."""
    process.begin()
    parser = Parser("report", __doc__)
    parser.option("runs")
    parser.option("output", "the run directory of a single run, else report")
    options = parser.parse_args(argv)
    # The models are computed anew on the processor: no accelerator has to be there.
    jax.config.update("jax_platforms", "cpu")
    return arguments.exit_code(
        lambda: print(write_report(options.runs, options.output))
    )
