"""Options of XLA's compiler, which differ between versions."""

import functools
from typing import Any

import jax

ONE_THREAD = {"xla_cpu_multi_thread_eigen": False}
# Optimise for compile time, not run time: a network's initialisation takes 5 to 15 s
# less.
RUNS_ONCE = {"xla_backend_optimization_level": 0}


def options(**wanted: Any) -> dict[str, Any]:
    """Those of the options that this jaxlib knows, for `jax.jit(compiler_options=)`.

    An option is only ever asked for to save time. A program must be right without it:
    what one version of XLA needs an option for, the next may do without having one.

    Args:
      **wanted: values by the name that XLA gives the option.
    """
    return {name: value for name, value in wanted.items() if _known(name, value)}


@functools.cache
def _known(name: str, value: Any) -> bool:
    """Whether a program can be compiled with the option; asked once a process."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
