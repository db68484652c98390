"""What short trials, short batches and devices make of a network with BatchNorm."""

import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from ml_collections import ConfigDict
from paths import ROOT

from hyperdyn_jax import loop, models, optimizers, presets
from hyperdyn_jax.data import dataset
from hyperdyn_jax.run import config as config_lib
from hyperdyn_jax.training import train_step, trainer

KEY = jax.random.key(7)
RATE = {"learning_rate": np.float32(0.5)}
PLAIN = networks.Small()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A config may name the small network."""

    def make(classes, *, dtype, axis_name):
        assert (classes, dtype) == (10, jnp.float32)
        return networks.Small(axis_name)

    monkeypatch.setitem(models.MODELS, "small", make)


def settings(**changes):
    content = {
        "name": "small", "seed": 0, "epochs": 1, "batch_size": 128,
        "eval_batch_size": 128, "dataset": "digits", "data_dir": "", "pad": 0,
        "model": {"name": "small"}, **presets.tuning("plain_sgd", "constant"),
    }  # fmt: skip
    config = ConfigDict(content)
    config.update(changes)
    return config.to_dict()


def make_trainer(devices, train=1280, batch_size=64, model=None):
    splits = dataset.digits()
    splits["train"] = dataset.Split(*(x[:train] for x in splits["train"]))
    source = dataset.ArrayDataset(
        **splits, devices=devices, seed=0, batch_size=batch_size, eval_batch_size=128
    )
    optimizer = optimizers.create_optimizer(
        "plain_sgd", {"learning_rate": 0.1, "weight_decay": 0.0}
    )
    model = model or networks.Small(train_step.AXIS)
    return trainer.Trainer(model, optimizer, source, jax.devices()[:devices])


def trained(trainer, steps, rate=RATE):
    """The states after 0 and after so many steps."""
    begin = trainer.init(jax.random.key(0))
    end = trainer.train(trainer.begin([begin], [rate]), steps, KEY).states[0]
    return jax.device_get(begin), jax.device_get(end)


def loaded(source, step):
    """The images and labels of a batch."""
    examples = source.train_batch(step).examples
    return source.load(source.resident("train"), examples, None)


@jax.jit
def forward(params, batch_stats, images):
    variables = {"params": params, "batch_stats": batch_stats}
    return PLAIN.apply(variables, images, train=True, mutable=["batch_stats"])


def mean_loss(params, batch_stats, batch):
    logits, _ = forward(params, batch_stats, batch.images)
    return train_step.cross_entropy(logits, batch.labels).mean()


gradient = jax.jit(jax.grad(mean_loss))


def assert_close(mine, theirs):
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------- short trials


def test_statistics_of_a_short_trial_are_those_of_its_last_batches():
    here = make_trainer(2)
    _, state = trained(here, 3)
    lagging = here.evaluate(state, "validation")
    measured = here.evaluate(state, "validation", measure=True)
    assert measured.loss < 0.95 * lagging.loss

    def of_batch(step):  # the running mean takes in a tenth of it
        _, new = forward(
            state.params, state.batch_stats, loaded(here.dataset, step).images
        )
        return jax.tree.map(
            lambda new, old: (new - 0.9 * old) / 0.1,
            new["batch_stats"],
            state.batch_stats,
        )

    mean = jax.tree.map(lambda *x: sum(x) / 3, *map(of_batch, range(3)))
    wanted = here.evaluate(state._replace(batch_stats=mean), "validation")
    assert measured.loss == pytest.approx(wanted.loss, rel=1e-4)
    assert measured.accuracy == wanted.accuracy


def test_before_the_first_step_there_is_nothing_to_measure():
    here = make_trainer(1)
    state = here.init(jax.random.key(0))
    plain, measured = (
        here.evaluate(state, "validation", measure=each) for each in (False, True)
    )
    assert plain == measured


def test_a_trial_of_an_epoch_is_scored_as_it_stands():
    here = make_trainer(1)
    assert here.dataset.steps_per_epoch == 20
    assert [here.scores_anew(steps) for steps in (1, 19, 20, 21)] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("strategy", "section", "short"),
    [
        # Two probes of three segments of a step each, then the epoch itself.
        ("autolrs", {"probes": 2, "segments": 3, "probe_fraction": 0.3}, 6),
        ("hyperdyn", {"initial_points": 2}, 0),  # the paper's: an epoch each
    ],
)
def test_short_trials_of_a_run_are_measured_and_the_papers_are_not(
    strategy, section, short, tmp_path, monkeypatch
):
    asked, evaluate = [], trainer.Trainer.evaluate

    def noted(self, state, split, *, measure=False):
        asked.append(measure)
        return evaluate(self, state, split, measure=measure)

    monkeypatch.setattr(trainer.Trainer, "evaluate", noted)
    content = settings(strategy=strategy)
    content[strategy] = content.get(strategy, {}) | section
    loop.train_and_evaluate(content, tmp_path / "run")
    assert sum(asked) == short
    assert asked[-1] is False  # the test of the network that was kept


# --------------------------------------------------------------------- short batches


@pytest.mark.parametrize("devices", [1, 2])
def test_an_example_of_a_short_batch_counts_as_much_as_any(devices):
    """96 examples in batches of 64: the second has 32, and moves half as far."""
    here = make_trainer(devices, train=96)
    assert here.dataset.steps_per_epoch == 2
    _, full = trained(here, 1)
    _, short = trained(here, 2)
    batch = loaded(here.dataset, 1)
    assert len(batch.labels) == 32
    grads = gradient(full.params, full.batch_stats, batch)
    wanted = jax.tree.map(lambda w, g: w - 0.5 * 32 / 64 * g, full.params, grads)
    assert_close(short.params, wanted)


# ------------------------------------------------------------------------ BatchNorm


@pytest.mark.parametrize("together", [True, False, None])
def test_batch_norm_goes_by_all_devices_or_by_each(together):
    """Two devices share 64 examples: normalised as one batch, or as two."""
    model = {"name": "small"}
    if together is not None:
        model["sync_batch_norm"] = together
    setup = config_lib.build(settings(model=model))
    here = make_trainer(2, model=setup.model)
    begin, end = trained(here, 1)
    batch = loaded(here.dataset, 0)
    parts = [batch]
    if together is False:
        parts = [dataset.Split(*(x[i : i + 32] for x in batch)) for i in (0, 32)]

    def mean(function):
        each = [function(part) for part in parts]
        return jax.tree.map(lambda *x: sum(x) / len(x), *each)

    grads = mean(functools.partial(gradient, begin.params, begin.batch_stats))
    wanted = jax.tree.map(lambda w, g: w - 0.5 * g, begin.params, grads)
    assert_close(end.params, wanted)
    stats = mean(lambda x: forward(begin.params, begin.batch_stats, x.images)[1])
    assert_close(end.batch_stats, stats["batch_stats"])


@pytest.mark.parametrize("name", ["cifar10", "cifar10_twin", "digits", "imagenet"])
def test_every_config_says_whether_batch_norm_is_synchronised(name):
    """The paper's devices each go by their own part of ImageNet's large batches."""
    names = {}
    exec((ROOT / "configs" / f"{name}.py").read_text(), names)
    model = names["get_config"]().model
    assert model.sync_batch_norm is (name != "imagenet")
