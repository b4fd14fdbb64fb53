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

/// Runs `work`, which nothing can stop, without the GIL on a thread of its own, while this one answers signals: after an
/// error of theirs `work` goes on unseen.
pub fn abandon<R: Send + 'static>(py: Python<'_>, work: impl FnOnce() -> R + Send + 'static) -> PyResult<R> {
    let (sender, mut receiver) = sync_channel(1);
    // Nobody waits for the result after a signal: then there is nobody to send it to.
    thread::Builder::new().name("wordkiln".into()).spawn(move || sender.send(work()).unwrap_or_default())?;
    loop {
        let (waited, returned) = py.detach(move || (receiver.recv_timeout(POLL), receiver));
        receiver = returned;
        match waited {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("internal error: a native thread panicked"));
            }
        }
    }
}
