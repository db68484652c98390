"""Every strategy through the real loop, one flag away, counted alike."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from hyperdyn_jax import loop
from hyperdyn_jax.display import Display
from hyperdyn_jax.space import LogUniform, SearchSpace
from hyperdyn_jax.strategies import STRATEGIES, Context

ROOT = Path(__file__).resolve().parents[1]
STEPS = 10  # an epoch
# Optimizer steps in all for three epochs: the sum over decisions of branches x steps.
TOTAL = {
    "hyperdyn": (5 + 2 + 2) * STEPS,
    "epoch_bo": (5 + 2 + 2) * STEPS,
    "greedy": (5 + 2 + 2) * STEPS,
    "control": (5 + 2 + 2) * STEPS,
    # Ten probes of a step, a third of 3 epochs in all, and the rest.
    "explore": 3 * STEPS,
    "random_search": 3 * 5 * STEPS,
    "hyperband": 3 * 5 * STEPS,
    "pb2": 3 * 4 * STEPS,
    # A stage of two epochs: ten probes of four segments of one step (2 / 10 / 4 epochs,
    # rounded); the second stage is cut off by the end of the run.
    "autolrs": 2 * 10 * 4 * 1 + 3 * STEPS,
    "autolrs_95": 2 * 10 * 4 * 1 + 3 * STEPS,
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """All runs have the same steps; they are compiled for the first and then read."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    old = [getattr(jax.config, name) for name in names]
    jax.config.update(names[0], str(tmp_path_factory.mktemp("compiled")))
    jax.config.update(names[1], 0.0)
    yield
    for name, value in zip(names, old, strict=True):
        jax.config.update(name, value)


def settings(strategy):
    namespace = {}
    exec((ROOT / "configs" / "digits.py").read_text(), namespace)
    config = namespace["get_config"]()
    config.update(strategy=strategy, epochs=3, batch_size=128)
    config.model.width = 2
    config.hyperdyn.update(capacity=16, candidates=64)
    content = config.to_dict()
    if strategy.startswith("autolrs"):
        content[strategy] = {"stage": 2.0, "max_stage": 2.0}
    if strategy == "explore":
        content["explore"] = {"max_overhead": 0.5}
    if strategy == "pb2":
        content["pb2"] = {"capacity": 16}
    if strategy == "manual_large_batch":
        content["manual_large_batch"] = {"warmup": 1.0}
    return content


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategy_runs_and_is_counted(strategy, tmp_path):
    metrics = loop.train_and_evaluate(settings(strategy), tmp_path, Display(3))
    last = metrics[-1]
    assert last["step"] == (3 * STEPS - 10 if strategy == "explore" else 3 * STEPS)
    assert last["total_steps"] == TOTAL.get(strategy, 3 * STEPS)
    assert np.isfinite(last["test_accuracy"])
    lines = (tmp_path / "decisions.jsonl").read_text().splitlines()
    decisions = [json.loads(line) for line in lines]
    steps = [row["step"] for row in metrics]
    extra = sum(row["extra_steps"] for row in decisions)
    assert steps[-1] + extra == last["total_steps"]
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("strategy", "settings", "kappa"),
    [
        ("autolrs", {}, 1e6),
        ("autolrs_95", {}, 1.96),
        ("autolrs_95", {"kappa": 3.0}, 3.0),
    ],
)
def test_autolrs_has_the_published_bound_and_that_of_an_interval(
    strategy, settings, kappa
):
    space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
    context = Context(space, {"learning_rate": 0.1}, 10, 32, settings, {})
    assert STRATEGIES[strategy](context).kappa == kappa
