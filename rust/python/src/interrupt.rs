//! Long native calls that answer Ctrl-C.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use wordkiln_bpe::Cancel;

use crate::threads;

const POLL: Duration = Duration::from_millis(50);

/// Runs `work` on the thread pool, without the GIL, while this thread answers signals and calls `poll` now and then.
/// The first error of either cancels the work, waits for it to give up, and is returned.
pub fn run<R: Send>(
    py: Python<'_>,
    cancel: &Cancel,
    work: impl FnOnce() -> R + Send,
    mut poll: impl FnMut(Python<'_>) -> PyResult<()>,
) -> PyResult<R> {
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<()>(1);
        let worker = thread::Builder::new().name("wordkiln".into()).spawn_scoped(scope, move || {
            let result = threads::install(work);
            drop(sender);
            result
        })?;
        let mut failure = None;
        // The channel closes when the worker ends, by a panic too.
        let mut receiver = receiver;
        loop {
            let (waited, returned) = py.detach(move || (receiver.recv_timeout(POLL), receiver));
            receiver = returned;
            if waited == Err(RecvTimeoutError::Disconnected) {
                break;
            }
            if failure.is_none()
                && let Err(error) = py.check_signals().and_then(|()| poll(py))
            {
                cancel.cancel();
                failure = Some(error);
            }
        }
        let result = py.detach(|| worker.join());
        match (failure, result) {
            (Some(error), _) => Err(error),
            (None, Ok(result)) => Ok(result),
            (None, Err(_)) => Err(PyRuntimeError::new_err("internal error: a native thread panicked")),
        }
    })
}
