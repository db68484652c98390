"""Runs of earlier versions, whose config.json has settings that are gone."""

import json
from pathlib import Path

import pytest
from paths import ROOT

from hyperdyn_jax import replay, strategies
from hyperdyn_jax.report import gather
from hyperdyn_jax.report.numbers import Run
from hyperdyn_jax.run import config, config_files, config_schema, config_strategy

USUAL = {"fit_steps": 5, "candidates": 1024, "starts": 4, "ascent_steps": 20}


def earlier(decay_all=False, hyperdyn=(), **changes):
    """The config of a run that was made before the settings went."""
    content = config_files.load(str(ROOT / "configs" / "digits.py")).to_dict()
    content["optimizer"]["decay_all"] = decay_all
    content["hyperdyn"] |= USUAL | {"cooling": 0.0} | dict(hyperdyn)
    return content | {"scan": None, "parallel": None} | changes


def now():
    return config_files.load(str(ROOT / "configs" / "digits.py")).to_dict()


def write(folder, content):
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_what_every_run_does_now_is_left_out(tmp_path):
    read = config_files.read_json(write(tmp_path, earlier()) / "config.json")
    assert config_schema.differences(read, now()) == []
    config.build(read)


def test_what_a_run_would_do_otherwise_is_refused(tmp_path):
    content = earlier(decay_all=True, hyperdyn={"cooling": 1.0}, scan=False)
    read = config_files.read_json(write(tmp_path, content) / "config.json")
    with pytest.raises(config.ConfigError) as caught:
        config.build(read)
    told = [line.partition(";")[0] for line in caught.value.problems]
    assert sorted(told) == [
        "config.hyperdyn.cooling is an unknown setting",
        "config.optimizer.decay_all is an unknown setting",
        "config.scan is an unknown setting",
    ]


@pytest.mark.parametrize("name", ["hyperdyn", "epoch_bo", "control"])
def test_the_model_of_an_earlier_run_can_be_had_again(name):
    content = earlier(strategy=name, parallel=False)
    content["hyperdyn"] |= {"candidates": 64, "cooling": 1.0}
    tuner = config_strategy.make_tuner(content, 40)
    assert tuner == config_strategy.make_tuner(now() | {"strategy": name}, 40)


def test_autolrs_95_is_autolrs_with_its_kappa():
    content = earlier(strategy="autolrs_95", autolrs_95={"stage": 4.0})
    tuner = config_strategy.make_tuner(content, 40)
    assert isinstance(tuner, strategies.AutoLRS)
    assert (tuner.kappa, tuner.stage) == (1.96, 4.0)
    # The section of a strategy that was not chosen says nothing.
    unchosen = earlier(autolrs_95={"stage": 4.0})
    assert "autolrs_95" not in config_schema.current(unchosen)


def test_an_earlier_run_is_replayed_unless_other_parameters_decayed(tmp_path):
    content = earlier(hyperdyn={"cooling": 1.0, "candidates": 64}, parallel=False)
    played = replay.replay_config(write(tmp_path, content))
    assert played["strategy"] == "replay"
    assert "cooling" not in played["hyperdyn"]
    with pytest.raises(config.ConfigError, match=r"decay_all is an unknown setting"):
        replay.replay_config(write(tmp_path, earlier(decay_all=True)))


def test_compare_tells_no_difference_that_makes_none():
    old, new, cooled = (
        gather.settings(Run(Path("a"), "a", content, [], []))
        for content in (
            earlier(strategy="hyperdyn"),
            now() | {"strategy": "hyperdyn"},
            earlier(strategy="hyperdyn", hyperdyn={"cooling": 1.0}),
        )
    )
    assert old == new
    assert dict(cooled.items() - new.items()) == {"hyperdyn.cooling": "1.0"}
