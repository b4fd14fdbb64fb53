"""Pages of a cache: blocks of 64 positions that rows share, and that later prompts which begin alike find again."""

from __future__ import annotations

import collections
import threading

import numpy as np
from numpy.typing import NDArray

from wordkiln import _kernels

PAGE: int = _kernels.DECODER_PAGE_KEYS
Ids = NDArray[np.int64]

_ROOT = 0  # the serial of what stands before the first page


class PagePool:
    """Pages by number. A page has as many users as rows whose tables name it; without one it is free.

    A full page may be registered under its ids and what stands before it. A free page keeps what it holds until it is
    taken for something else, the one that was let go first coming first; so `find` needs no memory of its own.

    Args:
        page_bytes: size of a page.
    """

    def __init__(self, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self._memory: list[NDArray[np.uint8]] = []
        self._addresses: Ids = np.zeros(0, np.int64)
        self._users: Ids = np.zeros(0, np.int64)
        self._key_of_page: dict[int, tuple[int, bytes]] = {}
        self._found: dict[tuple[int, bytes], tuple[int, int]] = {}  # (serial before, ids) -> (page, its serial)
        self._last_serial = _ROOT
        self._free: collections.OrderedDict[int, None] = collections.OrderedDict()
        # Filled by destructors, which may run anywhere, so also while this thread holds the lock.
        self._returned: collections.deque[Ids] = collections.deque()
        self._lock = threading.RLock()

    @property
    def nbytes(self) -> int:
        """Memory of all pages, used and free."""
        return len(self._memory) * self._page_bytes

    def addresses(self, table: Ids) -> Ids:
        """Where the pages of a table lie (-1, no page: anywhere)."""
        return self._addresses[table]

    def take(self) -> int:
        """A page for one user; what it holds is of no use.

        Raises:
            MemoryError: there is no memory for one more.
        """
        with self._lock:
            self._settle()
            if self._free:
                page, _ = self._free.popitem(last=False)
                self._forget(page)
            else:
                page = self._grow()
            self._users[page] = 1
            return page

    def share(self, pages: Ids) -> None:
        """One user more for each of `pages` (a page may be named several times; -1 is no page)."""
        with self._lock:
            for page in pages[pages >= 0].tolist():
                if self._users[page] == 0:
                    del self._free[page]
                self._users[page] += 1

    def give_back(self, pages: Ids) -> None:
        """One user less for each of `pages`. May be called by a destructor."""
        self._returned.append(pages)

    def private(self, page: int) -> int:
        """`page` if it has one user, else a copy for that user alone."""
        with self._lock:
            self._settle()
            if self._users[page] == 1:
                return page
            copy = self.take()
            self._memory[copy][:] = self._memory[page]
            self._users[page] -= 1
            return copy

    def shared(self, pages: Ids) -> NDArray[np.bool_]:
        """Which of `pages` have several users."""
        if self._returned:
            with self._lock:
                self._settle()
        return self._users[pages] > 1

    def register(self, before: int, ids: bytes, page: int) -> int:
        """Make a full page known as what follows `before`; the serial to continue from."""
        with self._lock:
            key = (before, ids)
            if key not in self._found:
                self._last_serial += 1
                self._found[key] = (page, self._last_serial)
                self._key_of_page[page] = key
            return self._found[key][1]

    def find(self, before: int, ids: bytes) -> tuple[int, int] | None:
        """The page of these ids behind `before`, one user more, and its serial."""
        with self._lock:
            self._settle()
            entry = self._found.get((before, ids))
            if entry is not None:
                self.share(np.array(entry[:1]))
            return entry

    def _settle(self) -> None:
        while self._returned:
            pages = self._returned.popleft()
            # From the end: of a row's free pages the first, without which the others are not found, goes last.
            for page in pages[pages >= 0].tolist()[::-1]:
                self._users[page] -= 1
                if self._users[page] == 0:
                    self._free[page] = None
                    if page not in self._key_of_page:
                        self._free.move_to_end(page, last=False)

    def _forget(self, page: int) -> None:
        key = self._key_of_page.pop(page, None)
        if key is not None:
            del self._found[key]

    def _grow(self) -> int:
        # One by one: a cache is to take what its rows need, and a page is large beside the call.
        memory = np.empty(self._page_bytes, np.uint8)
        self._memory.append(memory)
        self._addresses = np.append(self._addresses, memory.ctypes.data)
        self._users = np.append(self._users, 0)
        return len(self._memory) - 1


class PagedState:
    """B rows in the middle of their texts: which pages they have, and how far they are. Opaque outside the runtime.

    Attributes:
        lengths: int64 [B], positions that a row has filled.
    """

    def __init__(self, pool: PagePool, batch: int) -> None:
        self.pool = pool
        self.lengths: Ids = np.zeros(batch, np.int64)
        self.table: Ids = np.full((batch, 1), -1, np.int64)
        self._serials: Ids = np.full(batch, _ROOT, np.int64)
        self._ids: Ids = np.zeros((batch, PAGE), np.int64)  # of each row's last page

    def __len__(self) -> int:
        """B."""
        return len(self.lengths)

    def __del__(self) -> None:
        self.pool.give_back(self.table.ravel())

    def find_beginning(self, row: int, ids: Ids) -> int:
        """Take pages that hold the beginning of `ids` already, but not all of it; how many ids they hold."""
        while int(self.lengths[row]) + PAGE < len(ids):
            length = int(self.lengths[row])
            found = self.pool.find(int(self._serials[row]), ids[length : length + PAGE].tobytes())
            if found is None:
                break
            self._place(row, length // PAGE, found[0])
            self._serials[row] = found[1]
            self.lengths[row] += PAGE
        return int(self.lengths[row])

    def reserve(self, row: int, length: int) -> None:
        """Let the row have private room from its end up to `length` positions."""
        end = int(self.lengths[row])
        if end % PAGE:
            self._place(row, end // PAGE, self.pool.private(int(self.table[row, end // PAGE])))
        for number in range(-(-end // PAGE), -(-length // PAGE)):
            if number >= self.table.shape[1] or self.table[row, number] < 0:
                self._place(row, number, self.pool.take())

    def reserve_one(self) -> None:
        """The same for one position more of each row."""
        last = np.minimum(self.lengths // PAGE, self.table.shape[1] - 1)
        shared = self.pool.shared(self.table[np.arange(len(last)), last])
        for row in np.flatnonzero(shared | (self.lengths % PAGE == 0)).tolist():
            self.reserve(row, int(self.lengths[row]) + 1)

    def append(self, row: int, ids: Ids) -> None:
        """Note that the row's next positions are filled, with these ids."""
        while len(ids):
            at = int(self.lengths[row]) % PAGE
            part, ids = ids[: PAGE - at], ids[PAGE - at :]
            self._ids[row, at : at + len(part)] = part
            self.lengths[row] += len(part)
            if at + len(part) == PAGE:
                self._register(row)

    def append_one(self, ids: Ids) -> None:
        """The same for one id of each row."""
        at = self.lengths % PAGE
        self._ids[np.arange(len(at)), at] = ids
        self.lengths += 1
        for row in np.flatnonzero(at == PAGE - 1).tolist():
            self._register(row)

    def select(self, rows: list[int]) -> PagedState:
        """The state of these rows; pages are shared until one of the users writes."""
        state = object.__new__(PagedState)
        state.pool = self.pool
        state.lengths, state.table = self.lengths[rows], self.table[rows]
        state._serials, state._ids = self._serials[rows], self._ids[rows]
        self.pool.share(state.table.ravel())
        return state

    @staticmethod
    def join(states: list[PagedState]) -> PagedState:
        """The rows of all; the states given have none any more."""
        joined = object.__new__(PagedState)
        joined.pool = states[0].pool
        width = max(state.table.shape[1] for state in states)
        tables = [np.pad(s.table, ((0, 0), (0, width - s.table.shape[1])), constant_values=-1) for s in states]
        joined.table = np.concatenate(tables)
        joined.lengths = np.concatenate([state.lengths for state in states])
        joined._serials = np.concatenate([state._serials for state in states])
        joined._ids = np.concatenate([state._ids for state in states])
        for state in states:
            state.table = state.table[:0]
            state.lengths = state.lengths[:0]
        return joined

    def _register(self, row: int) -> None:
        page = int(self.table[row, int(self.lengths[row]) // PAGE - 1])
        self._serials[row] = self.pool.register(int(self._serials[row]), self._ids[row].tobytes(), page)

    def _place(self, row: int, number: int, page: int) -> None:
        if number >= self.table.shape[1]:
            # Doubled: what is copied over a text's length stays linear.
            more = np.full((len(self), max(1, self.table.shape[1])), -1, np.int64)
            self.table = np.concatenate([self.table, more], axis=1)
        self.table[row, number] = page
