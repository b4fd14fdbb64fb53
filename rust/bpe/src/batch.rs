//! Many texts shared out to threads.

use rayon::prelude::*;

use crate::cache;
use crate::encode::{BYTES_AN_ID, Id, Plan};
use crate::special::Allowed;
use crate::tokenizer::Tokenizer;
use crate::{Cancel, Error};

/// Ids of several texts, one after another.
#[derive(Debug, Default)]
pub struct Encoded<T> {
    /// All ids.
    pub ids: Vec<T>,
    /// Where each text starts in `ids`, and the end of the last.
    pub offsets: Vec<i64>,
}

/// Bytes of text that are worth handing to another thread.
const BATCH: usize = 1 << 15;
/// Parts for each thread: enough that none waits long for the last.
const PARTS: usize = 8;

impl Tokenizer {
    /// The ids of many texts, on all threads of the current rayon pool.
    pub fn encode_batch<T: Id>(
        &self,
        texts: &[&[u8]],
        allowed: &Allowed,
        disallowed: &Allowed,
        cancel: &Cancel,
    ) -> Result<Encoded<T>, Error> {
        let plan = self.plan(allowed, disallowed)?;
        let total: usize = texts.iter().map(|text| text.len()).sum();
        let threads = rayon::current_num_threads();
        let size = if threads == 1 { usize::MAX } else { BATCH.max(total / (threads * PARTS)) };
        let units = self.units(texts, &plan, size);
        let mut parts: Vec<Encoded<T>> = batches(&units, size)
            .into_par_iter()
            .map(|batch| self.encode_units(batch, &plan, cancel))
            .collect::<Result<_, _>>()?;
        let mut offsets = Vec::with_capacity(texts.len() + 1);
        offsets.push(0);
        let mut start = 0;
        for part in &parts {
            offsets.extend(part.offsets.iter().map(|end| start + end));
            start += part.ids.len() as i64;
        }
        let ids = if parts.len() == 1 { std::mem::take(&mut parts[0].ids) } else { joined(&parts, start as usize) };
        Ok(Encoded { ids, offsets })
    }

    /// [`Tokenizer::encode_batch`] on this thread alone.
    pub fn encode_few<T: Id>(
        &self,
        texts: &[&[u8]],
        allowed: &Allowed,
        disallowed: &Allowed,
        cancel: &Cancel,
    ) -> Result<Encoded<T>, Error> {
        let plan = self.plan(allowed, disallowed)?;
        let mut encoded = self.encode_units(&self.units(texts, &plan, usize::MAX), &plan, cancel)?;
        encoded.offsets.insert(0, 0);
        Ok(encoded)
    }

    /// The texts, long ones cut into parts of about `size` where that changes nothing.
    fn units<'t>(&self, texts: &[&'t [u8]], plan: &Plan<'_>, size: usize) -> Vec<Unit<'t>> {
        let mut units = Vec::with_capacity(texts.len());
        for &text in texts {
            let mut start = 0;
            if plan.rules.parsed().is_none() && plan.chosen.is_none() {
                while text.len() - start > size.saturating_mul(2) {
                    let end = self.pattern().safe_start(text, start + size);
                    if end >= text.len() {
                        break;
                    }
                    units.push(Unit { text, start, end });
                    start = end;
                }
            }
            units.push(Unit { text, start, end: text.len() });
        }
        units
    }

    /// As [`Encoded`], but that `offsets` holds each text's end alone.
    fn encode_units<T: Id>(&self, units: &[Unit<'_>], plan: &Plan<'_>, cancel: &Cancel) -> Result<Encoded<T>, Error> {
        let bytes: usize = units.iter().map(|unit| unit.end - unit.start).sum();
        let ids = Vec::with_capacity(bytes / BYTES_AN_ID + cache::FEW);
        let mut part = Encoded { ids, offsets: Vec::with_capacity(units.len()) };
        self.with_workspace(|workspace| {
            for unit in units {
                if unit.start == 0 && unit.end == unit.text.len() {
                    self.encode_planned(unit.text, plan, workspace, cancel, &mut part.ids)?;
                } else {
                    if unit.start == 0 {
                        plan.rules.check(unit.text)?;
                    }
                    self.encode_ordinary(&unit.text[unit.start..unit.end], workspace, cancel, &mut part.ids)?;
                }
                if unit.end == unit.text.len() {
                    part.offsets.push(part.ids.len() as i64);
                }
            }
            Ok(())
        })?;
        Ok(part)
    }
}

/// A part of a text.
struct Unit<'t> {
    text: &'t [u8],
    start: usize,
    end: usize,
}

/// Neighbouring units, in groups of about `size` bytes.
fn batches<'a, 't>(units: &'a [Unit<'t>], size: usize) -> Vec<&'a [Unit<'t>]> {
    let mut batches = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (index, unit) in units.iter().enumerate() {
        bytes += unit.end - unit.start + 64;
        if bytes >= size {
            batches.push(&units[start..=index]);
            (start, bytes) = (index + 1, 0);
        }
    }
    if start < units.len() {
        batches.push(&units[start..]);
    }
    batches
}

/// The ids of all parts, `total` of them, copied by all threads.
fn joined<T: Id>(parts: &[Encoded<T>], total: usize) -> Vec<T> {
    let mut ids = Vec::with_capacity(total);
    let mut rest = ids.spare_capacity_mut();
    let mut copies = Vec::with_capacity(parts.len());
    for part in parts {
        let (room, later) = rest.split_at_mut(part.ids.len());
        copies.push((room, &part.ids));
        rest = later;
    }
    copies.into_par_iter().for_each(|(room, ids)| {
        for (place, &id) in room.iter_mut().zip(ids) {
            place.write(id);
        }
    });
    // SAFETY: the parts hold `total` ids, and each was written.
    unsafe { ids.set_len(total) };
    ids
}
