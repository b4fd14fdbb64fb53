//! The pairs that may be merged soon: their counts, and where they stand.

use super::hash::Key;

/// A pair of neighbours.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pair {
    key: u64,
    /// 0 for a pair that is forgotten.
    pub count: u64,
    /// Its places in [`Pairs::places`].
    pub start: u32,
    pub length: u32,
}

/// Open addressing, at most half full. Nothing is taken out; [`Pairs::clear`] ends a stage.
pub struct Pairs {
    slots: Vec<Pair>,
    used: usize,
    key: Key,
    /// Of each pair its places in ascending order, as they were when the pair was new; some may have changed since.
    pub places: Vec<u32>,
}

/// A pair of ids as one number in the order in which ties are broken.
#[inline]
pub fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// No pair has it: ids end below `u32::MAX`.
const FREE: u64 = u64::MAX;
const EMPTY: Pair = Pair { key: FREE, count: 0, start: 0, length: 0 };

impl Pairs {
    pub fn new() -> Self {
        Self { slots: vec![EMPTY; 1 << 10], used: 0, key: Key::random(), places: Vec::new() }
    }

    #[inline]
    fn find(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.key.words(key, 0) as usize & mask;
        while self.slots[at].key != key && self.slots[at].key != FREE {
            at = (at + 1) & mask;
        }
        at
    }

    /// The pair, if it is there.
    #[inline]
    pub fn get(&mut self, key: u64) -> Option<&mut Pair> {
        let at = self.find(key);
        let pair = &mut self.slots[at];
        (pair.key == key).then_some(pair)
    }

    /// The pair, a new one with count 0 if need be.
    #[inline]
    pub fn entry(&mut self, key: u64) -> &mut Pair {
        if (self.used + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let at = self.find(key);
        let pair = &mut self.slots[at];
        if pair.key == FREE {
            self.used += 1;
            *pair = Pair { key, ..EMPTY };
        }
        pair
    }

    fn grow(&mut self) {
        let size = self.slots.len() * 2;
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; size]);
        for pair in old.into_iter().filter(|pair| pair.key != FREE) {
            let at = self.find(pair.key);
            self.slots[at] = pair;
        }
    }

    /// All pairs, in no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Pair)> {
        self.slots.iter_mut().filter(|pair| pair.key != FREE).map(|pair| (pair.key, pair))
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.slots = vec![EMPTY; 1 << 10];
        self.used = 0;
        self.places.clear();
    }

    pub fn len(&self) -> usize {
        self.used
    }
}
