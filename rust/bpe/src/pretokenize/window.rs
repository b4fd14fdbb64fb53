//! Pre-tokens by the window: 64 bytes from a pre-token's start on, their classes as bits, and from these by a few
//! operations on words the starts of all pre-tokens that the window decides. The scanners do the rest.
//!
//! A window starts where a pre-token does, so nothing before it matters. What it cannot decide is white space that
//! goes on to its end; a start is given only up to there.

use super::classes::{self, Classes, Masks, WINDOW, low, widen};
use super::scan::{self, contraction};

/// Room for the ends of pre-tokens that are found at once.
pub const ENDS: usize = 256;

/// A pattern that windows can be cut by.
trait Rules {
    fn piece_end(text: &[u8], at: usize) -> usize;

    /// The starts of pre-tokens in the window at `at`; whatever `view` does not decide may be wrong.
    fn starts(text: &[u8], at: usize, view: &mut View) -> u64;
}

/// A window of `length` bytes; `last` if the text ends with it.
struct View {
    masks: Masks,
    length: usize,
    last: bool,
}

impl View {
    /// Leaves everything from `length` on undecided.
    fn cut(&mut self, length: usize) {
        if length < self.length {
            (self.length, self.last) = (length, false);
        }
    }

    fn other(&self) -> u64 {
        low(self.length) & !(self.masks.letter | self.masks.number | self.masks.space)
    }
}

pub struct Gpt2;
/// See [`scan::cl100k`].
pub struct Cl100k<const DIGITS: usize, const TRAILING: bool>;
pub struct O200k;

impl Rules for Gpt2 {
    #[inline(always)]
    fn piece_end(text: &[u8], at: usize) -> usize {
        scan::gpt2(text, at)
    }

    #[inline(always)]
    fn starts(text: &[u8], at: usize, view: &mut View) -> u64 {
        let valid = low(view.length);
        let Masks { letter, number, space, blank, quote, wide, .. } = view.masks;
        let (letter, number, space, other) = (letter & valid, number & valid, space & valid, view.other());
        let last = last_of_runs(space, view.length);
        let mut starts = firsts(letter) | firsts(number) | firsts(other) | firsts(space) | to_first_bytes(last, wide);
        starts &= !((last & blank) << 1);
        let mut quotes = starts & quote & valid;
        while quotes != 0 {
            let place = quotes.trailing_zeros() as usize;
            quotes &= quotes - 1;
            if let Some(end) = contraction(text, at + place, false) {
                starts = starts & !(low(end - at) & !low(place + 1)) | bit(end - at);
            }
        }
        starts
    }
}

impl<const DIGITS: usize, const TRAILING: bool> Rules for Cl100k<DIGITS, TRAILING> {
    #[inline(always)]
    fn piece_end(text: &[u8], at: usize) -> usize {
        scan::cl100k::<DIGITS, TRAILING>(text, at)
    }

    #[inline(always)]
    fn starts(text: &[u8], at: usize, view: &mut View) -> u64 {
        let mut starts = runs::<DIGITS, TRAILING>(view);
        let mut quotes = starts & view.masks.quote & low(view.length);
        while quotes != 0 {
            let place = quotes.trailing_zeros() as usize;
            quotes &= quotes - 1;
            if let Some(end) = contraction(text, at + place, true) {
                starts = starts & !(low(end - at) & !low(place + 1)) | bit(end - at);
            }
        }
        starts
    }
}

impl Rules for O200k {
    #[inline(always)]
    fn piece_end(text: &[u8], at: usize) -> usize {
        scan::o200k(text, at)
    }

    #[inline(always)]
    fn starts(text: &[u8], at: usize, view: &mut View) -> u64 {
        view.masks.letter |= view.masks.mark;
        if view.masks.both != 0 {
            cut_before_mixed_words(view);
        }
        let absorbed = absorbed(view);
        let slashes = view.masks.slash & absorbed << 1 & low(view.length);
        if slashes != 0 {
            view.cut(slashes.trailing_zeros() as usize);
        }
        let mut starts = runs::<3, false>(view);
        let valid = low(view.length);
        let Masks { letter, upper, quote, wide, .. } = view.masks;
        starts |= upper & !wide & (letter & !upper) << 1 & valid;
        let mut quotes = quote & letter << 1 & valid;
        let mut contraction_end = 0;
        while quotes != 0 {
            let place = quotes.trailing_zeros() as usize;
            quotes &= quotes - 1;
            if place == contraction_end {
                continue;
            }
            if let Some(end) = contraction(text, at + place, true) {
                contraction_end = end - at;
                starts = starts & !(low(contraction_end) & !low(place)) | bit(contraction_end);
            }
        }
        starts
    }
}

/// What a window alone does not tell of o200k's words: where a mark follows punctuation, which takes it as its own, and
/// where characters of both cases meet upper-case letters, since the last of them in the word decides.
#[cold]
fn cut_before_mixed_words(view: &mut View) {
    let valid = low(view.length);
    let Masks { letter, upper, both, mark, .. } = view.masks;
    let claimed = mark & view.other() << 1 & valid;
    if claimed != 0 {
        view.cut(claimed.trailing_zeros() as usize);
    }
    let (upper, both) = (upper & low(view.length), both & low(view.length));
    if upper != 0 && both != 0 {
        let met = upper.trailing_zeros().max(both.trailing_zeros()) as usize;
        let before = !letter & low(met);
        view.cut(64 - before.leading_zeros() as usize);
    }
}

/// Line breaks that the punctuation before them takes.
#[inline(always)]
fn absorbed(view: &View) -> u64 {
    let newline = view.masks.newline & low(view.length);
    following(newline, newline & view.other() << 1)
}

/// What cl100k and o200k share: runs of classes, white space, and what joins a run to the character before it.
#[inline(always)]
fn runs<const DIGITS: usize, const TRAILING: bool>(view: &View) -> u64 {
    let valid = low(view.length);
    let Masks { letter, number, blank, wide, .. } = view.masks;
    let (letter, number, other) = (letter & valid, number & valid, view.other());
    let absorbed = absorbed(view);
    let space = view.masks.space & valid & !absorbed;
    let newline = view.masks.newline & space;
    let plain = space & !newline;

    let mut starts = firsts(letter) | firsts(other) | firsts(space);
    starts |= if DIGITS == 1 { number & !wide } else { groups::<DIGITS>(number, wide) };
    let last = last_of_runs(space, view.length) & plain;
    starts |= to_first_bytes(last, wide);
    let mut after_lines = plain & newline << 1;
    while after_lines != 0 {
        let start = after_lines.trailing_zeros() as usize;
        after_lines &= after_lines - 1;
        let end = start + (!(plain >> start)).trailing_zeros() as usize;
        let another_line = newline & bit(end) != 0;
        let at_the_end = end >= view.length;
        if !(another_line || TRAILING && at_the_end) {
            starts |= bit(start);
        }
    }
    let alone = firsts(other) & !(blank << 1);
    let alone = alone | following(wide & other, wide & other & alone << 1);
    starts &= !(((last | alone) << 1 & letter) | ((last & blank) << 1 & other));
    starts
}

/// The starts of groups of `DIGITS` numbers.
#[inline(always)]
fn groups<const DIGITS: usize>(number: u64, wide: u64) -> u64 {
    let mut starts = firsts(number);
    if number & wide == 0 {
        let mut group = starts;
        while group != 0 {
            group = (0..DIGITS).fold(group << DIGITS, |group, back| group & number << back);
            starts |= group;
        }
        return starts;
    }
    let mut count = 0;
    let mut rest = number & !wide;
    while rest != 0 {
        let place = rest & rest.wrapping_neg();
        rest ^= place;
        count = if starts & place != 0 && number & place >> 1 == 0 { 0 } else { count + 1 };
        if count % DIGITS == 0 {
            starts |= place;
        }
    }
    starts
}

/// The first byte of each run.
#[inline(always)]
fn firsts(runs: u64) -> u64 {
    runs & !(runs << 1)
}

/// The last byte of each run that ends before the window does.
#[inline(always)]
fn last_of_runs(runs: u64, length: usize) -> u64 {
    runs & !(runs >> 1) & low(length) >> 1
}

/// The parts of `runs` from one of `starts` on; these are first bytes of runs.
#[inline(always)]
fn following(runs: u64, starts: u64) -> u64 {
    (runs ^ runs.wrapping_add(starts)) & runs
}

/// From last bytes of characters to their first ones.
#[inline(always)]
fn to_first_bytes(mut last: u64, wide: u64) -> u64 {
    while last & wide != 0 {
        last = last & !wide | (last & wide) >> 1;
    }
    last
}

#[inline(always)]
fn bit(place: usize) -> u64 {
    if place < 64 { 1 << place } else { 0 }
}

/// Fills `ends` with the ends of the pre-tokens from `at` on, a pre-token's start in `text`; returns how many. All of
/// `text` is done when the last of them is its end.
#[inline(always)]
fn fill<R: Rules>(
    text: &[u8],
    mut at: usize,
    ends: &mut [usize; ENDS],
    classify: impl Fn(&[u8; WINDOW]) -> Masks,
    bits: impl Fn(&Classes) -> [u64; 6] + Copy,
) -> usize {
    let mut count = 0;
    while at < text.len()
        && let Some(room) = ends[count..].first_chunk_mut::<{ WINDOW + 8 }>()
    {
        let rest = &text[at..];
        let (masks, length) = match rest.first_chunk() {
            Some(window) => (classify(window), WINDOW),
            None => {
                let mut window = [0; WINDOW];
                window[..rest.len()].copy_from_slice(rest);
                (classify(&window), rest.len())
            }
        };
        let mut view = View { masks, length, last: length == rest.len() };
        if view.masks.wide != 0 {
            let whole = widen(text, at, length, &mut view.masks, bits);
            view.cut(whole);
        }
        let mut starts = if view.length == 0 { 0 } else { R::starts(text, at, &mut view) & low(view.length) & !1 };
        if !view.last {
            starts &= decided(&view);
        }
        let found = starts.count_ones() as usize;
        write_places(starts, at, found, room);
        if view.last {
            room[found] = text.len();
            return count + found + 1;
        }
        if found > 0 {
            // Not read back from `room`: the next window would wait for the write.
            at += WINDOW - 1 - starts.leading_zeros() as usize;
            count += found;
        } else {
            at = R::piece_end(text, at);
            room[0] = at;
            count += 1;
        }
    }
    count
}

/// Everything up to the start of the white space that the window ends with.
#[inline(always)]
fn decided(view: &View) -> u64 {
    if view.length == 0 {
        return 0;
    }
    let trailing = (view.masks.space << (WINDOW - view.length)).leading_ones() as usize;
    low(view.length - trailing.min(view.length) + 1)
}

/// Eight at a time without asking whether there are as many: a wrong guess costs more than eight writes.
#[inline(always)]
fn write_places(mut places: u64, at: usize, count: usize, room: &mut [usize; WINDOW + 8]) {
    for eight in room.chunks_exact_mut(8).take(count.div_ceil(8).max(1)) {
        for place in eight {
            *place = at + places.trailing_zeros() as usize;
            places &= places.wrapping_sub(1);
        }
    }
}

/// [`fill`] for every instruction set; a macro, since a function for one set must be compiled as a whole for it.
macro_rules! fillers {
    ($(#[$attribute:meta])* $name:ident, $classify:path, $bits:path) => {
        $(#[$attribute])*
        fn $name(cut: Cut, text: &[u8], at: usize, ends: &mut [usize; ENDS]) -> usize {
            match cut {
                Cut::Gpt2 => fill::<Gpt2>(text, at, ends, |window| $classify(window), |classes| $bits(classes)),
                Cut::Cl100k => fill::<Cl100k<3, true>>(text, at, ends, |window| $classify(window), |classes| $bits(classes)),
                Cut::O200k => fill::<O200k>(text, at, ends, |window| $classify(window), |classes| $bits(classes)),
                Cut::Llama3 => fill::<Cl100k<3, false>>(text, at, ends, |window| $classify(window), |classes| $bits(classes)),
                Cut::Qwen2 => fill::<Cl100k<1, false>>(text, at, ends, |window| $classify(window), |classes| $bits(classes)),
            }
        }
    };
}

fillers!(fill_portable, classes::classify_portable, classes::bits_portable);
#[cfg(target_arch = "x86_64")]
fillers!(
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fill_avx2,
    classes::classify_avx2,
    classes::bits_avx2
);
#[cfg(target_arch = "x86_64")]
fillers!(
    #[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2,lzcnt,popcnt")]
    fill_avx512,
    classes::classify_avx512,
    classes::bits_avx512
);

/// The patterns that windows can be cut by.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Gpt2,
    Cl100k,
    O200k,
    Llama3,
    Qwen2,
}

/// The instruction set that windows are cut with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this processor has, the best last.
    pub fn available() -> Vec<Self> {
        let mut available = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let bits = is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            if bits && is_x86_feature_detected!("avx2") {
                available.push(Self::Avx2);
            }
            if bits && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                available.push(Self::Avx512);
            }
        }
        available
    }

    /// The best, or with the environment's `WORDKILN_ISA=baseline` the portable one.
    pub fn chosen() -> Self {
        static CHOSEN: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let baseline = std::env::var_os("WORDKILN_ISA").is_some_and(|isa| isa == "baseline");
            if baseline { Self::Portable } else { *Self::available().last().unwrap_or(&Self::Portable) }
        })
    }

    /// See [`fill`].
    #[inline]
    pub fn fill(self, cut: Cut, text: &[u8], at: usize, ends: &mut [usize; ENDS]) -> usize {
        match self {
            Self::Portable => fill_portable(cut, text, at, ends),
            // SAFETY: only `available` makes this value, where the processor has these features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { fill_avx2(cut, text, at, ends) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { fill_avx512(cut, text, at, ends) },
        }
    }
}
