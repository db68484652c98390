"""The page of runs: what came of them, what the model believed, what was decided."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hyperdyn_jax.report import belief_page, charts, numbers, parts, sections
from hyperdyn_jax.report.numbers import Run
from hyperdyn_jax.run import console, verdicts


def page(runs: Sequence[Run], beliefs: Sequence[Any], version: str) -> str:
    """The whole page.

    Args:
      runs: at least one.
      beliefs: what the model of each believed, or None.
      version: of the program.
    """
    sources = ", ".join(str(run.path) for run in runs)
    footer = f"Made by hyperdyn_jax {version} from {sources}."
    if len(runs) == 1:
        run, results = runs[0], parts.facts(summary(runs[0]))
        lead = f'<p class="lead">{headline(run)}</p>{results}'
        body = [accuracy(runs), hyperparameters(runs, beliefs[0])]
        body += _of_run(run, beliefs[0], 0, 2)
        return parts.assemble(run.label, "Run report", lead, body, footer)
    names = ", ".join(run.label for run in runs)
    lead = f'<p class="lead">{parts.escape(names)}: together, then one by one.</p>'
    body = [_results(runs), accuracy(runs), hyperparameters(runs)]
    for i, (run, held) in enumerate(zip(runs, beliefs, strict=True)):
        inner = (f"<p>{headline(run)}</p>", *_of_run(run, held, i, 3))
        body.append(parts.section(f"run-{i}", run.label, *inner))
    return parts.assemble(f"{len(runs)} runs", "Run report", lead, body, footer)


def summary(run: Run) -> dict[str, str]:
    """The results of a run, by their names."""
    last = run.metrics[-1]
    return {
        "Test (%)": verdicts.number(last.get("test_accuracy"), ".2f"),
        "Validation (%)": verdicts.number(last["validation_accuracy"], ".2f"),
        "Accepted steps": f"{last['step']:,}",
        "Total steps": f"{last['total_steps']:,}",
        "Overhead": numbers.overhead(run),
        "Training (h:mm:ss)": str(timedelta(seconds=round(numbers.seconds(run)))),
    }


def headline(run: Run) -> str:
    """The results of a run in a sentence or two, HTML."""
    last = run.metrics[-1]
    strategy = f"<b>{parts.escape(run.config.get('strategy', '–'))}</b>"
    count = (
        f"<b>{last['step']:,}</b> accepted steps, <b>{last['total_steps']:,}</b> total "
        f"steps with {console.besides(run.metrics)} ({numbers.overhead(run)} overhead)"
    )
    if not numbers.extra(run):
        count = f"<b>{last['step']:,}</b> steps; there were no trials"
    if last.get("test_accuracy") is None:
        accuracy = verdicts.number(last["validation_accuracy"], ".2f")
        text = f"Not finished. {strategy} is at {accuracy}% validation accuracy after "
        return f"{text}{count}."
    text = (
        f"{strategy} ends at <b>{last['test_accuracy']:.2f}%</b> test accuracy after "
        f"{count}."
    )
    if last.get("best_epoch", last["epoch"]) != last["epoch"]:
        text += (
            f" The network of epoch {last['best_epoch']} was tested: the last one was "
            f"worse by more than chance."
        )
    return text


def accuracy(runs: Sequence[Run]) -> str:
    figure = parts.figure(charts.accuracy(runs))
    return parts.section("accuracy", "Accuracy", figure, *map(_values, runs))


def _values(run: Run) -> str:
    """Every row of metrics.jsonl."""
    number, names = verdicts.number, run.hyperparameters
    head = ["Epoch", "Accepted steps", "Total steps", "Training loss"]
    head += ["Validation loss", "Validation accuracy (%)", *names, "Seconds"]
    rows = [
        [
            str(row["epoch"]) + " (left later)" * (i not in run.on_path),
            f"{row['step']:,}",
            f"{row['total_steps']:,}",
            number(row["train_loss"]),
            number(row.get("validation_loss")),
            number(row["validation_accuracy"], ".2f"),
            *(number(row["hyperparams"].get(name)) for name in names),
            number(row["seconds"], ".2f"),
        ]
        for i, row in enumerate(run.metrics)
    ]
    title = f"Every accepted epoch of {run.label}"
    grid = parts.scroll(title, parts.table("", head, rows, name="metrics"))
    return parts.details(title, grid)


def hyperparameters(runs: Sequence[Run], beliefs: Any = None) -> str:
    figure = parts.figure(charts.hyperparameters(runs, beliefs))
    return parts.section("hyperparameters", "Hyperparameters", figure)


def _results(runs: Sequence[Run]) -> str:
    head = ["Run", "Strategy", *summary(runs[0])]
    rows = [
        [run.label, str(run.config.get("strategy", "–")), *summary(run).values()]
        for run in runs
    ]
    grid = parts.boxed(parts.table("", head, rows, "cards", name="summary"), "wide")
    return parts.section("results", "Results", grid)


def _of_run(run: Run, beliefs: Any, number: int, level: int) -> list[str]:
    """The sections that are of one run alone."""
    found = [section(run) for section in sections.SECTIONS]
    return [
        belief_page.section(run, beliefs, number, level),
        *(
            parts.section(
                f"{s.name}-{number}", s.title, s.body, note=s.note, level=level
            )
            for s in found
            if s
        ),
    ]
