"""A dry run for a slice that is not here: CPU devices stand in for its chips.

With libtpu the small ones are compiled for the slice itself (`test_libtpu.py`).
"""

import re

import jax
import numpy as np
import pytest
from paths import ROOT

from hyperdyn_jax.commands import cli, dry_run, topology
from hyperdyn_jax.commands.compiled import Collective, Program
from hyperdyn_jax.data import blank, cifar10, imagenet
from hyperdyn_jax.distributed import slices
from hyperdyn_jax.run import config as config_lib

CONFIGS = ROOT / "configs"
SMALL = ("--config.model.depth=8", "--config.model.width=2")


@pytest.fixture
def here(monkeypatch):
    """CPU devices in place of chips."""
    monkeypatch.setattr(slices, "problem", lambda _: "")
    monkeypatch.setattr(slices, "versions", lambda: ["0.0"])
    monkeypatch.setattr(
        slices, "devices", lambda name: jax.devices()[: slices.named(name).chips]
    )


def load(name, *words):
    return cli.load_config(["train.py", f"--config={CONFIGS / name}.py", *words])


def build(chips, name, *words):
    config = load(name, "--config.strategy=cosine", *words)
    return config_lib.build(config.to_dict(), chips)


@pytest.mark.usefixtures("here")
def test_it_tells_of_every_program_once_and_keeps_what_it_told(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = load("characters", "--config.strategy=hyperdyn")
    config.hyperdyn.initial_points = 2
    told = []
    for _ in range(2):
        assert cli.run(config, None, dry=True, slice_name="v5e:2x2") == 0
        out, err = capsys.readouterr()
        assert err == ""
        told.append(out.partition("\n}\n")[2])
    first, again = told
    names = ["training step", "training step, 2 side by side", "evaluation"]
    assert re.findall(r"^compiling: (.*)", first, re.M) == names
    assert "compiling" not in again
    assert again == re.sub(r"^compiling: .*\n", "", first, flags=re.M)
    words = " ".join(first.split())
    assert "slice v5e:2x2: 4 chips, 1 host; a chip has 16 GiB" in words
    assert "memory fits: 0.0" in words
    assert re.search(r"training step: [\d.]+ [kM]B of a chip, .*? all-reduce", words)
    assert re.search(r"speed at most [\d,]+ images/s: a training step takes", words)
    kept = list((tmp_path / "hyperdyn_jax" / "slices").iterdir())
    assert len(kept) == len(names)
    # What is damaged is compiled again.
    kept[0].write_text('{"collectives": 3')
    assert cli.run(config, None, dry=True, slice_name="v5e:2x2") == 0
    assert capsys.readouterr().out.count("compiling: ") == 1


@pytest.mark.usefixtures("here")
def test_branches_are_side_by_side_as_far_as_they_fit(monkeypatch, capsys):
    """A run does the same where it finds no memory for them."""

    def compiled(name, _):
        return Program(name, 1.0, 15e9 if "4 side by side" in name else 1e9, 1.0, 1.0)

    monkeypatch.setattr(topology.compiled, "compiled", compiled)
    config = load("digits", "--config.strategy=race", *SMALL)
    topology.describe(config.to_dict(), slices.named("v5e:2x2"))
    fits = capsys.readouterr().out
    monkeypatch.setattr(topology, "held_beside", lambda *_: 3e9)
    topology.describe(config.to_dict(), slices.named("v5e:2x2"))
    told = " ".join(capsys.readouterr().out.split())
    assert "do not fit" not in fits
    assert (
        "branches 4 branches, 4 at once, do not fit into a device's memory; they are "
        "trained 2 at once"
    ) in told
    assert re.search(r"memory fits: .* for its largest program \(training step\)", told)
    assert told.count("program training step, 4 side by side:") == 1
    assert told.count("program training step, 2 side by side:") == 1


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["--dry_run", "--topology=v5e:2x5"],
            [r"--topology must be one of v5e:1x1, .*, got 'v5e:2x5'"],
        ),
        (
            ["--topology=v5e:2x4"],
            [r"--topology=v5e:2x4 needs --dry_run: nothing can be run there"],
        ),
        (
            ["--topology=v5e:2x4", "--dry_run=false", "--config.epochs=0"],
            [
                r"--topology=v5e:2x4 needs --dry_run: .*",
                r"config.epochs must be >= 1.*",
            ],
        ),
        (
            ["--topology=v5e:2x4", "--dry_run", "--fork=runs/x"],
            [r"--topology=v5e:2x4 is told of without --fork"],
        ),
    ],
)
def test_what_is_wrong_is_told_in_lines(monkeypatch, capsys, words, lines):
    known = slices.problem
    monkeypatch.setattr(
        slices, "problem", lambda x: "" if x in slices.NAMES else known(x)
    )
    # Without its data, which a dry run for a slice does without.
    with pytest.raises(SystemExit) as left:
        cli.parse_flags(["train.py", f"--config={CONFIGS / 'imagenet.py'}", *words])
    assert left.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(lines)
    for line, pattern in zip(told, lines, strict=True):
        assert re.fullmatch(f"error: {pattern}", line)


@pytest.mark.usefixtures("here")
def test_a_batch_has_to_divide_over_the_chips(capsys):
    config = load("imagenet", "--config.strategy=race")
    assert cli.run(config, None, dry=True, slice_name="v5e:4x4") == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: config.{name} must be a positive multiple of the number of devices, "
        f"got 1000 for 16 devices"
        for name in ("batch_size", "eval_batch_size")
    ]


def test_blank_data_have_the_real_sizes():
    trained = 1_281_167  # images of ImageNet
    held = trained // imagenet.VALIDATION
    assert blank.IMAGENET["train"] == trained - held
    assert blank.IMAGENET["validation"] == held
    setup = build(8, "imagenet")
    data = setup.dataset
    assert (data.steps_per_epoch, data.classes) == (1269, 1000)
    batch = data.train_batch(5)
    assert batch.examples.images.shape == (1000, 224, 224, 3)
    assert batch.examples.images.dtype == np.uint8
    assert len(list(data.eval_batches("test"))) == 50
    setup = build(8, "cifar10")
    assert setup.dataset.size("train") + setup.dataset.size("validation") == 50_000
    assert setup.dataset.size("validation") == 50_000 // cifar10.VALIDATION


def test_the_bound_is_of_what_takes_longest():
    where = slices.named("v5e:2x4")
    reduce = Collective("all-reduce", 8, 8_000_000)
    step = Program("training step", 1, 1e9, 197e9, 819e7, (reduce,))
    text = topology.speed_in_words(step, 1000, where)
    assert text.startswith("at most 100,000 images/s: a training step takes at least ")
    assert "10 ms for its memory traffic (ms: arithmetic 1, memory" in text
    assert "exchange 0.07)" in text


@pytest.mark.usefixtures("here")
def test_what_does_not_fit_is_told():
    where = slices.named("v5e:2x2")
    setup = build(4, "digits", *SMALL)
    trainer = topology.trainer_of(setup, where)
    small = Program("training step", 1, 15e9)
    found = [small, Program("evaluation", 1, 1e9)]
    text = topology.memory_in_words(setup, trainer, where, 1, found)
    assert text.startswith("fits: 13.97 GiB of the 16 of a chip")
    for other in (
        small._replace(memory=18e9),
        small._replace(memory=0, problem="INTERNAL"),
    ):
        text = topology.memory_in_words(setup, trainer, where, 1, [*found, other])
        assert text.startswith("does not fit: ")
    state = dry_run.size_of(trainer.shapes())
    beside = [topology.held_beside(setup, trainer, branches) for branches in (1, 4)]
    assert (
        beside[1] - beside[0] == 3 * 2 * state
    )  # where they began, and where they are
    line = topology.program_in_words(small._replace(problem="no room"))
    assert line == "training step: cannot be compiled: no room"
