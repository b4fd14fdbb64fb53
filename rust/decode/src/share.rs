//! Rows over threads: the calling one works too, so that nothing waits for another to wake up.

use std::sync::{Mutex, PoisonError};

use rayon::ThreadPool;

/// Calls `work` for each item, on the calling thread and, where there is a pool, on a helper for each further context.
///
/// The calling thread starts from the front and its helpers from the back: from one step to the next each meets much the
/// same rows, and none waits for another.
pub fn share<C, I>(items: I, contexts: &mut [C], pool: Option<&ThreadPool>, work: impl Fn(&mut C, I::Item) + Sync)
where
    C: Send,
    I: DoubleEndedIterator + Send,
{
    let queue = Mutex::new(items);
    let run = |context: &mut C, helps: bool| {
        loop {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            let next = if helps { queue.next_back() } else { queue.next() };
            drop(queue);
            let Some(item) = next else { return };
            work(context, item);
        }
    };
    match (pool, contexts.split_first_mut()) {
        (Some(pool), Some((own, others))) => pool.in_place_scope(|scope| {
            let run = &run;
            others.iter_mut().for_each(|context| scope.spawn(move |_| run(context, true)));
            run(own, false);
        }),
        (None, Some((own, _))) => run(own, false),
        (_, None) => {}
    }
}
