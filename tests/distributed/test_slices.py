"""TPU slices by name: what they have, and what is wrong with a name."""

import importlib.util

import pytest

from hyperdyn_jax.distributed import slices


@pytest.mark.parametrize(
    ("name", "chips", "hosts"),
    [
        ("v5e:1x1", 1, 1),
        ("v5e:2x4", 8, 1),
        ("v5e:4x4", 16, 4),
        ("v4:2x2x1", 4, 1),
        ("v4:2x4x4", 32, 8),
        ("v5p:4x4x4", 64, 16),
    ],
)
def test_a_name_says_chips_and_hosts(name, chips, hosts):
    found = slices.named(name)
    assert (found.name, found.chips, found.hosts) == (name, chips, hosts)
    assert found.chip is slices.CHIPS[name.partition(":")[0]]


def test_every_slice_is_shared_evenly_by_its_hosts():
    for name in slices.NAMES:
        found = slices.named(name)
        assert found.chips % found.hosts == 0
        assert found.chips // found.hosts in (1, 4, 8)


@pytest.mark.parametrize("name", ["v5e:2x5", "v5e", "", "h100:8", "V5E:2x4"])
def test_a_name_that_is_none_is_told_with_those_that_are(name):
    line = slices.problem(name)
    assert line.startswith("--topology must be one of v5e:1x1, v5e:2x2, v5e:2x4, ")
    assert line.endswith(f", v5p:4x4x4, got {name!r}")


def test_without_the_compiler_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    line = slices.problem("v5e:2x4")
    assert line.startswith("--topology=v5e:2x4 needs libtpu")
    assert line.endswith('pip install -e ".[tpu]"')
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert slices.problem("v5e:2x4") == ""
