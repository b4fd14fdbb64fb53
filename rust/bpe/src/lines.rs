//! The memory of the cache.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

const HUGE_PAGE: usize = 1 << 21;

/// Lines, made of plain numbers, in pages of 2 MiB where the system has them: their places are random, and so few pages
/// need no looking up.
#[derive(Debug)]
pub struct Lines<L> {
    memory: MmapMut,
    lines: PhantomData<L>,
}

impl<L> Lines<L> {
    /// Without memory for these there is none for any text.
    pub fn first(size: usize) -> Self {
        Self::new(size).unwrap_or_else(|| std::alloc::handle_alloc_error(std::alloc::Layout::new::<L>()))
    }

    /// None if there is no memory for them.
    pub fn new(size: usize) -> Option<Self> {
        let memory = MmapMut::map_anon(size * size_of::<L>()).ok()?;
        #[cfg(target_os = "linux")]
        if size * size_of::<L>() >= HUGE_PAGE {
            // A wish: smaller pages do as well.
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        Some(Self { memory, lines: PhantomData })
    }
}

impl<L> Deref for Lines<L> {
    type Target = [L];

    #[inline(always)]
    fn deref(&self) -> &[L] {
        // SAFETY: the map starts at a page and holds whole lines, and any bytes, its zeros too, are plain numbers.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.memory.len() / size_of::<L>()) }
    }
}

impl<L> DerefMut for Lines<L> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [L] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.memory.len() / size_of::<L>()) }
    }
}
