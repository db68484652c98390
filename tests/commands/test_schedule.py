"""The accepted path as Optax schedules."""

import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from hyperdyn_jax import load_schedule
from hyperdyn_jax.schedule import main
from hyperdyn_jax.strategies.learned_schedule import differences, to_schedule

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
     '{"until_step": [1, 2], "hyperparams": {"learning_rate": [0.1]}}',
     '{"until_step": [2, 2], "hyperparams": {"learning_rate": [0.1, 0.1]}}',
     '{"until_step": [2], "hyperparams": {"learning_rate": [null]}}'],
)  # fmt: skip
def test_files_that_are_no_schedule_are_named(tmp_path, content):
    (tmp_path / "schedule.json").write_text(content)
    with pytest.raises(ValueError, match=r"schedule\.json is not a schedule: "):
        load_schedule(tmp_path)


def write(folder, ends, **hyperparams):
    folder.mkdir()
    content = {"until_step": ends, "hyperparams": hyperparams}
    (folder / "schedule.json").write_text(json.dumps(content))
    return str(folder)


def test_every_step_has_the_value_it_had_also_through_inject_hyperparams(tmp_path):
    """To the bit, for random pieces and values, against a list with a value a step."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(rng.integers(1, 7, 12))
    values = {
        "learning_rate": np.exp(rng.normal(-3, 3, 12)).astype(np.float32),
        "momentum": rng.uniform(0, 1, 12).astype(np.float32),
    }
    metrics = [
        {"step": int(end), "hyperparams": {n: v[i].item() for n, v in values.items()}}
        for i, end in enumerate(ends)
    ]
    (tmp_path / "schedule.json").write_text(json.dumps(to_schedule(metrics)))
    schedules = load_schedule(tmp_path)
    assert set(schedules) == set(values)
    lengths = np.diff(ends, prepend=0)
    played = {name: np.repeat(v, lengths) for name, v in values.items()}
    optimizer = optax.inject_hyperparams(optax.sgd)(**schedules)
    state, update = optimizer.init(np.float32(0)), jax.jit(optimizer.update)
    for step in range(ends[-1]):
        _, state = update(np.float32(1), state)  # sets those of this step
        for name, each in played.items():
            assert schedules[name](step) == each[step]
            assert jax.jit(schedules[name])(step) == each[step]
            assert state.hyperparams[name] == each[step]


def test_differences_against_a_list_with_a_value_a_step(tmp_path):
    rng = np.random.default_rng(1)
    for trial in range(20):
        runs, played = [], []
        for name in "ab":
            ends = np.cumsum(rng.integers(1, 4, rng.integers(1, 6)))
            values = rng.choice([0.125, 0.25, 0.5, 1.0], len(ends))
            folder = tmp_path / f"{name}{trial}"
            runs.append(write(folder, ends.tolist(), rate=values.tolist()))
            played.append(np.repeat(values, np.diff(ends, prepend=0)))
        steps = min(map(len, played))
        x, y = (each[:steps] for each in played)
        found = differences(*runs)["rate"]
        if (x == y).all():
            assert found is None
            continue
        assert found.first == np.argmax(x != y)
        assert found.steps == np.sum(x != y)
        ratio = np.abs(np.log2(x / y))
        assert ratio[found.most] == ratio.max()
        places = [found.first, found.most]
        assert found.values == tuple((x[i], y[i]) for i in places)


@pytest.fixture
def two(tmp_path):
    a = write(tmp_path / "a", [10, 20, 30], lr=[0.1, 0.1, 0.5], b1=[0.0, 0.5, 0.5])
    b = write(tmp_path / "b", [5, 25], lr=[0.1, 0.2], wd=[1e-4, 1e-4])
    return a, b


def test_the_command_prints_a_table(two, capsys):
    assert main([*two]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, second = out.split("\n\n")
    assert [line.split() for line in first.splitlines()] == [
        [two[0]], ["steps", "lr", "b1"], ["0–9", "0.1", "0"], ["10–19", "0.1", "0.5"],
        ["20–29", "0.5", "0.5"],
    ]  # fmt: skip
    assert second.split()[-2:] == ["0.2", "0.0001"]


def test_the_command_says_where_two_part(two, capsys):
    a, b = two
    apart = "part at step 5, 0.1 against 0.2; differ at 20 of 25 steps, most at step "
    apart += "20, 0.5 against 0.2, 2.5x"
    assert main(["diff", a, b]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"steps: 30 in {a}, 25 in {b}",
        f"lr: {apart}",
        f"b1: only in {a}",
        f"wd: only in {b}",
    ]
    assert main(["diff", a, a]) == 0
    assert "lr: the same at all 30 steps that both have" in capsys.readouterr().out


def test_the_command_draws(two, tmp_path):
    for kind, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        assert main([*two, f"--output={tmp_path / f'figure{kind}'}"]) == 0
        assert (tmp_path / f"figure{kind}").read_bytes().startswith(magic)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{a}", "{a}/nothing"], "No such file or directory"),
        (["diff", "{a}"], "diff takes two runs, as in schedule diff RUN RUN"),
        (["{a}", "--output={a}/x.txt"], "Format 'txt' is not supported"),
        (["{a}", "--output={a}/no/x.png"], "{a}/no: No such file or directory"),
        (["{a}", "--output={a}/figure"], "figure must end in .png, .svg or .pdf"),
        (["{a}", "--output={a}/dir.png"], "{a}/dir.png cannot be written: Is a direct"),
    ],
)
def test_problems_in_one_line(two, words, message, capsys):
    Path(two[0], "dir.png").mkdir()
    before = sorted(Path(two[0]).rglob("*"))
    assert main([word.format(a=two[0]) for word in words]) == 2
    assert sorted(Path(two[0]).rglob("*")) == before
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message.format(a=two[0]) in error
