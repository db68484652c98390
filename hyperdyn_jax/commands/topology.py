"""What a run would be on a TPU slice that is not here.

    python train.py --config=configs/imagenet.py --dry_run --topology=v5e:2x4

The programs of the run are compiled for the slice by the TPU's own compiler, which the
extra `tpu` brings; data and accelerators are not needed. What was told of a program is
kept in the user's cache: a large network takes minutes to compile.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from hyperdyn_jax.commands import compiled, dry_run
from hyperdyn_jax.commands.compiled import Program
from hyperdyn_jax.distributed import collectives, slices
from hyperdyn_jax.distributed.slices import GIB, Slice
from hyperdyn_jax.run import config as config_lib
from hyperdyn_jax.run.config import Setup
from hyperdyn_jax.run.config_schema import Config
from hyperdyn_jax.run.jsonl import dump
from hyperdyn_jax.training.trainer import Trainer, unfit
from hyperdyn_jax.tuner.interface import Strategy


def describe(
    config: Config,
    slice_: Slice,
    kept: Path | None = None,
    say: Callable[[str], Any] = print,
) -> None:
    """Says what a run would be on a slice, program by program as they are compiled.

    Args:
      config: of the run.
      slice_: the slice.
      kept: folder of what was told before; None to compile everything.
      say: is told, in lines.
    """
    setup = config_lib.build(config, slice_.chips)
    trainer, branches = trainer_of(setup, slice_), most_branches(setup.tuner)
    say(dump(config, indent=1))
    for name, text in dry_run.facts(config, setup, trainer).items():
        dry_run.tell(say, name, text)
    dry_run.tell(say, "slice", in_words(slice_))
    found = programs(setup, trainer, slice_, branches, kept, say)
    text = memory_in_words(setup, trainer, slice_, branches, found)
    dry_run.tell(say, "memory", text)
    if not found[0].problem:
        text = speed_in_words(found[0], setup.dataset.batch_size, slice_)
        dry_run.tell(say, "speed", text)


def in_words(slice_: Slice) -> str:
    chip = slice_.chip
    chips = f"{slice_.chips} chip{'s' * (slice_.chips > 1)}"
    hosts = f"{slice_.hosts} host{'s' * (slice_.hosts > 1)}"
    return (
        f"{slice_.name}: {chips}, {hosts}; a chip has {chip.memory / GIB:.0f} GiB, "
        f"{chip.flops / 1e12:.0f} TFLOP/s (bfloat16), {chip.bandwidth / 1e9:,.0f} GB/s "
        f"to its memory and {chip.links / 1e9:.0f} GB/s to other chips"
    )


def trainer_of(setup: Setup, slice_: Slice) -> Trainer:
    """The trainer of a run on a slice; its programs cannot be run here."""
    devices = collectives.in_order(slices.devices(slice_.name))
    return Trainer(setup.model, setup.optimizer, setup.dataset, devices)


def most_branches(strategy: Strategy) -> int:
    """How many branches a decision has at most: none has more than the first. How many
    the others have depends on scores."""
    state = strategy.init(
        jax.random.key(0), -1.0 if strategy.metric == "loss" else 50.0
    )
    return len(strategy.ask(state).parents)


def programs(
    setup: Setup,
    trainer: Trainer,
    slice_: Slice,
    branches: int,
    kept: Path | None,
    say: Callable[[str], Any],
) -> list[Program]:
    """The programs of a run on a slice, with as many branches side by side as fit: a
    run that finds no memory for them trains fewer at once (`Trainer.train`)."""
    beside, there = held_beside(setup, trainer, branches), slice_.chip.memory
    counts, known = range(1, branches + 1), dict[str, Program]()
    while True:
        lowered = dict(trainer.programs(counts))
        new = {name: each for name, each in lowered.items() if name not in known}
        for program in compile_all(new.items(), slice_, kept, say):
            dry_run.tell(say, "program", program_in_words(program))
            known[program.name] = program
        found = [known[name] for name in lowered]
        groups = max(map(trainer.groups, counts))
        end = f", {groups} side by side"
        widest = [each for each in found if each.name.endswith(end)]
        if all(each.memory + beside <= there for each in widest):
            return found
        trainer.share_less(groups)
        count = next(n for n in counts if n % groups == 0)
        text = unfit(count, groups, trainer.groups(count))
        dry_run.tell(say, "branches", text)


def compile_all(
    programs: Iterable[tuple[str, jax.stages.Lowered]],
    slice_: Slice,
    kept: Path | None = None,
    say: Callable[[str], Any] = print,
) -> Iterator[Program]:
    """Compiles programs for a slice, or finds what was told of them before."""
    for name, lowered in programs:
        file = kept / f"{_digest(slice_, lowered)}.json" if kept else None
        if file and (known := _known(file)):
            yield known
            continue
        say(f"compiling: {name}")
        program = compiled.compiled(name, lowered)
        if file:
            _keep(file, program)
        yield program


def _digest(slice_: Slice, lowered: jax.stages.Lowered) -> str:
    """Of everything that a compiled program depends on."""
    options = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    made_by = [slice_.name, *slices.versions(), *options]
    text = "\n".join([*made_by, lowered.as_text()])
    return hashlib.sha256(text.encode()).hexdigest()


def _known(file: Path) -> Program | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return compiled.decode(file.read_text())
    return None


def _keep(file: Path, program: Program) -> None:
    """Writes it where that can be done: it is only there to save time."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        half = file.with_suffix(f".{os.getpid()}")
        half.write_text(compiled.encode(program))
        half.replace(file)


def program_in_words(program: Program) -> str:
    if program.problem:
        return f"{program.name}: cannot be compiled: {program.problem}"
    kinds = [each.kind for each in program.collectives]
    exchanged = " and ".join(
        f"{kinds.count(kind)} {kind}{'s' * (kinds.count(kind) > 1)}"
        for kind in sorted(set(kinds))
    )
    sent = f"{exchanged}, which send {_amount(program.sent)}B" if kinds else ""
    return (
        f"{program.name}: {_amount(program.memory)}B of a chip, "
        f"{_amount(program.flops)}FLOP, {_amount(program.bytes)}B read and written, "
        f"{sent or 'nothing exchanged'} ({program.seconds:.0f} s to compile)"
    )


def memory_in_words(
    setup: Setup,
    trainer: Trainer,
    slice_: Slice,
    branches: int,
    found: Sequence[Program],
) -> str:
    """Whether a run fits, with what a chip holds beside its largest program."""
    largest = max(found, key=lambda program: program.memory)
    beside, there = held_beside(setup, trainer, branches), slice_.chip.memory
    total = largest.memory + beside
    failed = [program for program in found if program.problem]
    fits = "does not fit" if failed or total > there else "fits"
    return (
        f"{fits}: {total / GIB:.2f} GiB of the {there / GIB:.0f} of a chip, "
        f"{largest.memory / GIB:.2f} for its largest program ({largest.name}) and at "
        f"most {beside / GIB:.2f} beside it: {branches} branches of a decision where "
        f"they began and where they are, and the data that score them"
    )


def held_beside(setup: Setup, trainer: Trainer, branches: int) -> float:
    """Bytes that a chip holds beside a program, at most: every branch where it began
    and where it is, and the splits that are scored."""
    data = [setup.dataset.resident(split) for split in ("validation", "test")]
    return 2 * branches * dry_run.size_of(trainer.shapes()) + dry_run.size_of(data)


def speed_in_words(step: Program, batch: int, slice_: Slice) -> str:
    """The roofline of a training step."""
    times = step.times(slice_.chip)
    longest = max(times, key=lambda name: times[name])
    others = ", ".join(f"{name} {seconds * 1e3:.3g}" for name, seconds in times.items())
    return (
        f"at most {batch / times[longest]:,.0f} images/s: a training step takes at "
        f"least {times[longest] * 1e3:.3g} ms for its {longest} (ms: {others}); the "
        f"latency of exchanges is left out"
    )


def _amount(number: float) -> str:
    """As 1.2 M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} "
