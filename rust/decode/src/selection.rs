//! Where a running sum of weights reaches a target, without sorting: quickselect by mass.

use std::cmp::Ordering;

use crate::candidates::Candidate;

/// Below this many candidates a plain sort beats further partitioning.
const SORT_LIMIT: usize = 16;

/// The candidate, in the given order, at which the running sum of weights reaches `target`; the last if none does.
pub fn last_within(
    candidates: &mut [Candidate],
    mut target: f64,
    order: impl Fn(&Candidate, &Candidate) -> Ordering,
) -> Option<Candidate> {
    let mut rest = candidates;
    while rest.len() > SORT_LIMIT {
        let middle = rest.len() / 2;
        rest.select_nth_unstable_by(middle, &order);
        let (first, second) = rest.split_at_mut(middle);
        let mass: f64 = first.iter().map(|candidate| f64::from(candidate.weight)).sum();
        if mass >= target {
            rest = first;
        } else {
            target -= mass;
            rest = second;
        }
    }
    rest.sort_unstable_by(&order);
    let mut sum = 0.0;
    let reaches = rest.iter().find(|candidate| {
        sum += f64::from(candidate.weight);
        sum >= target
    });
    reaches.or(rest.last()).copied()
}
