"""The accepted path as Optax schedules."""

import json

import numpy as np
import optax
import pytest

from hyperdyn_jax import load_schedule
from hyperdyn_jax.schedule import to_schedule

METRICS = [
    {"step": 10, "hyperparams": {"learning_rate": 0.1, "momentum": 0.9}},
    {"step": 25, "hyperparams": {"learning_rate": 0.5, "momentum": 0.8}},
    {"step": 30, "hyperparams": {"learning_rate": 0.2, "momentum": 0.7}},
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "schedule.json").write_text(json.dumps(to_schedule(METRICS)))
    return tmp_path


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.1), (9, 0.1), (10, 0.5), (24, 0.5), (25, 0.2), (29, 0.2), (1000, 0.2)],
)
def test_a_value_holds_until_its_last_step(run, step, rate):
    for path in (run, run / "schedule.json"):
        value = load_schedule(path)["learning_rate"](step)
        assert (float(value), value.dtype) == (np.float32(rate), np.float32)


def test_optax_takes_it(run):
    rate = load_schedule(run)["learning_rate"]
    optimizer = optax.sgd(rate)
    params, state = np.float32(0), optimizer.init(np.float32(0))
    for _ in range(30):
        update, state = optimizer.update(np.float32(1), state, params)
        params = params + update
    assert float(params) == pytest.approx(-(10 * 0.1 + 15 * 0.5 + 5 * 0.2), rel=1e-5)


@pytest.mark.parametrize(
    "content",
    ["{", "{}", '{"until_step": [1], "hyperparams": []}',
     '{"until_step": [], "hyperparams": {}}',
     '{"until_step": [1, 2], "hyperparams": {"learning_rate": [0.1]}}'],
)  # fmt: skip
def test_files_that_are_no_schedule_are_named(tmp_path, content):
    (tmp_path / "schedule.json").write_text(content)
    with pytest.raises(ValueError, match=r"schedule\.json is not a schedule: "):
        load_schedule(tmp_path)
