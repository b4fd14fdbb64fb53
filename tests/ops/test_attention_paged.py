"""`ops.attention_paged` against `ops.attention` on the gathered cache."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wordkiln import ops
from wordkiln.errors import ArgumentError

CHANGES = {
    "plain": {},
    "window": {"window": 40},
    "two-sided window": {"window": 40, "causal": False},
    "slopes, soft cap, scale": {"slopes": torch.tensor([0.5, 0.25, 0.1, 0.0]), "soft_cap": 2.0, "scale": 0.3},
}


def draw(batch, heads, kv_heads, queries, size, pages, page_size, dtype=torch.float64, seed=0):
    """Queries, a pool of pages twice as large as needed, and a table of distinct pages in any order."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, queries, size, generator=generator, dtype=torch.float64).to(dtype)
    pool = torch.randn(2, 2 * batch * pages, page_size, kv_heads, size, generator=generator, dtype=torch.float64)
    table = torch.randperm(2 * batch * pages, generator=generator)[: batch * pages].view(batch, pages)
    return q, *pool.to(dtype), table


def gathered(pages, table):
    return pages[table].flatten(1, 2).transpose(1, 2)


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize(("queries", "page_size"), [(1, 1), (1, 16), (3, 23), (5, 16), (40, 64)])
def test_is_attention_over_the_gathered_cache(queries, page_size, change):
    q, k, v, table = draw(2, 4, 2, queries, 24, -(-600 // page_size), page_size)
    lengths = torch.tensor([600, 77])
    out, lse = ops.attention_paged(q, k, v, table.int(), lengths.int(), return_lse=True, **change)
    for attend in (ops.attention, ops.reference.attention):
        want = attend(q, gathered(k, table), gathered(v, table), key_lengths=lengths, return_lse=True, **change)
        torch.testing.assert_close((out, lse), want, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ops.reference.attention_paged(q, k, v, table, lengths, **change), (out, lse))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", [(4, 4), (4, 1)])
def test_narrow_types_are_as_exact_as_plain_torch(assert_as_exact, dtype, heads):
    q, k, v, table = draw(2, *heads, 1, 64, 20, 16, dtype)
    lengths = torch.tensor([320, 33])
    plain = ops.reference.attention_paged(q, k, v, table, lengths)
    exact = ops.reference.attention_paged(*(x.double() for x in (q, k, v)), table, lengths)
    assert_as_exact(ops.attention_paged(q, k, v, table, lengths, return_lse=True), plain, exact)


@pytest.mark.property
@given(
    lengths=st.lists(st.integers(0, 40), max_size=4), page_size=st.integers(1, 9), queries=st.integers(0, 6),
    size=st.integers(1, 20), group=st.integers(1, 3), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_size(lengths, page_size, queries, size, group, seed):
    pages = max([-(-length // page_size) for length in lengths], default=0)
    q, k, v, table = draw(len(lengths), 2 * group, 2, queries, size, pages, page_size, seed=seed)
    lengths = torch.tensor(lengths, dtype=torch.int64)
    want = ops.attention(q, gathered(k, table), gathered(v, table), key_lengths=lengths, return_lse=True)
    got = ops.attention_paged(q, k, v, table, lengths, return_lse=True)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_entries_that_no_key_needs_and_what_lies_behind_the_keys_may_be_anything():
    q, k, v, table = draw(2, 2, 1, 2, 8, 3, 4, torch.float32)
    lengths = torch.tensor([9, 2])
    want = ops.attention_paged(q, k, v, table, lengths)
    for pages in (k, v):
        pages[table[0, 2], 1:] = pages[table[1, 0], 2:] = pages[table[1, 1]] = math.nan
    table[1, 1:] = torch.tensor([-1, 10**6])
    assert torch.equal(ops.attention_paged(q, k, v, table, lengths), want)
    assert torch.equal(ops.reference.attention_paged(q, k, v, table, lengths)[0].isnan(), torch.zeros(q.shape).bool())


def test_rows_may_share_pages_and_layouts_may_be_strided():
    q, k, v, table = draw(2, 4, 2, 2, 16, 3, 4)
    table[1, :2] = table[0, :2]
    lengths = torch.tensor([12, 10])
    want = ops.attention_paged(q, k, v, table, lengths)
    strided_q = q.transpose(1, 2).contiguous().transpose(1, 2)
    by_head = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v)]
    by_size = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in (k, v)]
    for pages in (by_head, by_size):
        assert torch.equal(ops.attention_paged(strided_q, *pages, table.t().contiguous().t(), lengths), want)


def test_bits_do_not_depend_on_threads():
    q, k, v, table = draw(2, 4, 2, 1, 64, 90, 16, torch.float32)
    lengths = torch.tensor([1440, 700])
    threads = torch.get_num_threads()
    try:
        outs = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outs.append(ops.attention_paged(q, k, v, table, lengths))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_opcheck():
    q, k, v, table = draw(2, 2, 1, 3, 4, 3, 4)
    more = (torch.tensor([9, 2]), torch.tensor([0.5, 0.25], dtype=torch.float64), True, 3, 0.5, 2.0)
    torch.library.opcheck(torch.ops.wordkiln.attention_paged.default, (q, k, v, table, *more))
    strided = q.transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(torch.ops.wordkiln.attention_paged.default, (strided, k, v, table, *more))


def test_compiles_without_a_graph_break():
    q, k, v, table = draw(2, 2, 1, 1, 4, 3, 4)
    lengths = torch.tensor([9, 2])

    def step(q, k, v, table, lengths):
        out, lse = ops.attention_paged(q.sin(), k, v, table, lengths, window=5, return_lse=True)
        return out.cos(), lse + 1

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v, table, lengths), step(q, k, v, table, lengths))
    with pytest.raises(ArgumentError, match=r"page_table\[0, 0\]=99: must be 0 to 11"):
        compiled(q, k, v, torch.full_like(table, 99), lengths)


def test_other_dtypes_run_on_the_reference():
    q, k, v, table = draw(2, 2, 1, 1, 4, 3, 4, torch.float16)
    with pytest.warns(UserWarning, match=r"attention_paged has no kernel for dtype torch.float16"):
        out = ops.attention_paged(q, k, v, table, torch.tensor([9, 2]))
    want = ops.attention_paged(q.float(), k.float(), v.float(), table, torch.tensor([9, 2]))
    torch.testing.assert_close(out.float(), want, rtol=1e-2, atol=1e-2)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 4, 8)}, r"q: shape \[2, 4, 8\]"),
        ({"q": torch.zeros(2, 4, 1, 8, dtype=torch.float64)}, "key_pages: dtype torch.float32 must be torch.float64"),
        ({"q": torch.zeros(2, 3, 1, 8)}, "q: 3 heads must be a multiple of the 2 key heads"),
        ({"key_pages": torch.zeros(6, 4, 2, 9)}, r"key_pages: shape \[6, 4, 2, 9\] must be \[any, any, any, 8\]"),
        ({"key_pages": torch.zeros(6, 0, 2, 8), "value_pages": torch.zeros(6, 0, 2, 8)}, "page size of at least 1"),
        ({"value_pages": torch.zeros(5, 4, 2, 8)}, "value_pages: shape"),
        ({"value_pages": torch.zeros(6, 4, 2, 8).bfloat16()}, "value_pages: dtype torch.bfloat16"),
        ({"page_table": torch.zeros(3, 3, dtype=torch.int32)}, r"page_table: shape \[3, 3\] must be \[2, any\]"),
        ({"page_table": torch.zeros(2, 3)}, "page_table: dtype torch.float32 must be an integer one"),
        ({"page_table": [[0, 1, 2]] * 2}, "page_table: must be a torch.Tensor"),
        ({"page_table": torch.tensor([[0, 1, 2], [3, 4, 6]])}, r"page_table\[1, 2\]=6: must be 0 to 5"),
        ({"page_table": torch.tensor([[-1, 1, 2], [3, 4, 5]])}, r"page_table\[0, 0\]=-1: must be 0 to 5"),
        ({"key_pages": torch.zeros(0, 4, 2, 8), "value_pages": torch.zeros(0, 4, 2, 8)}, r"page_table\[0, 0\]=0"),
        ({"key_lengths": torch.tensor([13, 2])}, r"key_lengths\[0\]=13: must be 0 to 12"),
        ({"key_lengths": torch.tensor([12, -1])}, r"key_lengths\[1\]=-1: must be 0 to 12"),
        ({"key_lengths": torch.tensor([12])}, r"key_lengths: shape \[1\] must be \[2\]"),
        ({"key_lengths": torch.tensor([12.0, 2.0])}, "key_lengths: dtype"),
        ({"key_lengths": None}, "key_lengths: must be a torch.Tensor"),
        ({"window": 0}, "window=0"),
        ({"soft_cap": math.nan}, "soft_cap=nan"),
        ({"slopes": torch.zeros(3)}, r"slopes: shape \[3\] must be \[4\]"),
        ({"q": torch.zeros(2, 4, 1, 8, requires_grad=True)}, "q: requires a gradient"),
        ({"key_pages": torch.zeros(6, 4, 2, 8, requires_grad=True)}, "key_pages: requires a gradient"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "q": torch.zeros(2, 4, 1, 8), "key_pages": torch.zeros(6, 4, 2, 8), "value_pages": torch.zeros(6, 4, 2, 8),
        "page_table": torch.arange(6).view(2, 3), "key_lengths": torch.tensor([12, 9]),
    }  # fmt: skip
    with pytest.raises(ArgumentError, match=message):
        ops.attention_paged(**(arguments | change))


@pytest.mark.abuse
def test_large_heads_have_their_lengths_checked():
    q, pages = torch.zeros(2, 2, 1, 257), torch.zeros(4, 2, 1, 257)
    with pytest.raises(ArgumentError, match=r"key_lengths\[0\]=5: must be 0 to 4"):
        ops.attention_paged(q, pages, pages, torch.arange(4).view(2, 2), torch.tensor([5, 1]))


def test_parameters_are_fine_where_no_gradient_is_recorded():
    q, k, v, table = draw(2, 2, 1, 1, 4, 3, 4)
    lengths = torch.tensor([9, 2])
    with torch.no_grad():
        out = ops.attention_paged(q.clone().requires_grad_(), k, v, table, lengths)
    assert torch.equal(out, ops.attention_paged(q, k, v, table, lengths))


@pytest.mark.abuse
def test_the_reference_names_a_page_that_is_none():
    q, k, v, table = draw(1, 1, 1, 1, 4, 2, 4, torch.float16)
    table[0, 1] = 4
    with pytest.raises(ArgumentError, match="page_table: 4 must be 0 to 3"):
        ops.reference.attention_paged(q, k, v, table, torch.tensor([5]))
