"""What a compiled program tells of itself: memory, arithmetic and exchanges."""

import json
import math
import re
import time
from typing import Any, NamedTuple

import jax

from hyperdyn_jax.distributed.slices import GIB, Chip

SIZES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}
SIZES |= {f"{kind}{bits}": bits // 8 for kind in "su" for bits in (8, 16, 32, 64)}


class Collective(NamedTuple):
    """An exchange between chips.

    kind: as XLA calls it. chips: of a group that exchanges among itself. size: bytes of
      its result on a chip.
    """

    kind: str
    chips: int
    size: int

    @property
    def sent(self) -> float:
        """Bytes that a chip sends to others, at least."""
        share = (self.chips - 1) / self.chips
        times = {"all-reduce": 2.0 * share, "reduce-scatter": self.chips - 1.0}
        times |= {"collective-permute": 1.0}
        return self.size * times.get(self.kind, share)


class Program(NamedTuple):
    """A program as the compiler made it, or could not make it.

    name: of the program.
    seconds: of processor time that its compilation took.
    memory: bytes of a chip; where it is more than there is, what XLA says it would be.
    flops, bytes: arithmetic and memory traffic of a chip, as XLA counts them. What is
      in a loop counts once.
    collectives: that every chip takes part in.
    problem: why there is no program, "" if there is one.
    """

    name: str
    seconds: float
    memory: float
    flops: float = 0.0
    bytes: float = 0.0
    collectives: tuple[Collective, ...] = ()
    problem: str = ""

    @property
    def sent(self) -> float:
        """Bytes that a chip sends to others."""
        return sum(each.sent for each in self.collectives)

    def times(self, chip: Chip) -> dict[str, float]:
        """Seconds that it takes at least, by what takes them (the roofline model,
        Williams et al. 2009)."""
        return {
            "arithmetic": self.flops / chip.flops,
            "memory traffic": self.bytes / chip.bandwidth,
            "exchange": self.sent / chip.links,
        }


def compiled(name: str, lowered: jax.stages.Lowered) -> Program:
    """Compiles a program. One that does not fit is told of like the others."""
    start = time.process_time()
    try:
        done = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        seconds = time.process_time() - start
        memory, problem = refusal(str(error))
        return Program(name, seconds, memory, problem=problem)
    seconds = time.process_time() - start
    memory = memory_of(done.memory_analysis())
    cost: Any = done.cost_analysis() or {}  # not every compiler tells
    return Program(
        name,
        seconds,
        memory,
        cost.get("flops", 0.0),
        cost.get("bytes accessed", 0.0),
        tuple(collectives(done.as_text() or "")),
    )


def memory_of(found: Any) -> float:
    """Bytes of a device that XLA has planned for a program, its code among them."""
    total: float = found.argument_size_in_bytes + found.output_size_in_bytes
    total += found.temp_size_in_bytes - found.alias_size_in_bytes
    return total + found.generated_code_size_in_bytes


def refusal(text: str) -> tuple[float, str]:
    """The memory that a program would have taken, where that is why there is none; and
    why there is none, in a line."""
    # "Used 27.99G of 15.75G hbm", or "(111.87G) exceeds available HBM (15.75G)".
    amount = r"\(?([\d.]+)([KMG])\)?"
    used = re.search(rf"{amount} (?:of|exceeds available HBM) {amount}", text)
    if not used:
        return 0.0, text.partition("\n")[0]
    units = {"K": 2**10, "M": 2**20, "G": GIB}
    needs, there = (float(used[i]) * units[used[i + 1]] for i in (1, 3))
    line = f"it takes {needs / GIB:.2f} GiB of a chip, which has {there / GIB:.2f} GiB"
    return needs, line


_COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<type>\(.*?\)|\S+) (?P<kind>all-reduce|all-gather|"
    r"reduce-scatter|all-to-all|collective-permute)(?:-start)?\((?P<rest>.*)",
    re.MULTILINE,
)


def collectives(text: str) -> list[Collective]:
    """Those of a compiled program, from its text (HLO)."""
    number = re.search(r"(?:num_partitions|replica_count)=(\d+)", text)
    chips = int(number[1]) if number else 1
    return [
        Collective(
            found["kind"],
            _group(found["rest"], chips),
            _size(found["type"]),
        )
        for found in _COLLECTIVE.finditer(text)
    ]


def _group(rest: str, chips: int) -> int:
    """Chips of a group, which XLA writes in three ways: {{0,1},{2,3}}, [2,2]<=[4] and,
    with jax 0.12, mesh['branch'=2,'batch'=2] {'batch'}. Without any they are all."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if shaped := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(shaped[1])
    if named := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest):
        sides = dict(side.split("=") for side in named[1].split(","))
        return math.prod(int(sides[axis]) for axis in named[2].split(","))
    return chips


def _size(kind: str) -> int:
    """Bytes of a type as XLA writes it, `f32[2,16]{1,0:T(2,128)}` or several in
    parentheses."""
    return sum(
        SIZES.get(name, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for name, dims in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", kind)
    )


def encode(program: Program) -> str:
    """As JSON."""
    collectives = [each._asdict() for each in program.collectives]
    return json.dumps(program._asdict() | {"collectives": collectives})


def decode(text: str) -> Program:
    """From JSON; ValueError, TypeError or KeyError where it is none of `encode`."""
    fields = json.loads(text)
    found = tuple(Collective(**each) for each in fields.pop("collectives"))
    return Program(**fields, collectives=found)
