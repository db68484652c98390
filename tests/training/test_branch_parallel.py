"""Branches side by side, and steps in blocks, against one after the other."""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from hyperdyn_jax import models, optimizers
from hyperdyn_jax.data import dataset
from hyperdyn_jax.training import branch_parallel
from hyperdyn_jax.training import trainer as training
from hyperdyn_jax.training.train_step import AXIS, cross_entropy

KEY = jax.random.key(7)
SETTINGS = [
    {"learning_rate": np.float32(rate), "momentum": np.float32(momentum)}
    for rate, momentum in [(0.01, 0.5), (0.2, 0.9), (0.05, 0.0), (0.1, 0.8)]
]
WILD = {"learning_rate": np.float32(1e30), "momentum": np.float32(0.9)}


@pytest.fixture(scope="module")
def digits():
    return dataset.digits(pad=1)


def make_trainer(digits, devices, model=None, batch_size=64, source=None, **settings):
    source = source or dataset.ArrayDataset(
        **digits, devices=devices, seed=0, batch_size=batch_size, eval_batch_size=128
    )
    model = model or networks.Small(axis_name=AXIS)
    hparams = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    optimizer = optimizers.create_optimizer("sgd", hparams)
    here = jax.devices()[:devices]
    return training.Trainer(model, optimizer, source, here, **settings)


@pytest.fixture(scope="module")
def in_turn(digits):
    return make_trainer(digits, 4, parallel=False)


@pytest.fixture(scope="module")
def at_once(digits):
    return make_trainer(digits, 4)


def assert_close(mine, theirs):
    np.testing.assert_allclose(mine.losses, theirs.losses, rtol=1e-4)
    assert mine.start == theirs.start
    for a, b in zip(
        jax.tree.leaves(mine.states), jax.tree.leaves(theirs.states), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("branches", "devices", "groups"),
    [(1, 8, 1), (2, 8, 2), (4, 8, 4), (5, 8, 1), (6, 8, 2), (2, 1, 1), (5, 5, 5)],
)
def test_groups_leave_no_device_idle(branches, devices, groups):
    found = branch_parallel.groups(branches, jax.devices()[:devices])
    assert found == groups
    assert branches % found == devices % found == 0


@pytest.mark.parametrize("branches", [2, 4])
def test_side_by_side_is_as_in_turn(in_turn, at_once, branches):
    settings = SETTINGS[:branches]
    ends = []
    for trainer in (in_turn, at_once):
        state = trainer.init(jax.random.key(0))
        held = jax.device_get(state)
        begun = trainer.begin([state] * branches, settings)
        ends.append(trainer.train(begun, 3, KEY))
        # The parent is whole, and what comes back can be held and scored like it.
        jax.tree.map(np.testing.assert_array_equal, held, jax.device_get(state))
        kinds = {leaf.sharding for leaf in jax.tree.leaves(ends[-1].states)}
        assert kinds == {jax.tree.leaves(state)[0].sharding}
    assert_close(ends[1], ends[0])
    scores = [
        [trainer.evaluate(state, "validation").loss for state in end.states]
        for trainer, end in zip((in_turn, at_once), ends, strict=True)
    ]
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)


def test_branches_that_do_not_fit_side_by_side_are_trained_fewer_at_once(
    in_turn, digits, monkeypatch
):
    """XLA refuses to compile what a chip has no memory for, or to run it."""
    told = []
    trainer = make_trainer(digits, 4, say=told.append)

    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory")

    wide = trainer._layout(4)
    monkeypatch.setattr(wide, "step", refuse)
    ends = []
    for each in (in_turn, trainer):
        state = each.init(jax.random.key(0))
        ends.append(each.train(each.begin([state] * 4, SETTINGS), 3, KEY))
    assert_close(ends[1], ends[0])
    assert told == [f"note: {training.unfit(4, 4, 2)}"]
    assert told[0].endswith("they are trained 2 at once")
    assert (trainer.groups(4), trainer.groups(2)) == (2, 2)
    monkeypatch.setattr(trainer._layout(2), "step", refuse)
    begun = trainer.begin([state] * 4, SETTINGS)
    assert_close(trainer.train(begun, 3, KEY), ends[0])
    assert told[1].endswith("they are trained one after the other")
    # What does not fit alone, and other errors, are not hidden.
    monkeypatch.setattr(trainer._layout(1), "step", refuse)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Ran out of memory"):
        trainer.train(begun, 3, KEY)


def test_branches_of_one_wave_go_on_where_they_were_left(at_once):
    state = at_once.init(jax.random.key(0))
    begun = at_once.begin([state] * 2, SETTINGS[:2])
    whole = at_once.train(begun, 5, KEY)
    asked = iter([False, True])
    paused = at_once.train(begun, 5, KEY, asked.__next__)
    assert paused.steps == 2
    on = at_once.train(paused, 5, KEY)
    np.testing.assert_array_equal(on.losses, whole.losses)
    jax.tree.map(np.testing.assert_array_equal, on.states, whole.states)


def test_a_branch_that_diverges_beside_another_is_counted_as_in_turn(in_turn, at_once):
    steps, ends = 2 * training.BLOCK + 3, []
    for trainer in (in_turn, at_once):
        state = trainer.init(jax.random.key(0))
        begun = trainer.begin([state] * 2, [WILD, SETTINGS[0]])
        ends.append(trainer.train(begun, steps, KEY))
        taken = trainer.steps_taken(ends[-1].losses)
        assert taken.tolist() == [2 * training.BLOCK, steps]
        assert np.isnan(ends[-1].losses[0, 2 * training.BLOCK :]).all()
    np.testing.assert_allclose(ends[1].losses[1], ends[0].losses[1], rtol=1e-3)


def test_a_branch_that_spiked_beside_another_ends_for_good(digits, monkeypatch):
    """Its losses come down again, and are not counted any more."""
    trainer = make_trainer(digits, 2)
    place, taken = trainer._layout(2), []
    step = place.step

    def spiking(*args):
        wave, loss = step(*args)
        taken.append(loss)
        return wave, np.float32([1e9, 1.0]) if len(taken) == 3 else loss

    monkeypatch.setattr(place, "step", spiking)
    state = trainer.init(jax.random.key(0))
    steps = 4 * training.BLOCK
    begun = trainer.begin([state] * 2, SETTINGS[:2])
    losses = trainer.train(begun, steps, KEY).losses
    assert len(taken) == steps  # for the other's sake
    assert np.isfinite(losses[0, : 2 * training.BLOCK]).all()
    assert np.isnan(losses[0, 2 * training.BLOCK :]).all()
    assert np.isfinite(losses[1]).all()
    assert trainer.steps_taken(losses).tolist() == [2 * training.BLOCK, steps]


@pytest.mark.parametrize("parallel", [False, True])
def test_a_block_is_its_steps(digits, parallel):
    """Over the end of an epoch, whose last batch is smaller, and with a rest."""
    ends, calls = [], collections.Counter()
    for scan in (False, True):
        trainer = make_trainer(
            digits, 2, batch_size=60, parallel=parallel, scan=scan
        )  # 21 whole batches an epoch, and one of 20
        place = trainer._layout(2 if parallel else 1)
        for name in ("step", "block"):
            program = getattr(place, name)

            def counted(*args, name=name, scan=scan, program=program):
                calls[scan, name] += 1
                return program(*args)

            setattr(place, name, counted)
        state = trainer.init(jax.random.key(0))
        begun = trainer.begin([state] * 2, SETTINGS[1:3])
        ends.append(trainer.train(begun, 40, KEY))
    assert_close(ends[1], ends[0])
    waves = 1 if parallel else 2
    # The small batch is in the second block, and the last eight steps are no block.
    wanted = {(False, "step"): 40, (True, "block"): 1, (True, "step"): 24}
    assert calls == {name: count * waves for name, count in wanted.items()}


class Streamed(dataset.ArrayDataset):
    """The same images, sent by the host: nothing is on the devices."""

    def resident(self, split):  # noqa: ARG002 (nothing of any split)
        return ()

    def _sent(self, batch, split):
        images, labels = (np.asarray(x)[batch.examples] for x in self._splits[split])
        return dataset.Batch((images, labels), batch.weights)

    def train_batch(self, step):
        return self._sent(super().train_batch(step), "train")

    def load(self, resident, examples, keys):  # noqa: ARG002 (there is nothing)
        return super().load(
            dataset.Split(*examples), jnp.arange(len(examples[1])), keys
        )


def test_batches_that_the_host_sends_are_never_sent_in_blocks(digits):
    """Sixteen batches of ImageNet at once would fill a device."""
    ends = []
    for kind in (dataset.ArrayDataset, Streamed):
        source = kind(**digits, devices=1, seed=0, batch_size=64, eval_batch_size=128)
        trainer = make_trainer(digits, 1, scan=True, source=source)
        place, sizes = trainer._layout(1), []
        put = place.put
        place.put = lambda batch, steps=0, put=put, sizes=sizes: (
            sizes.append(steps) or put(batch, steps)
        )
        state = trainer.init(jax.random.key(0))
        begun = trainer.begin([state], SETTINGS[:1])
        ends.append(trainer.train(begun, training.BLOCK, KEY))
        assert (training.BLOCK in sizes) == (kind is dataset.ArrayDataset)
    np.testing.assert_allclose(ends[1].losses, ends[0].losses, rtol=1e-4)


def test_an_epoch_moves_nothing_that_it_was_not_told_to_move(in_turn, at_once):
    for trainer in (in_turn, at_once):
        state = trainer.init(jax.random.key(0))
        begun = trainer.begin([state] * 2, SETTINGS[:2])
        key = trainer.replicate(KEY)
        trainer.train(begun, 2, key)  # what is compiled or kept comes once
        with jax.transfer_guard("disallow"):
            trainer.train(begun, training.BLOCK + 2, key)


@pytest.mark.parametrize(
    ("axis_name", "norms", "groups"), [(AXIS, 7, 1), (AXIS, 7, 2), (None, 0, 1)]
)
def test_all_reduces_of_a_step(digits, axis_name, norms, groups):
    """One for gradients and loss; two for a BatchNorm over all devices, there and back.
    Those of a group stay inside it."""
    model = models.CifarResNet(10, depth=8, width=2, axis_name=axis_name)
    trainer = make_trainer(digits, 8, model)
    place = trainer._layout(groups)
    waves = place.pack([trainer.init(jax.random.key(0))] * groups)
    batch = place.put(trainer.dataset.train_batch(0))
    resident = place.hold(trainer._hold("train"))
    program = place.step.lower(waves[0], resident, batch, KEY).compile().as_text()
    reduces = re.findall(r"= .* all-reduce\(.*", program)
    assert len(reduces) == 1 + 2 * norms
    halves = [set(range(4)), set(range(4, 8))]
    for instruction in reduces:
        assert sharing(instruction) == (halves if groups == 2 else [set(range(8))])


def sharing(instruction):
    """The devices that share in a collective, a set for each of its groups.

    XLA writes {{0,1},{2,3}}, or since jaxlib 0.12 mesh['branch'=2,'batch'=2] {'batch'}.
    """
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", instruction):
        groups = re.findall(r"\{(.*?)\}", listed[1])
        return [set(map(int, group.split(","))) for group in groups]
    axes, inside = re.search(
        r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", instruction
    ).groups()
    sizes = {name: int(size) for name, size in re.findall(r"('.*?')=(\d+)", axes)}
    devices = np.arange(math.prod(sizes.values())).reshape(*sizes.values())
    ends = [list(sizes).index(name) for name in inside.split(",")]
    moved = np.moveaxis(devices, ends, range(-len(ends), 0))
    count = math.prod(devices.shape[end] for end in ends)
    return [set(group.tolist()) for group in moved.reshape(-1, count)]


def test_switching_between_branches_and_one_compiles_nothing_more(
    at_once, compilations
):
    state = at_once.init(jax.random.key(0))

    def epoch(state):
        progress = at_once.train(at_once.begin([state] * 2, SETTINGS[:2]), 2, KEY)
        at_once.evaluate(progress.states[1], "validation")
        one = at_once.train(at_once.begin(progress.states[1:], SETTINGS[:1]), 2, KEY)
        at_once.evaluate(one.states[0], "validation")
        return one.states[0]

    state = epoch(epoch(state))
    with compilations() as counter:
        epoch(state)
    assert counter.count == 0


def test_devices_that_normalise_alone_average_what_each_finds(digits):
    """A step of two devices against plain JAX on the halves of its batch."""
    model = networks.Small()
    trainer = make_trainer(digits, 2, model)
    state = trainer.init(jax.random.key(0))
    rate = {"learning_rate": np.float32(0.1), "momentum": np.float32(0.0)}
    (end,), losses = trainer.train(trainer.begin([state], [rate]), 1, KEY)[1:]
    host, source = jax.device_get(state), trainer.dataset
    places = jnp.arange(64)
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(KEY, 0)))(
        places
    )
    batch = source.load(source.resident("train"), source.train_batch(0).examples, keys)

    @jax.jit
    def half(images, labels):
        def loss_fn(params):
            variables = {"params": params, "batch_stats": host.batch_stats}
            logits, new = model.apply(
                variables, images, train=True, mutable=["batch_stats"]
            )
            return cross_entropy(logits, labels).mean(), new["batch_stats"]

        return jax.value_and_grad(loss_fn, has_aux=True)(host.params)

    halves = [half(*(x[i : i + 32] for x in batch)) for i in (0, 32)]
    (loss, stats), grads = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    wanted = jax.tree.map(
        lambda w, g: w - 0.1 * (g + 1e-3 * w * (w.ndim > 1)), host.params, grads
    )
    assert losses[0, 0] == pytest.approx(float(loss), rel=1e-5)
    for mine, theirs in ((end.params, wanted), (end.batch_stats, stats)):
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_options_of_the_compiler_change_no_gradient_and_are_the_users_to_set(
    monkeypatch,
):
    options = branch_parallel.compiler_options("cpu")
    assert options  # this jaxlib knows them
    assert branch_parallel.compiler_options("gpu") == {}
    model = models.CifarResNet(num_classes=10, depth=8, width=8)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(32, 16, 16, 3)).astype(np.float32)
    labels = rng.integers(0, 10, 32)
    variables = model.init(KEY, images, train=False)

    def loss(params, images):
        logits, _ = model.apply(
            {**variables, "params": params}, images, train=True, mutable="batch_stats"
        )
        return jnp.mean(cross_entropy(logits, labels))

    def gradient(options):
        compiled = jax.jit(jax.grad(loss), compiler_options=options)
        leaves = jax.tree.leaves(compiled(variables["params"], images))
        return np.concatenate([np.ravel(leaf) for leaf in leaves])

    plain, ours = gradient({}), gradient(options)
    assert np.linalg.norm(ours - plain) <= 1e-4 * np.linalg.norm(plain)
    assert not np.array_equal(ours, plain)  # it is another program

    branch_parallel.compiler_options.cache_clear()
    monkeypatch.setenv("XLA_FLAGS", f"--{branch_parallel._YNN}=")
    assert branch_parallel.compiler_options("cpu") == {}
    branch_parallel.compiler_options.cache_clear()
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(branch_parallel, "_YNN", "xla_an_option_of_another_version")
    assert branch_parallel.compiler_options("cpu") == {}
    branch_parallel.compiler_options.cache_clear()


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_programs_are_compiled_with_the_options(digits, devices, monkeypatch):
    """In turn and side by side: more of a step is YNNPACK's with them."""

    def fusions():
        model = models.CifarResNet(num_classes=10, depth=8, width=8, axis_name=AXIS)
        trainer = make_trainer(digits, devices, model)
        place, state = trainer._layout(devices), trainer.init(KEY)
        (wave,) = place.pack([state] * devices)
        batch = place.put(trainer.dataset.train_batch(0))
        held = place.hold((trainer._hold("train"), trainer.replicate(KEY)))
        step = place.step.lower(wave, held[0], batch, held[1])
        first = next(trainer.dataset.eval_batches("validation"))
        sent = trainer._layout(1).put(first)
        score = trainer._eval_step.lower(state, trainer._hold("validation"), sent)
        return [p.compile().as_text().count("__ynn_fusion") for p in (step, score)]

    ours = fusions()
    monkeypatch.setattr(branch_parallel, "compiler_options", lambda _: {})
    for with_options, plain in zip(ours, fusions(), strict=True):
        assert with_options > plain
