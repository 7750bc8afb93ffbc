"""Tests of what is read from the text of a compiled program, on short texts in XLA's own form."""

from __future__ import annotations

from etp_jax.bench.hlo import Copy, array_bytes, moved_bytes, summary

MIB = 2**20
TEXT = """\
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%x, %y)
}

%moved (p: s16[1024,1024]) -> s16[1024,1024] {
  %p = s16[1024,1024]{1,0:T(8,128)} parameter(0)
  %bitcast.1 = s16[1024,1024]{1,0:T(8,128)} bitcast(%p)
  ROOT %copy.2 = s16[1024,1024]{0,1:T(8,128)} copy(%bitcast.1)
}

%computed (p: s16[1024,1024]) -> s16[1024,1024] {
  %p = s16[1024,1024]{1,0:T(8,128)} parameter(0)
  %copy.3 = s16[1024,1024]{0,1:T(8,128)} copy(%p)
  ROOT %negate.1 = s16[1024,1024]{0,1:T(8,128)} negate(%copy.3)
}

%gathered (p: bf16[8,128]) -> bf16[64,128] {
  %p = bf16[8,128]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[64,128]{1,0} all-gather(%p), dimensions={0}
}

%body (carry: (s32[], f32[256,8])) -> (s32[], f32[256,8]) {
  %carry = (s32[], f32[256,8]{1,0}) parameter(0)
  %permute = (f32[256,8]{1,0}, f32[256,8]{1,0}, u32[], u32[]) collective-permute-start(%carry), channel_id=3
  %permute-done = f32[256,8]{1,0} collective-permute-done(%permute)
  %fusion.9 = f32[256,8]{1,0} fusion(%permute-done), kind=kLoop, calls=%add, backend_config={"estimated_cycles":"7"}
  ROOT %tuple = (s32[], f32[256,8]{1,0}) tuple(%carry, %fusion.9)
}

%condition (carry: (s32[], f32[256,8])) -> pred[] {
  %carry.2 = (s32[], f32[256,8]{1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main.1 (table: s16[1024,1024]) -> f32[256,8] {
  %table = s16[1024,1024]{1,0:T(8,128)} parameter(0)
  %fusion.1 = s16[1024,1024]{0,1:T(8,128)} fusion(%table), calls=%moved, backend_config={"estimated_cycles":"100"}
  %fusion.2 = s16[1024,1024]{0,1:T(8,128)} fusion(%table), kind=kLoop, calls=%computed
  %slice.1 = s16[512,1024]{0,1:T(8,128)} slice(%fusion.2), slice={[0:512], [0:1024]}
  %copy-start.1 = (s16[1024,1024]{1,0}, s16[1024,1024]{0,1}, u32[]) copy-start(%fusion.2)
  %copy-start.2 = (s16[1024,1024]{0,1}, s16[1024,1024]{0,1:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%fusion.2)
  %all-reduce.1 = (f32[64]{0}, f32[64]{0}) all-reduce(%slice.1, %slice.1), to_apply=%add
  %async-start.1 = ((bf16[8,128]{1,0}), bf16[64,128]{1,0}, s32[]) async-start(%slice.1), calls=%gathered
  %while.1 = (s32[], f32[256,8]{1,0}) while(%t), body=%body, backend_config={"known_trip_count":{"n":"512"}}
  ROOT %out = f32[256,8]{1,0} get-tuple-element(%while.1), index=1
}
"""


def test_a_program() -> None:
    """A prefetch to on-chip memory, `S(1)`, is no copy."""
    found = summary(TEXT, MIB)
    assert found.cycles == 100 + 512 * 7
    assert found.loops == {512: 1}
    assert found.collectives == {
        "all-reduce": {"number": 1, "bytes": 512},
        "all-gather": {"number": 1, "bytes": 64 * 128 * 2},
        "collective-permute": {"number": 512, "bytes": 512 * 256 * 8 * 4},
    }
    assert found.copies == [
        Copy("s16[1024,1024]", 2 * MIB, 1),
        Copy("s16[1024,1024]", 2 * MIB, 1),
        Copy("s16[512,1024]", MIB, 1),
    ]
    of_step = summary(TEXT, MIB, steps=100)
    assert of_step.cycles == 7 + 1 and of_step.collectives["collective-permute"]["number"] == 1
    assert len(summary(TEXT, 2 * MIB).copies) == 2 and not summary(TEXT, 3 * MIB).copies


MOVES = """\
HloModule jit_step

%selects (p: f32[1000,8], q: s32[4,1]) -> f32[4,8] {
  %p = f32[1000,8]{1,0} parameter(0)
  %q = s32[4,1]{1,0} parameter(1)
  ROOT %gather.1 = f32[4,8]{1,0} gather(%p, %q), offset_dims={1}
}

%body (carry: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %carry = (s32[], f32[4,8]{1,0}) parameter(0)
  %part = f32[4,8]{1,0} get-tuple-element(%carry), index=1
  %add.2 = f32[4,8]{1,0} add(%part, %part)
  ROOT %tuple.2 = (s32[], f32[4,8]{1,0}) tuple(%add.2)
}

ENTRY %main (table: f32[1000,8], rows: s32[4,1]) -> f32[2,8] {
  %table = f32[1000,8]{1,0} parameter(0)
  %rows = s32[4,1]{1,0} parameter(1)
  %fusion.3 = f32[4,8]{1,0} fusion(%table, %rows), kind=kLoop, calls=%selects
  %slice.3 = f32[2,8]{1,0} slice(%fusion.3), slice={[0:2], [0:8]}
  %while.3 = (s32[], f32[4,8]{1,0}) while(%t), body=%body, backend_config={"known_trip_count":{"n":"9"}}
  ROOT %negate.3 = f32[2,8]{1,0} negate(%slice.3)
}
"""


def test_bytes_that_a_program_moves() -> None:
    """A gather reads what it returns, and the row numbers; the body of a loop counts once."""
    gather, part, body, negation = 2 * 128 + 16, 2 * 64, 3 * 128, 2 * 64
    assert moved_bytes(MOVES) == gather + part + body + negation
    once = summary(MOVES, MIB)
    assert once.step_share == 1
    share = summary(MOVES, MIB, steps=9).step_share
    assert share == (body + (gather + part + negation) / 9) / moved_bytes(MOVES)


def test_sizes_of_arrays() -> None:
    assert array_bytes("bf16[3,5]{1,0:T(8,128)(2,1)}") == 30
    assert array_bytes("(s32[], (f32[2]{0}, pred[7]{0}))") == 4 + 8 + 7
    assert array_bytes("token[]") == 0
