"""The sharded steps against one device, plain JAX, and themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperdyn_jax import models, optimizers
from hyperdyn_jax.data import dataset
from hyperdyn_jax.training import train_step as steps
from hyperdyn_jax.training import trainer as training

HPARAMS = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
SLOW = {"learning_rate": np.float32(0.01), "momentum": np.float32(0.5)}
FAST = {"learning_rate": np.float32(0.2), "momentum": np.float32(0.9)}
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def digits():
    return dataset.digits(pad=1)


def make_trainer(digits, devices, axis_name=steps.AXIS, **settings):
    settings = {"batch_size": 64, "eval_batch_size": 128} | settings
    source = dataset.ArrayDataset(**digits, devices=devices, seed=0, **settings)
    model = models.CifarResNet(10, depth=8, width=4, axis_name=axis_name)
    optimizer = optimizers.create_optimizer("sgd", HPARAMS)
    return training.Trainer(model, optimizer, source, jax.devices()[:devices])


@pytest.fixture(scope="module")
def trainer(digits):
    return make_trainer(digits, 1)


@pytest.fixture(scope="module")
def one_device(trainer):
    return story(trainer)


def train(trainer, states, settings, steps, key):
    """New states and mean losses of branches."""
    progress = trainer.train(trainer.begin(states, settings), steps, key)
    return progress.states, progress.losses.mean(1)


def story(trainer):
    """Losses of two branches over five steps, their evaluations, the final states."""
    begin = trainer.init(jax.random.key(0))
    states, losses = train(trainer, [begin, begin], [SLOW, FAST], 5, KEY)
    return losses, [trainer.evaluate(s, "validation") for s in states], states


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow), 8])
def test_devices_share_a_batch_without_changing_it(digits, devices, one_device):
    losses, evaluations, states = story(make_trainer(digits, devices))
    np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)
    for mine, single in zip(evaluations, one_device[1], strict=True):
        assert mine.accuracy == single.accuracy
        assert mine.loss == pytest.approx(single.loss, rel=1e-4)
    for mine, single in zip(
        jax.tree.leaves(states), jax.tree.leaves(one_device[2]), strict=True
    ):
        np.testing.assert_allclose(mine, single, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_1797_examples_are_counted_as_1797(digits, devices):
    trainer = make_trainer(digits, devices)
    state = trainer.init(jax.random.key(0))
    counts = [
        trainer.evaluate(state, name).count for name in ("train", "validation", "test")
    ]
    assert (counts, sum(counts)) == ([1280, 257, 260], 1797)


def test_step_is_a_plain_gradient_step(trainer):
    begin = trainer.init(jax.random.key(0))
    (state,), losses = train(trainer, [begin], [FAST], 1, KEY)

    source = trainer.dataset
    key = jax.random.fold_in(KEY, 0)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(64))
    batch = source.load(source.resident("train"), source.train_batch(0).examples, keys)
    model = models.CifarResNet(10, depth=8, width=4)

    def loss_fn(params):
        variables = {"params": params, "batch_stats": begin.batch_stats}
        logits, updates = model.apply(
            variables, batch.images, train=True, mutable=["batch_stats"]
        )
        likelihood = jax.nn.log_softmax(logits)[jnp.arange(64), batch.labels]
        return -likelihood.mean(), updates["batch_stats"]

    host = jax.device_get(begin)
    gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, stats), grads = gradient(host.params)
    # The first step of momentum is a plain one; decay is for matrices alone.
    wanted = jax.tree.map(
        lambda w, g: w - 0.2 * (g + 1e-3 * w * (w.ndim > 1)), host.params, grads
    )
    assert losses[0] == pytest.approx(float(loss), rel=1e-5)
    for got, want in ((state.params, wanted), (state.batch_stats, stats)):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_evaluation_is_the_mean_over_examples(trainer, one_device):
    state = jax.device_get(one_device[2][1])
    source = trainer.dataset
    split = source.load(source.resident("validation"), np.arange(257), None)
    model = models.CifarResNet(10, depth=8, width=4)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    apply = jax.jit(model.apply, static_argnames="train")
    logits = np.asarray(apply(variables, split.images, train=False), np.float64)
    correct = 100 * np.mean(logits.argmax(1) == np.asarray(split.labels))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, split.labels).mean()
    evaluation = trainer.evaluate(one_device[2][1], "validation")
    assert evaluation.accuracy == pytest.approx(correct)
    assert evaluation.loss == pytest.approx(float(loss), rel=1e-5)


def test_branches_see_the_same_and_leave_their_parent_alone(trainer):
    begin = trainer.init(jax.random.key(0))
    before = jax.device_get(begin)
    states, losses = train(trainer, [begin] * 3, [FAST, SLOW, FAST], 3, KEY)
    first, other, twin = map(jax.device_get, states)
    assert losses[0] == losses[2] != losses[1]
    jax.tree.map(np.testing.assert_array_equal, first, twin)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(begin))
    assert float(other.opt_state.hyperparams["learning_rate"]) == np.float32(0.01)


def test_a_trial_and_its_continuation_are_one_training(trainer):
    begin = trainer.init(jax.random.key(0))
    (middle,), _ = train(trainer, [begin], [FAST], 3, KEY)
    (twice,), _ = train(trainer, [middle], [FAST], 4, KEY)
    (once,), _ = train(trainer, [begin], [FAST], 7, KEY)
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (once, twice)))
    assert int(once.step) == 7


def test_new_hyperparameters_never_compile_again(trainer, compilations):
    begin = trainer.init(jax.random.key(0))
    states, _ = train(trainer, [begin, begin], [SLOW, FAST], 2, KEY)
    trainer.evaluate(states[0], "validation")
    with compilations() as counter:
        for rate in np.float32([0.3, 0.02, 0.7]):
            states, _ = train(
                trainer, states, [{"learning_rate": rate}, {"momentum": rate}], 2, KEY
            )
            trainer.evaluate(states[1], "validation")
    assert counter.count == 0


def test_divergence_is_seen(trainer):
    begin = trainer.init(jax.random.key(0))
    assert trainer.is_finite(begin)
    wild = {"learning_rate": np.float32(1e30), "momentum": np.float32(0.9)}
    (state,), losses = train(trainer, [begin], [wild], 4, KEY)
    assert not np.isfinite(losses[0])
    assert not trainer.is_finite(state)


def test_a_diverged_branch_ends_early_and_always_at_the_same_step(trainer, monkeypatch):
    """The others see the same batches as without it, and their keys."""
    begin = trainer.init(jax.random.key(0))
    wild = {"learning_rate": np.float32(1e30), "momentum": np.float32(0.9)}
    steps = 3 * training.BLOCK
    taken, step = [], trainer._layout(1).step
    monkeypatch.setattr(
        trainer._layout(1), "step", lambda *args: taken.append(args[0]) or step(*args)
    )
    branches = trainer.begin([begin, begin], [wild, FAST])
    progress = trainer.train(branches, steps, KEY)
    assert len(taken) == 2 * training.BLOCK + steps
    losses = progress.losses
    assert trainer.diverged(losses).any(1).tolist() == [True, False]
    assert trainer.steps_taken(losses).tolist() == [2 * training.BLOCK, steps]
    (alone,), mean = train(trainer, [begin], [FAST], steps, KEY)
    assert mean[0] == losses[1].mean()
    jax.tree.map(np.testing.assert_array_equal, progress.states[1], alone)

    taken.clear()  # where all have diverged, nothing is trained
    progress = trainer.train(trainer.begin([begin], [wild]), 1000, KEY)
    assert len(taken) == 2 * training.BLOCK
    assert progress.steps == 1000


@pytest.mark.parametrize("pause", [None, 40, 60])
def test_a_branch_that_spiked_once_is_not_trained_again(trainer, monkeypatch, pause):
    """However good its losses are after the spike, and after a resume."""
    begin = trainer.init(jax.random.key(0))
    taken, step = [], trainer._layout(1).step

    def spiking(*args):
        taken.append(args)
        state, loss = step(*args)
        return state, np.float32(1e9) if len(taken) == 3 else loss

    monkeypatch.setattr(trainer._layout(1), "step", spiking)
    other = trainer.begin([begin, begin], [FAST, FAST])
    steps, progress = 5 * training.BLOCK, other
    if pause:
        asked = iter([False] * (pause - 1) + [True])
        progress = trainer.train(progress, steps, KEY, asked.__next__)
        losses = progress.losses
        progress = training.Progress(progress.start, progress.states, losses)
    progress = trainer.train(progress, steps, KEY)
    assert len(taken) == 2 * training.BLOCK + steps
    counts = trainer.steps_taken(progress.losses).tolist()
    assert counts == [2 * training.BLOCK, steps]


@pytest.mark.parametrize("pauses", [(1,), (15, 16, 17), (31, 32, 40)])
def test_a_pause_changes_nothing(trainer, pauses, monkeypatch):
    begin = trainer.init(jax.random.key(0))
    wild = {"learning_rate": np.float32(1e30), "momentum": np.float32(0.9)}
    branches = trainer.begin([begin, begin], [wild, FAST])
    told = []
    monkeypatch.setattr(trainer, "_watch", lambda *x: told.append(x))
    whole = trainer.train(branches, 44, KEY)
    # What is known on the way: blocks of losses, one behind the steps.
    assert [step for step, _ in told] == [branches.start + training.BLOCK]
    np.testing.assert_array_equal(told[0][1], whole.losses[:, training.BLOCK - 1])
    progress = branches
    for pause in pauses:
        asked = iter([False] * (pause - progress.steps - 1) + [True])
        progress = trainer.train(progress, 44, KEY, asked.__next__)
        assert progress.steps == pause
        # As from a checkpoint.
        losses = progress.losses
        progress = training.Progress(progress.start, progress.states, losses)
    progress = trainer.train(progress, 44, KEY)
    np.testing.assert_array_equal(progress.losses, whole.losses)
    jax.tree.map(np.testing.assert_array_equal, progress.states, whole.states)


@pytest.mark.parametrize("devices", [1, 8])
def test_losses_of_slow_steps_are_told_before_a_block_ends(
    digits, devices, trainer, monkeypatch
):
    """On eight devices the two branches are trained side by side."""
    trainer = trainer if devices == 1 else make_trainer(digits, devices)
    begin = trainer.init(jax.random.key(0))
    branches = trainer.begin([begin, begin], [SLOW, FAST])
    whole = trainer.train(branches, 24, KEY)
    told = []
    monkeypatch.setattr(trainer, "_watch", lambda *x: told.append(x))
    monkeypatch.setattr(training, "SLOW", -1.0)
    monkeypatch.setattr(trainer, "_one_by_one", jax.block_until_ready)
    again = trainer.train(branches, 24, KEY)
    # At a block's end those are read that stop a branch, and there is nothing new.
    expected = [step for step in range(1, 25) if step != training.BLOCK]
    assert [step - branches.start for step, _ in told] == expected
    assert trainer.groups(2) == min(devices, 2)
    for step, (_, losses) in zip(expected, told, strict=True):
        np.testing.assert_array_equal(losses, whole.losses[:, step - 1])
    np.testing.assert_array_equal(again.losses, whole.losses)
    jax.tree.map(np.testing.assert_array_equal, again.states, whole.states)


def test_branches_catch_up_with_the_first(trainer):
    """As if all had been trained together, augmentation and all."""
    begin = trainer.init(jax.random.key(0))
    branches = trainer.begin([begin] * 3, [FAST, SLOW, FAST])
    first = branches._replace(states=branches.states[:1], losses=branches.losses[:1])
    asked = iter([False] * 4 + [True])
    ahead = trainer.train(first, 9, KEY, asked.__next__)
    joined = trainer.join(ahead, branches, KEY)
    whole = trainer.train(branches, joined.steps, KEY)
    assert joined.steps == 5
    np.testing.assert_array_equal(joined.losses, whole.losses)
    jax.tree.map(np.testing.assert_array_equal, joined.states, whole.states)


@pytest.mark.parametrize(
    ("loss", "diverged"),
    [(2.3, False), (2302.0, False), (2303.0, True), (np.inf, True), (np.nan, True)],
)
def test_a_spike_is_a_thousand_times_the_loss_of_a_guess(trainer, loss, diverged):
    assert trainer.diverged(np.float32([loss])) == [diverged]


def test_branches_at_different_steps_are_refused(trainer):
    begin = trainer.init(jax.random.key(0))
    (later,), _ = train(trainer, [begin], [FAST], 2, KEY)
    with pytest.raises(ValueError, match=r"one step, got \[0, 2\]"):
        train(trainer, [begin, later], [FAST, FAST], 1, KEY)


@pytest.mark.parametrize(
    ("name", "averaging", "seed"),
    [
        pytest.param("schedule_free", None, 1, marks=pytest.mark.slow),
        ("plain_sgd", 1.0, 7),
    ],
)
def test_averages_are_scored_with_statistics_of_their_own(
    digits, name, averaging, seed
):
    """Over a long average the two kinds of statistics differ by over 10%, on all seeds
    that were tried; over a shorter one it depends on the processor by how much."""
    source = dataset.ArrayDataset(
        **digits, devices=2, seed=seed, batch_size=64, eval_batch_size=128
    )
    hparams = {"learning_rate": 1.0, "weight_decay": 1e-3}
    optimizer = optimizers.create_optimizer(name, hparams, averaging=averaging)
    model = models.CifarResNet(10, depth=8, width=4, axis_name=steps.AXIS)
    trainer = training.Trainer(model, optimizer, source, jax.devices()[:2])
    rate = {"learning_rate": np.float32(1.0)}
    begin = trainer.init(jax.random.key(0))
    (state,), _ = train(trainer, [begin], [rate], 40, KEY)
    before = jax.device_get(state)
    scored = trainer.evaluate(state, "validation")

    plain = models.CifarResNet(10, depth=8, width=4)
    average = jax.device_get(optimizers.eval_params(state.opt_state, state.params))
    statistics = before.batch_stats
    total = jax.tree.map(np.zeros_like, statistics)
    for step in range(40 - 16, 40):  # 16 batches of 64 are 1,024 images
        images, _ = source.load(
            source.resident("train"), source.train_batch(step).examples, None
        )
        _, updates = plain.apply(
            {"params": average, "batch_stats": statistics},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        # Of the batch alone: the running mean takes in a tenth of it.
        total = jax.tree.map(
            lambda sums, new, old: sums + (new - 0.9 * old) / 0.1,
            total,
            jax.device_get(updates["batch_stats"]),
            statistics,
        )
    split = source.resident("validation")
    images, labels = source.load(split, np.arange(source.size("validation")), None)

    def loss(params, batch_stats):
        logits = plain.apply(
            {"params": params, "batch_stats": batch_stats}, images, train=False
        )
        return float(steps.cross_entropy(logits, labels).mean())

    measured = jax.tree.map(lambda sums: sums / 16, total)
    assert scored.loss == pytest.approx(loss(average, measured), rel=1e-5)
    assert scored.loss != pytest.approx(loss(average, statistics), rel=1e-1)
    assert scored.loss < loss(before.params, statistics)
    # Scoring changes nothing of what is trained on.
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))


def test_average_of_an_untrained_network_is_the_network(digits):
    source = dataset.ArrayDataset(
        **digits, devices=1, seed=0, batch_size=64, eval_batch_size=128
    )
    model = models.CifarResNet(10, depth=8, width=4, axis_name=steps.AXIS)
    for averaging in (None, 3.0):
        optimizer = optimizers.create_optimizer("sgd", HPARAMS, averaging=averaging)
        trainer = training.Trainer(model, optimizer, source, jax.devices()[:1])
        found = trainer.evaluate(trainer.init(jax.random.key(0)), "validation")
        if averaging is None:
            wanted = found
    assert found == wanted
