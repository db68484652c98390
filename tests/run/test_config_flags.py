"""Settings that a command line changes in a config."""

import pytest
from paths import ROOT

from hyperdyn_jax.run import config, config_files, config_flags

DIGITS = str(ROOT / "configs" / "digits.py")


def changed(*words):
    content = config_files.load(DIGITS)
    for word in words:
        config_flags.change(content, f"--config.{word}")
    return content.to_dict()


def test_a_strategy_without_a_section_in_the_file_takes_settings():
    words = "strategy=wsd", "wsd.warmup=2", "wsd.decay=0.5", "plateau.metric=accuracy"
    content = changed(*words)
    assert content["wsd"] == {"warmup": 2, "decay": 0.5}
    setup = config.build(content)
    rates = [setup.tuner.at(time)["learning_rate"] for time in (1.0, 2.0)]
    assert rates[0] == pytest.approx(rates[1] / 2)


def test_what_such_a_section_may_not_have_is_told_with_the_rest():
    with pytest.raises(config.ConfigError) as error:
        config.build(changed("autolrs.kapa=2", "autolrs.probes=1", "epochs=0"))
    assert sorted(error.value.problems) == [
        "config.autolrs.kapa is an unknown setting",
        "config.autolrs.probes must be a whole number >= 2, got 1",
        "config.epochs must be >= 1, got 0",
    ]


@pytest.mark.parametrize("word", ["zz.y=3", "hyperdyn.windw=3", "wsd.decay.x=3"])
def test_no_other_section_is_made(word):
    with pytest.raises(ValueError, match="is an unknown setting"):
        changed(word)
