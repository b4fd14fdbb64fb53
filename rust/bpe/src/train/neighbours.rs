//! The tokens met on one side of a new token, with the places of the pairs they form with it.

/// One of them.
pub struct Neighbour {
    pub id: u32,
    /// What the pair with the old token lost.
    pub lost: u64,
    /// What the pair with the new token has.
    pub count: u64,
    occurrences: u32,
}

#[derive(Default)]
pub struct Neighbours {
    pub found: Vec<Neighbour>,
    /// By id, its number in `found` plus one.
    numbers: Vec<u32>,
    events: Vec<(u32, u32)>,
    /// Where the next place of each neighbour goes; `u32::MAX` for those that are not frequent enough.
    cursors: Vec<u32>,
}

impl Neighbours {
    /// Ready for the new token `new`, the highest id that will be met.
    pub fn clear(&mut self, new: u32) {
        for neighbour in self.found.drain(..) {
            self.numbers[neighbour.id as usize] = 0;
        }
        self.events.clear();
        if self.numbers.len() <= new as usize {
            self.numbers.resize(new as usize + 1, 0);
        }
    }

    #[inline]
    pub fn note(&mut self, id: u32, weight: u64, place: u32) {
        let number = &mut self.numbers[id as usize];
        if *number == 0 {
            self.found.push(Neighbour { id, lost: 0, count: 0, occurrences: 0 });
            *number = self.found.len() as u32;
        }
        let neighbour = &mut self.found[*number as usize - 1];
        neighbour.count = neighbour.count.saturating_add(weight);
        neighbour.lost = neighbour.count;
        neighbour.occurrences += 1;
        self.events.push((*number - 1, place));
    }

    pub fn count(&self, id: u32) -> u64 {
        match self.numbers[id as usize] {
            0 => 0,
            number => self.found[number as usize - 1].count,
        }
    }

    pub fn reduce(&mut self, id: u32, weight: u64) {
        if let Some(number) = self.numbers[id as usize].checked_sub(1) {
            let count = &mut self.found[number as usize].count;
            *count = count.saturating_sub(weight);
        }
    }

    /// Appends the places of each pair that occurs `threshold` times, and gives its id and count, and the start and
    /// the number of its places.
    pub fn place(&mut self, threshold: u64, places: &mut Vec<u32>, mut give: impl FnMut(u32, u64, u32, u32)) {
        self.cursors.clear();
        let mut end = places.len() as u32;
        for neighbour in &self.found {
            if neighbour.count < threshold {
                self.cursors.push(u32::MAX);
                continue;
            }
            self.cursors.push(end);
            give(neighbour.id, neighbour.count, end, neighbour.occurrences);
            end += neighbour.occurrences;
        }
        if end as usize == places.len() {
            return;
        }
        places.resize(end as usize, 0);
        for &(number, place) in &self.events {
            let cursor = &mut self.cursors[number as usize];
            if *cursor != u32::MAX {
                places[*cursor as usize] = place;
                *cursor += 1;
            }
        }
    }
}
