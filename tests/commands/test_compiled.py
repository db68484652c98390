"""What is read from a compiled program, on text that XLA wrote for TPUs."""

import jax
import jax.numpy as jnp
import pytest

from hyperdyn_jax.commands import compiled
from hyperdyn_jax.commands.compiled import Collective, Program
from hyperdyn_jax.distributed.slices import GIB, Chip

# libtpu 0.0.42 (jax 0.10.2): {{...}}; 0.0.50 (jax 0.12.0.1): a mesh with axes.
TEXT = """HloModule jit__fun, is_scheduled=true, num_partitions=8

  %psum.1 = f32[2,16]{1,0:T(2,128)S(1)} all-reduce(%fusion), channel_id=1, \
replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%region_2.4
  %psum.2 = f32[100]{0:T(128)} all-reduce(%fusion.1), channel_id=2, \
replica_groups=mesh['branch'=2,'batch'=4] {'batch'}, to_apply=%region_5.7
  ROOT %psum.3 = (f32[8]{0}, bf16[4,2]{1,0}) all-reduce(%a, %b), channel_id=3, \
replica_groups=[4,2]<=[8], to_apply=%region
  %gather = s32[80]{0} all-gather(%c), channel_id=4, dimensions={0}
  %scatter = f32[10]{0} reduce-scatter(%d), channel_id=5, replica_groups={{0,1}}
  %permute = f32[] collective-permute(%e), source_target_pairs={{0,1},{1,0}}
  %add = f32[] add(%psum.9, %f), metadata={op_name="a fusion of all-reduce(1)"}
"""


def test_collectives_are_read_with_their_groups_and_sizes():
    found = compiled.collectives(TEXT)
    assert found == [
        Collective("all-reduce", 4, 128),
        Collective("all-reduce", 4, 400),
        Collective("all-reduce", 2, 8 * 4 + 8 * 2),
        Collective("all-gather", 8, 320),
        Collective("reduce-scatter", 2, 40),
        Collective("collective-permute", 8, 4),
    ]
    # Of n bytes an all-reduce sends 2 (p - 1) / p n, the others half of that in parts.
    assert [each.sent for each in found] == [192, 600, 48, 280, 40, 4]


def test_a_chip_alone_sends_nothing():
    assert Collective("all-reduce", 1, 100).sent == 0
    assert Collective("all-gather", 1, 100).sent == 0


FIRST = """RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for \
HLO temporaries (111.87G) exceeds available HBM (15.75G)."""
SECOND = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in \
memory space hbm. Used 27.99G of 15.75G hbm."""


@pytest.mark.parametrize(("text", "needs"), [(FIRST, 111.87), (SECOND, 27.99)])
def test_a_program_that_does_not_fit_says_so(text, needs):
    memory, problem = compiled.refusal(text)
    assert memory == pytest.approx(needs * GIB)
    assert problem == f"it takes {needs} GiB of a chip, which has 15.75 GiB"


def test_another_refusal_is_told_in_its_first_line():
    assert compiled.refusal("INTERNAL: no such thing\nat x\n") == (
        0.0,
        "INTERNAL: no such thing",
    )


class Refused:
    def compile(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: it is too large\nat x")


def test_a_refused_program_is_told_of_like_the_others():
    program = compiled.compiled("step", Refused())
    assert (program.problem, program.memory) == ("INTERNAL: it is too large", 0)
    assert program.sent == 0


def test_the_roofline_is_amounts_over_rates():
    chip = Chip(memory=1e9, flops=2e12, bandwidth=5e11, links=1e10)
    exchange = (Collective("all-reduce", 4, 1000), Collective("all-reduce", 4, 3000))
    program = Program("step", 1, 1e6, flops=4e9, bytes=1e9, collectives=exchange)
    assert program.times(chip) == pytest.approx(
        {"arithmetic": 2e-3, "memory traffic": 2e-3, "exchange": 6e-7}
    )


def test_a_program_is_counted_as_its_matrices_are():
    n = 64
    shape = jax.ShapeDtypeStruct((n, n), jnp.float32)
    program = compiled.compiled("product", jax.jit(jnp.matmul).lower(shape, shape))
    assert program.flops == pytest.approx(2 * n**3, rel=0.01)
    assert program.bytes >= 3 * 4 * n**2
    assert program.memory >= 3 * 4 * n**2
    assert program.collectives == ()
    assert compiled.decode(compiled.encode(program)) == program


def test_what_is_no_program_is_refused():
    for text in ("", "{}", '{"collectives": [{"x": 1}]}'):
        with pytest.raises((ValueError, TypeError, KeyError)):
            compiled.decode(text)
