//! What a row has been given and has written, kept so that each step's penalties need one look at it.

/// A token of the prompt or of the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// The token.
    pub id: u32,
    /// How often it has been written; 0: it comes from the prompt alone.
    pub written: u32,
}

/// Prompt and text of one row.
#[derive(Clone, Debug, Default)]
pub struct History {
    ids: Vec<u32>,
    seen: Vec<Seen>,
    /// `repeats[d - 1]`: how many last ids equal those `d` places before them.
    repeats: Vec<u32>,
}

impl History {
    /// Prompt and text.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Every token of `ids` once, by id.
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Adds ids of the prompt: they were not written.
    pub fn add_prompt(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.seen.extend(ids.iter().map(|&id| Seen { id, written: 0 }));
        self.seen.sort_by_key(|seen| seen.id);
        self.seen.dedup_by(|later, first| {
            let same = later.id == first.id;
            if same {
                first.written += later.written;
            }
            same
        });
        self.repeats = lengths_of_repeats(&self.ids);
    }

    /// Adds the id that was written.
    pub fn push(&mut self, id: u32) {
        match self.seen.binary_search_by_key(&id, |seen| seen.id) {
            Ok(place) => self.seen[place].written += 1,
            Err(place) => self.seen.insert(place, Seen { id, written: 1 }),
        }
        if !self.ids.is_empty() {
            self.repeats.push(0);
        }
        for (length, &earlier) in self.repeats.iter_mut().zip(self.ids.iter().rev()) {
            *length = if earlier == id { *length + 1 } else { 0 };
        }
        self.ids.push(id);
    }

    /// Each id that came after what the text ends with now, and how many ids before it agree: from the latest on.
    pub fn continuations(&self) -> impl Iterator<Item = (u32, usize)> {
        self.ids.iter().rev().zip(&self.repeats).map(|(&id, &length)| (id, length as usize))
    }

    /// Whether the text ends with `ids`.
    pub fn ends_with(&self, ids: &[u32]) -> bool {
        self.ids.ends_with(ids)
    }
}

/// For each distance d from 1 on, how many last ids equal those d places before them: the Z array of the ids read
/// backwards (Gusfield 1997, "Algorithms on strings, trees and sequences", section 1.4), in linear time.
fn lengths_of_repeats(ids: &[u32]) -> Vec<u32> {
    let backwards = |place: usize| ids[ids.len() - 1 - place];
    let mut lengths = vec![0_u32; ids.len()];
    let (mut start, mut end) = (0, 0);
    for place in 1..ids.len() {
        let mut length = if place < end { (lengths[place - start] as usize).min(end - place) } else { 0 };
        while place + length < ids.len() && backwards(length) == backwards(place + length) {
            length += 1;
        }
        if place + length > end {
            (start, end) = (place, place + length);
        }
        lengths[place] = length as u32;
    }
    lengths.drain(..1.min(ids.len()));
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(ids: &[u32]) -> Vec<u32> {
        let last = ids.len();
        (1..last)
            .map(|distance| {
                let equal = |back: &usize| ids[last - 1 - back] == ids[last - 1 - back - distance];
                (0..last - distance).take_while(equal).count() as u32
            })
            .collect()
    }

    #[test]
    fn repeats_are_those_of_the_definition_however_the_ids_come() {
        for seed in 0..200_u64 {
            let random = |step: u64| (crate::rng::uniforms(seed, step)[0] * (2.0 + (seed % 3) as f64)) as u32;
            let ids: Vec<u32> = (0..seed % 40).map(random).collect();
            let (prompt, text) = ids.split_at(ids.len() / 2 * (seed as usize % 2));
            let mut history = History::default();
            history.add_prompt(prompt);
            text.iter().for_each(|&id| history.push(id));
            assert_eq!(history.repeats, naive(&ids), "{ids:?}");
            assert_eq!(lengths_of_repeats(&ids), naive(&ids), "{ids:?}");
            assert_eq!(history.ids(), ids);
        }
    }

    #[test]
    fn seen_counts_what_was_written() {
        let mut history = History::default();
        history.add_prompt(&[5, 3, 5]);
        for id in [3, 9, 3, 1] {
            history.push(id);
        }
        history.add_prompt(&[9, 2]);
        let expected = [(1, 1), (2, 0), (3, 2), (5, 0), (9, 1)].map(|(id, written)| Seen { id, written });
        assert_eq!(history.seen(), expected);
    }
}
