"""The PTX interpreter itself: snippets with known answers, and what it must refuse."""

import struct

import numpy as np
import pytest
from ladder.ptx import KernelError, Machine, UnknownPtxError, parse

HEAD = """
.version 9.2
.target sm_80
.address_size 64
.extern .shared .align 128 .b8 memory[];
.visible .entry kernel(.param .u64 kernel_param_0)
{
.reg .pred %p<9>;
.reg .b16 %rs<9>;
.reg .b32 %r<40>;
.reg .f32 %f<9>;
.reg .b64 %rd<9>;
ld.param.u64 %rd1, [kernel_param_0];
cvta.to.global.u64 %rd2, %rd1;
mov.u32 %r1, %tid.x;
mov.u32 %r2, %ctaid.x;
mov.u32 %r3, %ntid.x;
mad.lo.s32 %r4, %r2, %r3, %r1;
mul.wide.s32 %rd3, %r4, 4;
add.s64 %rd4, %rd2, %rd3;
mov.u32 %r5, memory;
shl.b32 %r6, %r1, 2;
add.s32 %r7, %r5, %r6;
"""
TAIL = "\nst.global.u32 [%rd4], %r9;\nret;\n}\n"


def execute(body, threads=64, blocks=2, out=None, shared=1024, cooperative=False, **schedule):
    """What the threads leave in r9."""
    out = np.zeros(blocks * threads, np.uint32) if out is None else out
    machine = Machine([(out.ctypes.data, out.nbytes)], **schedule)
    kernel = parse(HEAD + body + TAIL, "kernel")
    machine.launch(kernel, blocks, threads, shared, cooperative, struct.pack("<Q", out.ctypes.data))
    return out


WHOLE = np.arange(128)
LANE = WHOLE % 32

SNIPPETS = {
    "arithmetic": ("mad.lo.s32 %r9, %r4, 3, -7;", (WHOLE * 3 - 7).astype(np.uint32)),
    "high half": ("mul.hi.u32 %r9, %r4, 0x80000000;", WHOLE // 2),
    "signed division": ("sub.s32 %r8, %r4, 64; div.s32 %r9, %r8, 7;", np.trunc((WHOLE - 64) / 7).astype(np.int32)),
    "a field put in": ("bfi.b32 %r9, %r4, 0xf000, 4, 3;", 0xF000 | (WHOLE % 8) << 4),
    "a field taken out": ("bfe.u32 %r9, %r4, 1, 2;", WHOLE // 2 % 4),
    "shift out": ("shl.b32 %r9, %r4, 40;", WHOLE * 0),
    "predicate": ("setp.lt.s32 %p1, %r4, 50; selp.b32 %r9, 1, 2, %p1;", np.where(WHOLE < 50, 1, 2)),
    "guard": ("mov.u32 %r9, 5; setp.ne.s32 %p1, %r1, 0; @!%p1 mov.u32 %r9, 6;", np.where(WHOLE % 64, 5, 6)),
    "a register of an inner scope": ("mov.u32 %r9, 1; { .reg .b32 %r9; mov.u32 %r9, 2; }", WHOLE * 0 + 1),
    "bfloat16 pair": (
        "cvt.rn.f32.s32 %f1, %r4; cvt.rn.bf16x2.f32 %r9, 0f3F800000, %f1;",
        0x3F800000 | (WHOLE.astype(np.float32).view(np.uint32) >> 16),
    ),
    "a clamped number": (
        "cvt.rn.f32.s32 %f1, %r4; mul.f32 %f1, %f1, 0f3D000000; sub.f32 %f1, %f1, 0f3F800000;"
        "cvt.sat.f32.f32 %f2, %f1; mov.b32 %r9, %f2;",
        np.clip(WHOLE / 32 - 1, 0, 1).astype(np.float32).view(np.uint32),
    ),
    "a sum rounded down": (
        "cvt.rn.f32.s32 %f1, %r4; fma.rm.f32 %f2, %f1, 0f3E800000, 0f4B400001; mov.b32 %r9, %f2;",
        0x4B400001 + WHOLE // 4,
    ),
    "a sign": (
        "sub.s32 %r8, %r4, 64; cvt.rn.f32.s32 %f1, %r8; copysign.f32 %f2, %f1, 0f40000000; mov.b32 %r9, %f2;",
        np.where(WHOLE < 64, -2, 2).astype(np.float32).view(np.uint32),
    ),
    "halves of a register": ("mov.b32 {%rs1, %rs2}, 0x00020001; mov.b32 %r9, {%rs2, %rs1};", WHOLE * 0 + 0x00010002),
    "loop of different lengths": (
        "mov.u32 %r9, 0; L: add.s32 %r9, %r9, 2; setp.lt.s32 %p1, %r9, %r4; @%p1 bra L;",
        np.maximum(2, (WHOLE + 1) // 2 * 2),
    ),
    "lanes part and meet in a shuffle": (
        "setp.lt.s32 %p1, %r1, 7; @%p1 bra L; mov.u32 %r8, %r4; bra M; L: add.s32 %r8, %r4, 1000; M:"
        "shfl.sync.bfly.b32 %r9|%p2, %r8, 1, 31, -1;",
        np.where(WHOLE % 64 < 7, WHOLE + 1000, WHOLE)[WHOLE ^ 1],
    ),
    "shared memory behind a barrier": (
        "st.shared.u32 [%r7], %r4; bar.sync 0; xor.b32 %r8, %r6, 252; add.s32 %r8, %r5, %r8; ld.shared.u32 %r9, [%r8];",
        WHOLE ^ 63,
    ),
}


@pytest.mark.golden
@pytest.mark.parametrize("schedule", [{}, {"warp_ahead": True}], ids=str)
@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets(name, schedule):
    body, want = SNIPPETS[name]
    np.testing.assert_array_equal(execute(body, **schedule), np.asarray(want).astype(np.uint32))


def test_a_read_before_the_barrier_gets_what_was_there():
    body = SNIPPETS["shared memory behind a barrier"][0].replace("bar.sync 0;", "")
    assert (execute(body, warp_ahead=True) == 0xFFFFFFFF).any()


COPY = (
    "shl.b32 %r8, %r1, 4; add.s32 %r8, %r5, %r8; and.b64 %rd5, %rd4, -16;"
    "cp.async.cg.shared.global [%r8], [%rd5], 16, %r10;"
)
READ = "ld.shared.u32 %r9, [%r8];"


@pytest.mark.parametrize(("early", "size", "want"), [(False, 16, 7), (True, 16, 7), (False, 0, 0)])
def test_a_copy_lands_when_waited_for(early, size, want):
    out = np.full(128 + 4, 7, np.uint32)[:128]
    body = f"mov.u32 %r10, {size};{COPY} cp.async.commit_group; cp.async.wait_group 0; {READ}"
    assert (execute(body, out=_aligned(out), early=early) == want).all()


def test_a_copy_that_is_not_waited_for_has_not_landed():
    body = f"mov.u32 %r10, 16;{COPY} cp.async.commit_group; cp.async.wait_group 1; {READ} cp.async.wait_group 0;"
    assert (execute(body, out=_aligned(np.zeros(128, np.uint32))) == 0xFFFFFFFF).all()


def _aligned(x):
    memory = np.empty(x.nbytes + 16, np.uint8)
    start = -memory.ctypes.data % 16
    aligned = memory[start : start + x.nbytes].view(x.dtype)
    aligned[:] = x
    return aligned


def test_threads_that_wait_for_another_block_let_it_run():
    out = np.zeros(128, np.uint32)
    body = """
    add.s64 %rd5, %rd2, 508; setp.ne.s32 %p1, %r1, 0; @%p1 bra DONE;
    red.release.gpu.global.add.u32 [%rd5], 1;
    SPIN: ld.acquire.gpu.global.u32 %r8, [%rd5]; setp.lt.u32 %p2, %r8, 2; @%p2 bra SPIN;
    DONE: bar.sync 0; mov.u32 %r9, 1;"""
    assert (execute(body, out=out, cooperative=True) == 1).all()
    with pytest.raises(KernelError, match=r"(?s)deadlock.*in a loop"):
        execute(body.replace("%r8, 2;", "%r8, 3;"), cooperative=True)


FAULTS = {
    "outside every buffer": ("ld.global.u32 %r9, [%rd4+512];", "outside every buffer"),
    "misaligned": ("ld.global.u32 %r9, [%rd4+2];", "multiple of 4"),
    "shared memory too short": ("ld.shared.u32 %r9, [%r7+1024];", "shared memory outside"),
    "barrier for some": ("setp.lt.s32 %p1, %r1, 32; @%p1 bra L; bar.sync 0; L:", "deadlock"),
    "predicated barrier": ("setp.lt.s32 %p1, %r1, 16; @%p1 bar.sync 0;", "some threads only"),
    "shuffle of half a warp": (
        "setp.lt.s32 %p1, %r1, 16; @%p1 bra L; shfl.sync.bfly.b32 %r9, %r4, 1, 31, -1; L:",
        "deadlock",
    ),
    "copy not waited for": (f"mov.u32 %r10, 0;{COPY}", "never waited"),
}


@pytest.mark.abuse
@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_a_kernel_are_told(name):
    body, why = FAULTS[name]
    with pytest.raises(KernelError, match=why):
        execute(body)


@pytest.mark.abuse
@pytest.mark.parametrize(
    "body", ["brev.b32 %r9, %r4;", "add.sat.s32 %r9, %r4, 1;", "ld.u32 %r9, [%rd4];", "mov.u32 %r9, %clock;"]
)
def test_what_it_does_not_know_is_refused(body):
    with pytest.raises(UnknownPtxError, match=body.split(";")[0].replace("[", r"\[")):
        execute(body)
