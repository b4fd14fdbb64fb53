"""The ladder beyond the executor: what its tools read out of machine code, and that planted bugs still apply."""

import pytest
from ladder import bound, conflicts, disassembly, instructions, mutants, tables
from ladder.resources import short

# A loop of 2 products, one load for them, a mask that a branch jumps over, and a copy.
SASS = """
        Function : kernel
    .headerflags    @"EF_CUDA_SM80"
        /*0000*/                   S2R R3, SR_CTAID.X ;                    /* 0x0000000000037919 */
                                                                           /* 0x000e620000002500 */
        /*0010*/                   LDSM.16.M88.4 R4, [R3] ;                /* 0x00 */
        /*0020*/                   LDGSTS.E.BYPASS.128 [R5], [R6.64] ;     /* 0x00 */
        /*0030*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;    /* 0x00 */
        /*0040*/              @!P1 BRA 0x70 ;                              /* 0x00 */
        /*0050*/                   FSEL R8, R8, -INF, P2 ;                 /* 0x00 */
        /*0060*/                   STL [R1], R8 ;                          /* 0x00 */
        /*0070*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;    /* 0x00 */
        /*0080*/               @P0 BRA 0x10 ;                              /* 0x00 */
        /*0090*/                   EXIT ;                                  /* 0x00 */
"""


def loop_of(text):
    return disassembly.main_loop(dict(disassembly.parse(text))["kernel"])


def test_the_main_loop_is_what_most_rounds_run():
    loop = loop_of(SASS)
    assert [i.name.split(".")[0] for i in loop.instructions] == ["LDSM", "LDGSTS", "HMMA", "BRA", "HMMA", "BRA"]
    assert loop.tensor_share == pytest.approx(2 / 6)
    assert loop.products_per_load == 2
    assert list(instructions.faults("kernel", loop)) == []


def test_an_inner_loop_counts_as_often_as_it_runs():
    inner = """
        /*0030*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;    /* 0x00 */
        /*0034*/                   IADD3 R9, R9.reuse, 0x40, RZ ;          /* 0x00 */
        /*0038*/                   ISETP.GE.U32.AND P2, PT, R9, 0x80, PT ; /* 0x00 */
        /*003c*/              @!P2 BRA 0x30 ;                              /* 0x00 */
"""
    line = next(line for line in SASS.splitlines(keepends=True) if "/*0030*/" in line)
    loop = loop_of(SASS.replace(line, inner))
    assert loop.count("tensor") == 3
    assert len(loop.instructions) == 6 - 1 + 2 * 4
    with pytest.raises(ValueError, match="the loop at 0x30"):
        loop_of(SASS.replace(line, inner.replace("0x80", "R7")))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("BYPASS.128", "64", "copies of less than 16 bytes"),
        ("@!P1 BRA 0x70 ; ", "NOP ;           ", "local memory"),
    ],
)
def test_what_a_main_loop_may_not_do_is_told(old, new, fault):
    assert any(fault in text for text in instructions.faults("kernel", loop_of(SASS.replace(old, new))))


def test_the_bound_of_a_loop_worked_out_by_hand():
    # A100: an HMMA keeps a scheduler's tensor core busy for 2048 / 256 = 8 cycles; LDSM.4 and LDGSTS.128 move 512 bytes
    # each, which a quarter of 128 bytes a cycle takes 16 cycles for.
    loop = loop_of(SASS)
    assert bound.cycles(loop, bound.A100)["tensor"] == 16
    assert bound.cycles(loop, bound.A100)["shared"] == 32
    assert bound.bound(loop, bound.A100) == (0.5, "shared")


def test_conflicts_of_banks_are_told():
    sites = [
        {"space": "shared", "count": 9, "conflict_ways": 1},
        {"space": "shared", "count": 2, "conflict_ways": 8},
        {"space": "global", "count": 5, "conflict_ways": 1},
    ]
    name = "_ZN8wordkiln4cuda24attention_forward_kernelINS_6device8Bfloat16ELi32ELb1EEEvNS0_13ForwardParamsE"
    kernel = {"name": name, "access": {"by_site": sites, "unanalyzed_count": 3}}
    found = dict(conflicts.parse({"units": [{"kernels": [kernel]}]}))
    assert found[name] == conflicts.Accesses(clean=9, conflicting=2, ways=8, unknown=3)
    told = "attention_forward<Bfloat16, 32, true>: 2 accesses to shared memory with conflicts, up to 8 ways"
    assert conflicts.faults(found) == [told]


def test_a_changed_table_is_told_line_by_line():
    assert tables.differences("a\t1\nb\t2\n", "a\t1\nb\t3\n") == ["- b\t2", "+ b\t3"]


def test_short_names():
    name = "_ZN8wordkiln4cuda24attention_forward_kernelINS_6device8Bfloat16ELi32ELb1EEEvNS0_13ForwardParamsE"
    assert short(name) == "attention_forward<Bfloat16, 32, true>"


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.name)
def test_planted_bugs_still_apply(mutant):
    text = (mutants.ROOT / "csrc" / "cuda" / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new


@pytest.mark.abuse
def test_a_planted_bug_that_no_longer_applies_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(mutants, "WORK", tmp_path)
    with pytest.raises(LookupError, match="0 times 'no such text'"):
        mutants.mutated(mutants.Mutant("gone", "forward", "attention/forward.h", "no such text", ""))


def test_rows_of_planted_bugs_that_did_not_run_stay_in_the_table(monkeypatch, tmp_path):
    monkeypatch.setattr(mutants, "TABLE", tmp_path / "table.tsv")
    first, second = (m.name for m in mutants.MUTANTS[:2])
    mutants.write({second: dict.fromkeys(mutants.TARGETS, "-")})
    mutants.write({first: dict.fromkeys(mutants.TARGETS, "race between file:1 and file:2")})
    lines = (tmp_path / "table.tsv").read_text().splitlines()
    assert lines[1:] == [f"{first}" + "\trace" * 4, f"{second}" + "\t-" * 4]


def test_no_rung_behind_the_first_that_notices(monkeypatch, tmp_path):
    said = iter(["-", "race"])
    monkeypatch.setattr(mutants, "mutated", lambda mutant: tmp_path)
    monkeypatch.setattr(mutants, "rebuilt", lambda copy, target, family: tmp_path / target)
    monkeypatch.setattr(mutants, "verdict", lambda *_: next(said))
    found = mutants.verdicts(mutants.MUTANTS[0], first=True)
    assert found == {"executor": "-", "races": "race", "sanitizers": "not run", "ptx": "not run"}


@pytest.mark.abuse
def test_a_trial_that_fails_by_itself_has_not_caught_a_bug(tmp_path):
    with pytest.raises(RuntimeError, match=r"ladder\.trial loss"):
        mutants.verdict("loss", tmp_path / "no_module.so", [], False)
