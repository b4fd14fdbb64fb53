//! The rayon pool that every parallel call of this module runs in.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// A pool and the process that built it: a forked child inherits the value but none of the threads.
struct Slot {
    process: u32,
    threads: usize,
    pool: Option<Arc<ThreadPool>>,
}

static SLOT: Mutex<Slot> = Mutex::new(Slot { process: 0, threads: 0, pool: None });

/// Runs `work` inside the pool; rayon calls made by it use the pool's threads.
pub fn install<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    match current_pool() {
        Some(pool) => pool.install(work),
        // No thread could be started: rayon's contract lets the caller do all the work itself.
        None => work(),
    }
}

/// The number of threads that [`install`] offers.
pub fn count() -> usize {
    let slot = SLOT.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.threads > 0 { slot.threads } else { default_threads() }
}

/// The pool itself, for callers that work beside its threads.
pub fn current_pool() -> Option<Arc<ThreadPool>> {
    let mut slot = SLOT.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if slot.process != process || slot.pool.is_none() {
        if slot.process != process {
            // Dropping the parent's pool would wait for threads that do not exist here.
            std::mem::forget(slot.pool.take());
        }
        let threads = if slot.threads > 0 { slot.threads } else { default_threads() };
        slot.pool = ThreadPoolBuilder::new().num_threads(threads).build().ok().map(Arc::new);
        slot.process = process;
    }
    slot.pool.clone()
}

/// As OpenMP and rayon users expect: their variables first, then what the machine (or its cgroup) offers.
fn default_threads() -> usize {
    ["WORDKILN_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"]
        .iter()
        .filter_map(|name| std::env::var(name).ok()?.trim().parse::<usize>().ok())
        .find(|&threads| threads > 0)
        .or_else(|| std::thread::available_parallelism().ok().map(NonZeroUsize::get))
        .unwrap_or(1)
}

#[pyfunction]
fn set_num_threads(threads: NonZeroUsize) {
    let mut slot = SLOT.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.process != std::process::id() {
        std::mem::forget(slot.pool.take());
    }
    slot.threads = threads.get();
    slot.pool = None;
}

#[pyfunction]
fn get_num_threads() -> usize {
    count()
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(set_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(get_num_threads, m)?)
}
