"""Freed memory stays with the process, and nothing is asked where it might hurt."""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys

import pytest
from paths import ROOT

from hyperdyn_jax.system import memory

SOURCE = ROOT / "hyperdyn_jax" / "system" / "memory.py"
# The module by itself, as the package brings JAX, which takes seconds.
FAULTS = f"""
import json, resource, threading
source = {{}}
exec(open({str(SOURCE)!r}).read(), source)
asked = source["keep_freed"]()

def touch(found):
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        piece = bytearray(96 << 20)
        piece[::4096] = bytes(len(piece) // 4096)
        del piece
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

here, there = [], []
touch(here)
thread = threading.Thread(target=touch, args=(there,))
thread.start()
thread.join()
print(json.dumps([asked, here[1:], there[1:]]))
"""

linux = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator alone has it"
)


def faults(**environment):
    """Whether memory was kept, and page faults of later allocations in two threads."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@linux
def test_a_piece_that_was_freed_is_there_for_the_next_in_every_thread():
    asked, here, there = faults(JAX_PLATFORMS="cpu")
    assert asked
    assert max(here + there) < 100  # of 24,576 pages


@linux
def test_without_it_every_piece_is_mapped_anew():
    asked, here, there = faults(JAX_PLATFORMS="cpu", MALLOC_MMAP_THRESHOLD_="131072")
    assert not asked
    assert min(here + there) > 100


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JAX_PLATFORMS", "cuda"),
        ("JAX_PLATFORMS", "tpu,cpu"),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
        ("MALLOC_ARENA_MAX", "4"),
    ],
)
def test_nothing_is_asked_beside_an_accelerator_or_settings_of_the_user(
    monkeypatch, variable, value
):
    monkeypatch.setenv(variable, value)
    assert not memory.keep_freed()


@pytest.mark.parametrize("name", ["jax_plugins", "libtpu"])
def test_nothing_is_asked_where_a_plugin_for_an_accelerator_is_installed(
    monkeypatch, name
):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    found = {name: True}
    monkeypatch.setattr(importlib.util, "find_spec", found.get)
    assert not memory.keep_freed()
