"""Transformer decoders of any architecture on our kernels: weights packed once, the cache in pages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wordkiln._ids import checked_ids, checked_selection, checked_unused
from wordkiln.errors import ArgumentError
from wordkiln.runtime._kernel_calls import DType, check_dtype
from wordkiln.runtime._packing import pack
from wordkiln.runtime._pages import PagedState, PagePool
from wordkiln.runtime.architecture import Architecture, TensorSource

Array = NDArray[np.float32]
Ids = NDArray[np.int64]
# Tokens of prompts that are read at once: bounds the memory of a call, and how long Ctrl-C waits.
_CHUNK = 512


class _Part(NamedTuple):
    """The ids begin..end of one row, read in one call."""

    row: int
    begin: int
    end: int


class _Wanted(NamedTuple):
    """What a call is to give for some of its tokens: logits, or log-probabilities of targets."""

    tokens: Ids  # [count]
    logits: Array | None = None  # [count, V]
    targets: Ids | None = None  # [count]
    log_probabilities: Array | None = None  # [count]


class DecoderModel:
    """A finished Transformer, stepped on our kernels without torch (docs/runtime.md).

    A row's logits do not depend on the rows beside it, nor on whether its tokens came as a prompt or one by one (with
    `dtype="bfloat16"` and "int8" the same). Rows share the pages of the cache that they have in common until one
    writes; the beginning of a prompt that was read before is found again while its pages are free.

    Args:
        architecture: its shape.
        source: its weights; each is read once.
        dtype: of the weights in memory. "float32"; "bfloat16": rounded to nearest even, products and sums in float32;
            "int8": 127 steps to either side of 0 with a scale for each 64 inputs of an output. The cache is float32
            beside float32 weights and else bfloat16. Default "float32".
        unused_ids: those that are no tokens, of an embedding with more rows than there are tokens: their logits are
            -inf, and probabilities those among the others. Default none.

    Attributes:
        architecture: see above.
        dtype: see above.

    Raises:
        ArgumentError: another dtype, or a weight that is not finite for "int8"; an unused id is none of the model's,
            or all are.
    """

    def __init__(
        self,
        architecture: Architecture,
        source: TensorSource,
        dtype: DType = "float32",
        unused_ids: Collection[int] = (),
    ) -> None:
        check_dtype(dtype)
        unused = checked_unused(unused_ids, architecture.vocab_size)
        self.architecture = architecture
        self.dtype = dtype
        self._native = pack(architecture, source, dtype, unused)
        self._pool = PagePool(self._native.page_bytes)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.architecture.vocab_size

    @property
    def max_positions(self) -> int:
        """Most ids that a row can hold."""
        return self.architecture.max_positions

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a document, or None; of several the first."""
        return next(iter(self.architecture.eos_token_ids), None)

    @property
    def nbytes(self) -> int:
        """Memory of the packed weights and the cache's pages."""
        return self._native.nbytes + self._pool.nbytes

    def begin(self, prompts: Sequence[Sequence[int]]) -> tuple[PagedState, Array]:
        """Read prompts of any lengths, at least one id each.

        Returns:
            The state, and float32 logits [B, V] after the last id of each prompt.

        Raises:
            ArgumentError: there is no prompt; one is empty, too long, or holds something that is no id.
        """
        rows = self._checked_rows("prompts", prompts, 1)
        state = PagedState(self._pool, len(rows))
        found = [state.find_beginning(number, row) for number, row in enumerate(rows)]
        logits = np.empty((len(rows), self.vocab_size), np.float32)
        for parts in _calls(rows, found):
            ends = [(i, part) for i, part in enumerate(parts) if part.end == len(rows[part.row])]
            last = np.cumsum([part.end - part.begin for part in parts]) - 1
            out = np.empty((len(ends), self.vocab_size), np.float32)
            self._read(state, rows, parts, _Wanted(last[[i for i, _ in ends]], logits=out))
            logits[[part.row for _, part in ends]] = out
        return state, logits

    def step(self, state: PagedState, ids: NDArray[Any]) -> Array:
        """Append one id to each row of `state`, in place.

        Args:
            state: of B rows.
            ids: integers [B].

        Returns:
            float32 logits [B, V].

        Raises:
            ArgumentError: there is not one id for each row, an id is out of range, a row is full, or the state is
                another model's.
        """
        self._check_own("state", state)
        array = checked_ids("ids", ids, self.vocab_size)
        batch = len(state)
        if len(array) != batch:
            raise ArgumentError(f"ids: {len(array)} ids for {batch} rows")
        if state.lengths.max() >= self.max_positions:
            row = int(state.lengths.argmax())
            raise ArgumentError(f"row {row}: is max_positions={self.max_positions} ids long and cannot go on")
        state.reserve_one()
        logits = np.empty((batch, self.vocab_size), np.float32)
        offsets = np.arange(batch + 1)
        self._run(state.table, array, offsets, state.lengths, _Wanted(offsets[:-1], logits=logits), prompt=False)
        state.append_one(array)
        return logits

    def select(self, state: PagedState, rows: Sequence[int]) -> PagedState:
        """The state of these rows alone, in this order; a row may be named twice. `state` may go on as well.

        Raises:
            ArgumentError: no row is named, or one that does not exist; the state is another model's.
        """
        self._check_own("state", state)
        return state.select(checked_selection(rows, len(state)))

    def join(self, states: Sequence[PagedState]) -> PagedState:
        """One state of the rows of all, in this order; those given may not be used any more.

        Raises:
            ArgumentError: there is no state, or one is another model's.
        """
        if not states:
            raise ArgumentError("states: must name at least one")
        for number, state in enumerate(states):
            self._check_own(f"states[{number}]", state)
        return PagedState.join(list(states))

    def score(self, rows: Sequence[Sequence[int]]) -> list[Array]:
        """Log-probabilities of the ids of texts.

        Args:
            rows: ids, at least one each and at most `max_positions`.

        Returns:
            For each row of n ids float32 [n - 1]: the natural log-probability of ids 1 to n - 1 after those before.

        Raises:
            ArgumentError: a row is empty, too long, or holds something that is no id.
        """
        texts = self._checked_rows("rows", rows, 1)
        scores: list[Array] = []
        for group in _groups(texts):
            found = [np.empty(len(text) - 1, np.float32) for text in group]
            state = PagedState(self._pool, len(group))
            read = [text[:-1] for text in group]
            for parts in _calls(read, [0] * len(group)):
                targets = np.concatenate([group[row][begin + 1 : end + 1] for row, begin, end in parts])
                out = np.empty(len(targets), np.float32)
                wanted = _Wanted(np.arange(len(targets)), targets=targets, log_probabilities=out)
                self._read(state, read, parts, wanted)
                for row, begin, end in parts:
                    found[row][begin:end], out = out[: end - begin], out[end - begin :]
            scores += found
        return scores

    def _read(self, state: PagedState, rows: list[Ids], parts: list[_Part], wanted: _Wanted) -> None:
        """Read parts of `rows`, which stand where the state's rows end, and note them."""
        for part in parts:
            state.reserve(part.row, part.end)
        numbers = np.array([part.row for part in parts])
        ids = np.concatenate([rows[part.row][part.begin : part.end] for part in parts])
        offsets = np.cumsum([0] + [part.end - part.begin for part in parts])
        starts, table = state.lengths[numbers], state.table[numbers]
        self._run(table, ids, offsets, starts, wanted, prompt=True)
        for part in parts:
            state.append(part.row, rows[part.row][part.begin : part.end])

    def _run(self, table: Ids, ids: Ids, offsets: Ids, starts: Ids, wanted: _Wanted, *, prompt: bool) -> None:
        pages = self._pool.addresses(table)
        self._native.run(
            ids.ctypes.data,
            offsets.ctypes.data,
            starts.ctypes.data,
            len(starts),
            pages.ctypes.data,
            pages.shape[1],
            prompt,
            wanted.tokens.ctypes.data,
            len(wanted.tokens),
            *(0 if array is None else array.ctypes.data for array in wanted[1:]),
        )

    def _check_own(self, name: str, state: PagedState) -> None:
        if state.pool is not self._pool:
            raise ArgumentError(f"{name}: is another model's")

    def _checked_rows(self, name: str, rows: Sequence[Sequence[int]], least: int) -> list[Ids]:
        checked = [checked_ids(f"{name}[{number}]", row, self.vocab_size) for number, row in enumerate(rows)]
        if len(checked) < least:
            raise ArgumentError(f"{name}: must hold at least one")
        for number, row in enumerate(checked):
            if len(row) > self.max_positions:
                raise ArgumentError(
                    f"{name}[{number}]: {len(row)} ids: must be at most max_positions={self.max_positions}"
                )
        return checked


def _calls(rows: list[Ids], begins: list[int]) -> Iterator[list[_Part]]:
    """The rest of each row from `begins` on, in order, cut into calls of at most _CHUNK ids."""
    parts: list[_Part] = []
    room = _CHUNK
    for number, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        while begin < len(row):
            end = min(len(row), begin + room)
            parts.append(_Part(number, begin, end))
            room -= end - begin
            begin = end
            if not room:
                yield parts
                parts, room = [], _CHUNK
    if parts:
        yield parts


def _groups(texts: list[Ids]) -> Iterator[list[Ids]]:
    """The texts in order, so many together as one call may read, or one that is longer."""
    group: list[Ids] = []
    for text in texts:
        if group and sum(map(len, group)) + len(text) > _CHUNK:
            yield group
            group = []
        group.append(text)
    if group:
        yield group
