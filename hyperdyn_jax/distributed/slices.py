"""TPU slices by name: figures of their chips, and devices to compile for without one.

The compiler is libtpu, which the extra `tpu` brings. It needs no TPU, and none that the
machine may have is touched.
"""

import importlib.util
import math
import os
from importlib import metadata
from typing import NamedTuple

import jax

GIB = 2**30


class Chip(NamedTuple):
    """What a chip can do at best.

    memory: bytes. flops: multiplications and additions of bfloat16 a second.
    bandwidth: bytes a second, of the memory. links: bytes a second that it sends to
      other chips, over all its links.
    """

    memory: float
    flops: float
    bandwidth: float
    links: float


# Google Cloud's documentation (cloud.google.com/tpu/docs/v4, v5e and v5p), whose "ICI
# bandwidth" is counted in both directions (v5e 400, v5p 1,200 GB/s). That of v4 is in
# Jouppi et al. 2023 (2304.01433): six links of 50 GB/s.
CHIPS = {
    "v5e": Chip(16 * GIB, 197e12, 819e9, 200e9),
    "v4": Chip(32 * GIB, 275e12, 1200e9, 300e9),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9),
}
# Chips along each side of a slice, and of the part of it that one host has.
_FLAT = {"1x1": (1, 1, 1), "2x2": (2, 2, 1), "2x4": (2, 4, 1), "4x4": (2, 2, 1)}
_DEEP = dict.fromkeys(("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"), (2, 2, 1))
_SHAPES = {"v5e": _FLAT, "v4": _DEEP, "v5p": _DEEP}
NAMES = tuple(f"{kind}:{shape}" for kind in CHIPS for shape in _SHAPES[kind])


class Slice(NamedTuple):
    """A slice that can be compiled for.

    chips: how many it has. hosts: that share them evenly. chip: each of them.
    """

    name: str
    chips: int
    hosts: int
    chip: Chip


def problem(name: str) -> str:
    """Why a slice cannot be compiled for here, in a line; "" if nothing is known."""
    if name not in NAMES:
        return f"--topology must be one of {', '.join(NAMES)}, got {name!r}"
    if importlib.util.find_spec("libtpu") is None:
        mend = 'pip install -e ".[tpu]"'
        return f"--topology={name} needs libtpu, the compiler for TPUs: {mend}"
    return ""


def named(name: str) -> Slice:
    """A slice of `NAMES`."""
    kind, _, shape = name.partition(":")
    count = math.prod(map(int, shape.split("x")))
    hosts = count // math.prod(_SHAPES[kind][shape])
    return Slice(name, count, hosts, CHIPS[kind])


def versions() -> list[str]:
    """Of what compiles."""
    return [metadata.version(name) for name in ("jaxlib", "libtpu")]


def compute_on_cpu() -> None:
    """Lets JAX find no accelerator in this process: what is computed is little, and a
    TPU that is here may be another process's."""
    jax.config.update("jax_platforms", "cpu")


def devices(name: str) -> list[jax.Device]:
    """The chips of a slice, in an order of their own; programs can be compiled for
    them, and nothing can be run."""
    from jax.experimental import topologies

    kind, _, shape = name.partition(":")
    # libtpu looks for the TPU that it is on, says at length that it is on none, and
    # lets no other process load it.
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-8"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ):
        os.environ.setdefault(variable, value)
    # Two cores of a chip are one device, as Cloud TPU has them.
    cores = {} if kind == "v5e" else {"chip_config_name": "megacore"}
    found = topologies.get_topology_desc(
        platform="tpu",
        topology_name=name,
        chips_per_host_bounds=_SHAPES[kind][shape],
        **cores,
    )
    return list(found.devices)
