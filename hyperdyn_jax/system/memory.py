"""Memory that one training step frees stays with the process for the next.

Light: it needs nothing but Python's own modules, and is asked before JAX is there.
"""

import ctypes
import importlib.util
import os
import sys

# Of glibc's malloc.h, with what is asked for.
_M_TRIM_THRESHOLD, _KEPT = -1, 2**31 - 1  # bytes that are free and not given back
_M_MMAP_MAX, _NO_MAPPINGS = -4, 0
_M_ARENA_MAX, _ONE_FOR_ALL_THREADS = -8, 1

_ASKED = ("GLIBC_TUNABLES", "MALLOC_")  # variables by which a user asks for something


def keep_freed() -> bool:
    """Asks glibc to keep freed memory, where networks are trained on CPUs of Linux.

    XLA takes the memory of a step anew every time. glibc maps so large a piece on its
    own and gives it back after the step, and the system then hands out each of its
    pages at the first touch: 118,000 of them in a step of a ResNet-20 at batch 128,
    a third of its time (`benchmarks/step.py`). The numbers do not depend on it.

    Nothing is changed where an accelerator may be in use, whose hosts have many threads
    that decode images and one arena would hold up, nor where the environment has
    settings of glibc's own. It has to be called before other threads take memory.

    Returns:
      Whether it was asked.
    """
    if sys.platform != "linux" or any(name.startswith(_ASKED) for name in os.environ):
        return False
    platform = os.environ.get("JAX_PLATFORMS", "")
    if platform != "cpu" and (platform or _has_plugin()):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    wanted = {
        _M_ARENA_MAX: _ONE_FOR_ALL_THREADS,
        _M_MMAP_MAX: _NO_MAPPINGS,
        _M_TRIM_THRESHOLD: _KEPT,
    }
    done = [mallopt(name, value) for name, value in wanted.items()]
    return all(done)


def _has_plugin() -> bool:
    """Whether JAX might find an accelerator: its plugin, or the library of TPUs."""
    names = ("jax_plugins", "libtpu")
    return any(importlib.util.find_spec(name) for name in names)
