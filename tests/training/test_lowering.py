"""What an accelerator would be given: every program, lowered for it without one.

A program is traced here, for eight devices, and written down for CUDA and for TPUs as
StableHLO; only their own compilers come after that.
"""

import json
import re

import jax
import networks
import numpy as np
import pytest

from hyperdyn_jax import optimizers
from hyperdyn_jax.data import dataset
from hyperdyn_jax.training import branch_parallel
from hyperdyn_jax.training import trainer as training
from hyperdyn_jax.training.train_step import AXIS

DEVICES, GROUPS, STEPS = 8, 2, 3
PLATFORMS = ("cuda", "tpu")


@pytest.fixture(scope="module", params=["with options", "as on accelerators"])
def programs(request):
    """Of a network with BatchNorm: (program, arguments, donated or not) by name.

    On accelerators there are no options for the compiler, and so no jit around pmap.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "as on accelerators":
            patch.setattr(branch_parallel, "compiler_options", lambda _: {})
        return _programs()


def _trainer(scan=None):
    source = dataset.ArrayDataset(
        **dataset.digits(pad=1),
        devices=DEVICES,
        seed=0,
        batch_size=64,
        eval_batch_size=128,
    )
    hparams = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    optimizer = optimizers.create_optimizer("sgd", hparams)
    network = networks.Small(axis_name=AXIS)
    devices = jax.devices()[:DEVICES]
    return training.Trainer(network, optimizer, source, devices, scan=scan)


def _programs():
    trainer = _trainer()
    source = trainer.dataset
    state, key = trainer.init(jax.random.key(0)), trainer.replicate(jax.random.key(7))
    batch = source.train_batch(0)
    block = jax.tree.map(lambda x: np.stack([x] * STEPS), batch)
    made = {}
    for groups, prefix in ((1, ""), (GROUPS, "side-by-side ")):
        place = trainer._layout(groups)
        (wave,) = place.pack([state] * groups)
        held, same_key = place.hold((trainer._hold("train"), key))
        for name, program, steps in (
            ("step", place.step, 0),
            ("block", place.block, STEPS),
        ):
            sent = place.put(block if steps else batch, steps)
            made[prefix + name] = program, (wave, held, sent, same_key), True
    sent = trainer._layout(1).put(next(source.eval_batches("validation")))
    held = trainer._hold("validation")
    made["evaluation"] = trainer._eval_step, (state, held, sent), False
    made["statistics"] = trainer._measure_step, (state, held, sent), False
    return made


def lower(program, arguments, donated, platform):
    """StableHLO for a platform. A bare pmap cannot be traced: jit around it can."""
    if not hasattr(program, "trace"):
        here = program
        program = jax.jit(
            lambda *args: here(*args), donate_argnums=(0,) if donated else ()
        )
    traced = program.trace(*arguments)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def devices_of_reduces(text):
    """How many devices each all-reduce is over.

    JAX lists them, or names an axis of a mesh (since 0.12).
    """
    found = re.findall(
        r'"stablehlo.all_reduce".*? replica_groups = (?:dense<(.*?)> : |'
        r'.*?<mesh = @(\w+), axes = \[#stablehlo.axis_ref<name = "(\w+)">\])',
        text,
    )
    for groups, mesh, axis in found:
        if groups:
            yield len(json.loads(groups)[0])
        else:
            (shape,) = re.findall(rf"sdy.mesh @{mesh} = <\[(.*?)\]>", text)
            yield int(re.search(rf'"{axis}"=(\d+)', shape)[1])


def memory_given(text):
    """How many arguments leave their memory to a result."""
    return len(re.findall(r"jax.buffer_donor|tf.aliasing_output", text))


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    ("name", "reduces", "over"),
    [
        # Gradients and loss; and each BatchNorm's statistics, there and back.
        ("step", 3, DEVICES),
        ("block", 3, DEVICES),
        ("side-by-side step", 3, DEVICES // GROUPS),
        ("side-by-side block", 3, DEVICES // GROUPS),
        ("evaluation", 1, DEVICES),
        ("statistics", 2, DEVICES),
    ],
)
def test_programs_lower_for_accelerators(programs, name, reduces, over, platform):
    program, arguments, donated = programs[name]
    text = lower(program, arguments, donated, platform)
    assert f"mhlo.num_partitions = {DEVICES}" in text
    assert list(devices_of_reduces(text)) == [over] * reduces
    assert ("stablehlo.while" in text) == ("block" in name)
    # Nothing is a call of the host's own libraries, or of the host itself.
    assert "custom_call" not in text
    # The branch that goes in makes room for the one that comes out.
    leaves = len(jax.tree.leaves(arguments[0]))
    assert memory_given(text) == (leaves if donated else 0)


def test_shapes_alone_give_the_programs_that_run(programs, monkeypatch):
    """What is compiled for devices that are not here, the block with its own length."""
    monkeypatch.setattr(training, "BLOCK", STEPS)
    if not hasattr(programs["step"][0], "trace"):  # as on accelerators
        monkeypatch.setattr(branch_parallel, "compiler_options", lambda _: {})
    made = {
        name: lowered.as_text() for name, lowered in _trainer(scan=True).programs([2])
    }
    names = {"step": "training step", "block": f"{STEPS} training steps"}
    expected = {name: names[name] for name in names}
    expected |= {f"side-by-side {x}": f"{names[x]}, 2 side by side" for x in names}
    expected |= {"evaluation": "evaluation"}
    assert sorted(made) == sorted([*expected.values(), "BatchNorm statistics"])
    for name, ours in expected.items():
        program, arguments, _ = programs[name]
        assert made[ours] == program.lower(*arguments).as_text(), name


@pytest.mark.parametrize("name", ["step", "block"])
def test_the_bare_program_gives_its_memory_on_too(programs, name):
    """What runs on accelerators, as it lowers here by itself."""
    program, arguments, _ = programs[name]
    text = program.lower(*arguments).as_text()
    assert memory_given(text) == len(jax.tree.leaves(arguments[0]))
