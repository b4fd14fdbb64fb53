"""The GPU's decoding kernels on a CPU: keys split among warps, plain caches and pages."""

import pytest
import torch
from attention_cases import CHANGES, assert_matches, assert_near, draw, run

from wordkiln.ops import _attention_cuda, _cuda, reference

# (B, H, Hkv, S, K, D): up to 16 rows of queries and grouped heads; splits cut and exceeded.
SHAPES = [
    (1, 1, 1, 1, 1, 64),
    (2, 8, 2, 1, 300, 64),
    (1, 4, 1, 3, 130, 40),
    (1, 2, 2, 2, 200, 128),
    (1, 4, 2, 1, 90, 256),
]


@pytest.mark.parametrize("change", [change for name, change in CHANGES.items() if "dropout" not in change], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_definition(simt, monkeypatch, shape, change):
    assert_matches(simt, monkeypatch, shape, change, torch.bfloat16)
    assert simt.take_counters()["launches"] == 2  # the keys' and the joining one


@pytest.mark.parametrize("change", ["causal", "window", "lengths", "soft-cap"])
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_matches_in_float32(simt, monkeypatch, shape, change):
    assert_matches(simt, monkeypatch, shape, CHANGES[change], torch.float32)
    assert simt.take_counters()["mma"] == 0


def test_no_order_of_threads_or_copies_changes_a_bit(scheduled, monkeypatch):
    q, k, v = draw((2, 8, 2, 2, 300, 64), torch.float16)
    got = run(scheduled, monkeypatch, q, k, v, {})
    scheduled.set_schedule()
    for one, other in zip(got, run(scheduled, monkeypatch, q, k, v, {}), strict=True):
        assert torch.equal(one, other)


def pages_of(x, page_size, table):
    """Keys [B, Hkv, K, D] in the pages [pages, page_size, Hkv, D] that `table` names; NaN elsewhere."""
    batch, heads, keys, size = x.shape
    pages = torch.full((int(table.max()) + 2, page_size, heads, size), torch.nan, dtype=x.dtype)
    for row in range(batch):
        for key in range(keys):
            pages[table[row, key // page_size], key % page_size] = x[row, :, key]
    return pages


def run_paged(simt, monkeypatch, q, key_pages, value_pages, table, lengths, **options):
    monkeypatch.setattr(_cuda, "_module", simt)
    window, soft_cap = options.get("window", 0), options.get("soft_cap", 0.0)
    scale = q.shape[-1] ** -0.5
    return _attention_cuda.paged(q, key_pages, value_pages, table, lengths, None, True, window, scale, soft_cap)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("options", [{}, {"window": 50, "soft_cap": 2.0}], ids=str)
@pytest.mark.parametrize("queries", [1, 11])
def test_pages(simt, monkeypatch, queries, options, dtype):
    q, k, v = draw((2, 4, 2, queries, 150, 32), dtype)
    table = torch.randperm(2 * 10, generator=torch.Generator().manual_seed(0)).view(2, 10)
    lengths = torch.tensor([150, 37])
    table[1, 3:] = 10**9  # not needed, may be anything
    own = table.where(table < 20, 20)
    key_pages, value_pages = (pages_of(x, 16, own) for x in (k, v))
    out, lse = run_paged(simt, monkeypatch, q, key_pages, value_pages, table, lengths, **options)
    plain = reference.attention(q, k, v, key_lengths=lengths, **options)
    exact = reference.attention(*(x.double() for x in (q, k, v)), key_lengths=lengths, return_lse=True, **options)
    assert_near(out, plain, exact[0])
    torch.testing.assert_close(lse.double(), exact[1], rtol=1e-5, atol=1e-5)


@pytest.mark.abuse
@pytest.mark.parametrize("page", [-1, 10**12])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_page_that_is_none_gives_nan_in_its_row_alone(simt, monkeypatch, page, dtype):
    q, k, v = draw((2, 2, 1, 1, 40, 32), dtype)
    table = torch.arange(2 * 3).view(2, 3)
    key_pages, value_pages = (pages_of(x, 16, table) for x in (k, v))
    lengths = torch.tensor([40, 40])
    want, _ = run_paged(simt, monkeypatch, q, key_pages, value_pages, table, lengths)
    table[1, 2] = page
    out, _ = run_paged(simt, monkeypatch, q, key_pages, value_pages, table, lengths)
    assert torch.equal(out[0], want[0])
    assert out[1].isnan().all()
