//! All tokens in one automaton that reads a byte a step.
//!
//! A double array (Aoe 1989, "An efficient digital search algorithm by using a double-array structure"): a node's child
//! by byte `b` stands at the node's base XOR `b`, if what stands there says that `b` led to it. No two nodes share a
//! base, so the byte is check enough.

/// A place of the array: from the lowest bit on, `ID_BITS` for the token that ends here, a bit if there is one, a bit if
/// merges make it, nine for the byte that leads here, the rest for the base.
#[derive(Clone, Copy, Debug)]
struct Node(u64);

const ID_BITS: u32 = 22;
const HAS_ID: u64 = 1 << ID_BITS;
const MADE: u64 = 1 << (ID_BITS + 1);
const BYTE_SHIFT: u32 = ID_BITS + 2;
const BASE_SHIFT: u32 = BYTE_SHIFT + 9;
/// No byte leads here.
const FREE: u64 = 0x100 << BYTE_SHIFT;
const ROOT: u64 = 0x101 << BYTE_SHIFT;
/// Children of one node lie in one block.
const BLOCK: usize = 256;
/// Free places that are tried for a node's children before a block is added.
const MOST_TRIES: usize = 1 << 12;

impl Node {
    #[inline(always)]
    fn child(self, byte: u8) -> usize {
        (self.0 >> BASE_SHIFT) as usize ^ usize::from(byte)
    }

    #[inline(always)]
    fn is_reached_by(self, byte: u8) -> bool {
        (self.0 >> BYTE_SHIFT) as u16 & 0x1ff == u16::from(byte)
    }

    #[inline(always)]
    fn id(self) -> Option<u32> {
        if self.0 & HAS_ID != 0 { Some(self.0 as u32 & ((1 << ID_BITS) - 1)) } else { None }
    }
}

/// The tokens of a vocabulary.
#[derive(Debug)]
pub struct Trie {
    nodes: Vec<Node>,
}

/// A token to put in.
pub struct Entry<'a> {
    /// Its bytes, not empty; no other token's.
    pub bytes: &'a [u8],
    /// Its id, below 2^22.
    pub id: u32,
    /// Whether merges make it of its bytes.
    pub made: bool,
}

impl Trie {
    /// Of these tokens.
    pub fn new(mut entries: Vec<Entry<'_>>) -> Self {
        entries.sort_unstable_by(|one, other| one.bytes.cmp(other.bytes));
        let mut places = Places::default();
        // Leaves have base 0, where nothing ever stands.
        places.add_block();
        places.take_all();
        places.add_block();
        let root = BLOCK;
        places.take(root);
        places.nodes[root].0 = ROOT;
        let mut bytes = Vec::new();
        let mut open = vec![(root, 0, entries.len(), 0)];
        while let Some((node, mut first, last, depth)) = open.pop() {
            if let Some(entry) = entries[..last].get(first).filter(|entry| entry.bytes.len() == depth) {
                let made = if entry.made { MADE } else { 0 };
                places.nodes[node].0 |= u64::from(entry.id) | HAS_ID | made;
                first += 1;
            }
            bytes.clear();
            let mut at = first;
            while at < last {
                let byte = entries[at].bytes[depth];
                let end = at + entries[at..last].partition_point(|entry| entry.bytes[depth] == byte);
                bytes.push((byte, at, end));
                at = end;
            }
            if bytes.is_empty() {
                continue;
            }
            let base = places.base_for(&bytes);
            places.nodes[node].0 |= (base as u64) << BASE_SHIFT;
            for &(byte, first, last) in &bytes {
                let child = base ^ usize::from(byte);
                places.take(child);
                places.nodes[child].0 = u64::from(byte) << BYTE_SHIFT;
                open.push((child, first, last, depth + 1));
            }
        }
        Self { nodes: places.nodes }
    }

    /// The longest token that merges make and that `bytes` start with.
    #[inline(always)]
    pub fn longest(&self, bytes: &[u8]) -> Option<u32> {
        let mut node = self.nodes[BLOCK];
        let mut found = Node(0);
        for &byte in bytes {
            let next = self.nodes[node.child(byte)];
            if !next.is_reached_by(byte) {
                break;
            }
            node = next;
            if node.0 & MADE != 0 {
                found = node;
            }
        }
        found.id()
    }

    /// The token that is `bytes`, made by merges or not.
    pub fn whole(&self, bytes: &[u8]) -> Option<u32> {
        let mut node = self.nodes[BLOCK];
        for &byte in bytes {
            node = self.nodes[node.child(byte)];
            if !node.is_reached_by(byte) {
                return None;
            }
        }
        node.id()
    }
}

/// The array while it is filled: free places are linked in a ring through place 0.
#[derive(Default)]
struct Places {
    nodes: Vec<Node>,
    before: Vec<u32>,
    after: Vec<u32>,
    is_base: Vec<bool>,
    /// Where the search for a single child's place goes on; 0: from the oldest.
    next: u32,
}

impl Places {
    fn add_block(&mut self) {
        let start = self.nodes.len();
        let end = start + BLOCK;
        self.nodes.resize(end, Node(FREE));
        self.is_base.resize(end, false);
        let last = if start == 0 { 0 } else { self.before[0] };
        self.before.extend((start as u32..end as u32).map(|place| place.wrapping_sub(1)));
        self.after.extend(start as u32 + 1..=end as u32);
        self.before[start] = last;
        self.after[last as usize] = start as u32;
        self.after[end - 1] = 0;
        self.before[0] = end as u32 - 1;
    }

    fn take_all(&mut self) {
        (self.before[0], self.after[0]) = (0, 0);
    }

    fn take(&mut self, place: usize) {
        let (before, after) = (self.before[place], self.after[place]);
        if self.next as usize == place {
            self.next = after;
        }
        self.after[before as usize] = after;
        self.before[after as usize] = before;
    }

    fn is_free(&self, place: usize) -> bool {
        self.nodes[place].0 == FREE
    }

    /// A base that no node has, with a free place for each of `bytes`.
    fn base_for<T>(&mut self, bytes: &[(u8, T, T)]) -> usize {
        let first = usize::from(bytes[0].0);
        // A single child fits nearly anywhere, so it goes round the ring from where the last one was put: from the oldest
        // place it would pass those whose bases are taken each time. Several fit where most is free.
        let is_single = bytes.len() == 1;
        let mut place = if is_single { self.next } else { self.before[0] } as usize;
        for _ in 0..MOST_TRIES {
            let base = place ^ first;
            if place == 0 {
                if !is_single {
                    break;
                }
            } else if !self.is_base[base] && bytes.iter().all(|(byte, ..)| self.is_free(base ^ usize::from(*byte))) {
                if is_single {
                    self.next = place as u32;
                }
                self.is_base[base] = true;
                return base;
            }
            place = if is_single { self.after[place] } else { self.before[place] } as usize;
        }
        let base = self.nodes.len();
        self.add_block();
        self.is_base[base] = true;
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_looking_at_all_tokens_finds(
            tokens in prop::collection::btree_map(prop::collection::vec(prop_oneof![0..3u8, any::<u8>()], 1..6), any::<bool>(), 1..300),
            text in prop::collection::vec(prop_oneof![0..3u8, any::<u8>()], 1..9),
        ) {
            let entries = tokens.iter().zip(0..).map(|((bytes, &made), id)| Entry { bytes, id, made }).collect();
            let trie = Trie::new(entries);
            let longest = tokens.iter().zip(0..).filter(|((bytes, made), _)| **made && text.starts_with(bytes));
            prop_assert_eq!(trie.longest(&text), longest.max_by_key(|((bytes, _), _)| bytes.len()).map(|(_, id)| id));
            for ((bytes, _), id) in tokens.iter().zip(0..) {
                prop_assert_eq!(trie.whole(bytes), Some(id));
            }
            let known = tokens.keys().position(|bytes| *bytes == text).map(|id| id as u32);
            prop_assert_eq!(trie.whole(&text), known);
        }
    }
}
