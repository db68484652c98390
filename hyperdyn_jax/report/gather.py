"""Which runs a comparison is made of: those that are finished, each once."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hyperdyn_jax.report.numbers import Run, load_run
from hyperdyn_jax.run.config_schema import current
from hyperdyn_jax.run.jsonl import Row, flat

# Strategies with the settings of hyperdyn.
HYPERDYN = ("hyperdyn", "epoch_bo", "greedy", "control")
GO_BACK = ("race", "explore")  # to their best epoch by default
SHOWN = 3  # of many paths in a line


def find_runs(
    folders: Iterable[str | Path], say: Callable[[str], Any] = lambda _: None
) -> list[Run]:
    """Every finished run in the folders, or below them, each once.

    Left out are runs without a test accuracy, runs that lie in another run's directory
    or in a folder named replays (unless that folder itself is given), and a second run
    of the same config and seed.

    Args:
      folders: run directories, or folders of them.
      say: is told what was left out and why, a line each.

    Raises:
      ValueError: there is no finished run, or one cannot be read.
    """
    places = list(map(Path, folders))
    notes: list[str] = []
    found, replays = _directories(places, notes.append)
    runs, unfinished = [], []
    for path in found:
        run = _finished(path)
        runs += [run] if run else []
        unfinished += [] if run else [path]
    if unfinished:
        notes.append(f"{_listed(unfinished)} left out: not finished")
    if replays:
        there = list(dict.fromkeys(map(_place, replays)))
        advice = "give that folder itself to include them"
        notes.append(f"{_listed(there)} left out: replays of a run; {advice}")
    if not runs:
        where = ", ".join(map(str, places))
        raise ValueError("; ".join([f"no finished run in or below {where}", *notes]))
    for note in notes:
        say(note)
    return distinct(runs, say)


def _directories(
    folders: Sequence[Path], say: Callable[[str], Any]
) -> tuple[list[Path], list[Path]]:
    """Run directories in the folders or below them, each once; and replays in them."""
    found: dict[Path, Path] = {}
    inside: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"no finished run in or below {folder}: no such folder")
        # A folder comes before what is in it.
        paths = sorted(file.parent for file in folder.rglob("config.json"))
        runs = [path for path in paths if (path / "metrics.jsonl").is_file()]
        if not runs and len(folders) > 1:
            say(f"{folder} is left out: there is no run in it")
        for path in runs:
            below = path.relative_to(folder)
            nested = any(folder / parent in runs for parent in below.parents)
            is_replay = path != folder and (nested or "replays" in below.parts)
            (inside if is_replay else found).setdefault(path.resolve(), path)
    for path in found:
        inside.pop(path, None)
    return list(found.values()), list(inside.values())


def _place(replay: Path) -> Path:
    """The folder of replays that one is in."""
    return next((p for p in replay.parents if p.name == "replays"), replay)


def _finished(path: Path) -> Run | None:
    """A run; None if it was not tested yet."""
    if '"test_accuracy"' not in (path / "metrics.jsonl").read_text(errors="replace"):
        return None
    run = load_run(path)
    # The word may be in a last line that is not whole: the run is being written.
    return run if run.metrics[-1].get("test_accuracy") is not None else None


def _listed(paths: Sequence[Path]) -> str:
    """Paths, as many as fit a line, and the verb."""
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    verb = "is" if len(paths) == 1 else "are"
    return f"{', '.join(map(str, paths[:SHOWN]))}{more} {verb}"


def distinct(runs: Iterable[Run], say: Callable[[str], Any]) -> list[Run]:
    """The runs without those that have the config and the seed of an earlier one."""
    kept: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        key = (seed(run), *settings(run).items())
        if key in kept:
            why = f"the same config and seed {seed(run)} as {kept[key].path}"
            say(f"{run.path} is left out: {why}")
        kept.setdefault(key, run)
    return list(kept.values())


def seed(run: Run) -> int:
    """The seed of a run."""
    return int(run.config.get("seed", 0))


def settings(run: Run) -> dict[str, str]:
    """The config, flat and as text, without what makes no difference to the run."""
    from hyperdyn_jax.run.run_dir import MAY_CHANGE  # which brings Orbax

    config = current(run.config)
    strategy = config.get("strategy")
    own = {"model", "optimizer", "search_space", strategy, base_of(config)}
    if strategy in HYPERDYN:
        own.add("hyperdyn")
    same = ["seed", "name", "data_dir", *MAY_CHANGE]
    if strategy not in GO_BACK and not config.get("backtracking"):
        same.append("backtracking")  # which others do only where they are told to
    kept = {
        name: value
        for name, value in config.items()
        if name not in same and (name in own or not isinstance(value, dict))
    }
    # None is what is usual, as is a setting left out.
    return {
        name: str(value)
        for name, value in sorted(flat(kept).items())
        if value is not None
    }


def base_of(config: Row) -> str | None:
    """The schedule that a search is anchored on."""
    section = config.get(config.get("strategy", ""))
    return section.get("base") if isinstance(section, dict) else None
