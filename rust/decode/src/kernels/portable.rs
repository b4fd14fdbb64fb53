//! The passes as plain loops over a fixed number of lanes, which compilers turn into vectors.

use std::f32::consts::LOG2_E;

use super::{BLOCK, LANES};
use crate::exp::exp2;

#[inline(always)]
pub fn maxima(values: &[f32], block_max: &mut [f32]) -> bool {
    let mut any_nan = false;
    for (block, result) in values.chunks(BLOCK).zip(block_max) {
        let mut max = [f32::NEG_INFINITY; LANES];
        let mut nan = [false; LANES];
        for_each_lane(block, |lane, value| {
            max[lane] = higher(value, max[lane]);
            nan[lane] |= value.is_nan();
        });
        any_nan |= nan.contains(&true);
        *result = reduce(max, higher);
    }
    any_nan
}

#[inline(always)]
pub fn allowed_maxima(values: &[f32], mask: &[u32], block_max: &mut [f32]) {
    for ((block, words), result) in values.chunks(BLOCK).zip(mask.chunks(BLOCK / 32)).zip(block_max) {
        let mut max = [f32::NEG_INFINITY; LANES];
        for (group, values) in block.chunks(LANES).enumerate() {
            let bits = words[group / 2] >> (group % 2 * LANES);
            for (lane, &value) in values.iter().enumerate() {
                let value = if bits >> lane & 1 == 1 { value } else { f32::NEG_INFINITY };
                max[lane] = higher(value, max[lane]);
            }
        }
        *result = reduce(max, higher);
    }
}

#[inline(always)]
pub fn masses(values: &[f32], highest: f32, scale: f32, block_mass: &mut [f64]) {
    for (block, result) in values.chunks(BLOCK).zip(block_mass) {
        let mut sum = [0.0_f32; LANES];
        for_each_lane(block, |lane, value| sum[lane] += exp2((value - highest) * scale));
        *result = f64::from(reduce(sum, |a, b| a + b));
    }
}

#[inline(always)]
pub fn mass(values: &[f32], highest: f32) -> f64 {
    let mut sum = [0.0_f32; LANES];
    for_each_lane(values, |lane, value| sum[lane] += exp2((value - highest) * LOG2_E));
    f64::from(reduce(sum, |a, b| a + b))
}

#[inline(always)]
pub fn weigh(values: &[f32], highest: f32, scale: f32, weights: &mut [f32]) {
    for (&value, weight) in values.iter().zip(weights) {
        *weight = exp2((value - highest) * scale);
    }
}

#[inline(always)]
pub fn surprise(values: &[f32], highest: f32, scale: f32) -> f64 {
    let mut total = 0.0;
    for block in values.chunks(BLOCK) {
        let mut sum = [0.0_f32; LANES];
        for_each_lane(block, |lane, value| {
            let x = (value - highest) * scale;
            // The weight of what lies below is 0: the clamp keeps -inf * 0 out.
            sum[lane] += exp2(x) * higher(x, -1e3);
        });
        total += f64::from(reduce(sum, |a, b| a + b));
    }
    total
}

#[inline(always)]
pub fn moments(values: &[f32], highest: f32) -> (f64, f64, f64) {
    let mut totals = (0.0, 0.0, 0.0);
    for block in values.chunks(BLOCK) {
        let (mut count, mut sum, mut squares) = ([0.0_f32; LANES], [0.0_f64; LANES], [0.0_f64; LANES]);
        for_each_lane(block, |lane, value| {
            let present = value > f32::NEG_INFINITY;
            let x = if present { f64::from(value) - f64::from(highest) } else { 0.0 };
            count[lane] += if present { 1.0 } else { 0.0 };
            sum[lane] += x;
            squares[lane] += x * x;
        });
        totals.0 += f64::from(reduce(count, |a, b| a + b));
        totals.1 += reduce(sum, |a, b| a + b);
        totals.2 += reduce(squares, |a, b| a + b);
    }
    totals
}

#[inline(always)]
pub fn count_from(values: &[f32], bound: f32) -> usize {
    values.iter().map(|&value| usize::from(value >= bound)).sum()
}

#[inline(always)]
pub fn mass_from(keys: &[f32], weights: &[f32], bound: f32) -> (usize, f64) {
    let (mut count, mut mass) = (0, 0.0);
    for (keys, weights) in keys.chunks(BLOCK).zip(weights.chunks(BLOCK)) {
        let mut sum = [0.0_f32; LANES];
        for (keys, weights) in keys.chunks(LANES).zip(weights.chunks(LANES)) {
            for ((sum, &key), &weight) in sum.iter_mut().zip(keys).zip(weights) {
                *sum += if key >= bound { weight } else { 0.0 };
                count += usize::from(key >= bound);
            }
        }
        mass += f64::from(reduce(sum, |a, b| a + b));
    }
    (count, mass)
}

#[inline(always)]
pub fn mass_at_least(block_max: &[f32], block_top: &[f32], block_mass: &[f32], bound: f32, below: f32) -> f32 {
    let mut sum = [0.0_f32; LANES];
    let blocks = block_max.chunks(LANES).zip(block_top.chunks(LANES)).zip(block_mass.chunks(LANES));
    for ((max, top), mass) in blocks {
        for (((sum, &max), &top), &mass) in sum.iter_mut().zip(max).zip(top).zip(mass) {
            *sum += if max >= bound { higher(mass - below, top) } else { 0.0 };
        }
    }
    reduce(sum, |a, b| a + b)
}

#[inline(always)]
pub fn collect(values: &[f32], block_max: &[f32], bound: f32, indices: &mut [u32], found: &mut [f32]) -> usize {
    let mut count = 0;
    for (number, (block, &max)) in values.chunks(BLOCK).zip(block_max).enumerate() {
        if max >= bound {
            count += collect_block(block, number, bound, &mut indices[count..], &mut found[count..]);
        }
    }
    count
}

/// [`collect`] for block number `number`.
#[inline(always)]
pub fn collect_block(block: &[f32], number: usize, bound: f32, indices: &mut [u32], found: &mut [f32]) -> usize {
    let mut count = 0;
    for (index, &value) in (number as u32 * BLOCK as u32..).zip(block) {
        // Without a branch: what is not kept is written over by the next.
        indices[count] = index;
        found[count] = value;
        count += usize::from(value >= bound);
    }
    count
}

#[inline(always)]
pub fn keep_from(values: &mut [f32], weights: &mut [f32], ids: &mut [u32], bound: f32) -> usize {
    let mut kept = 0;
    for place in 0..values.len() {
        let value = values[place];
        (values[kept], weights[kept], ids[kept]) = (value, weights[place], ids[place]);
        kept += usize::from(value >= bound);
    }
    kept
}

#[inline(always)]
pub fn range(values: &[f32]) -> (f32, f32) {
    let (mut least, mut most) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for_each_lane(values, |lane, value| {
        least[lane] = if value < least[lane] { value } else { least[lane] };
        most[lane] = higher(value, most[lane]);
    });
    (reduce(least, |a, b| if a < b { a } else { b }), reduce(most, higher))
}

#[inline(always)]
pub fn widen_bfloat16(bits: &[u16], values: &mut [f32]) {
    for (&bits, value) in bits.iter().zip(values) {
        *value = f32::from_bits(u32::from(bits) << 16);
    }
}

#[inline(always)]
pub fn widen_float16(bits: &[u16], values: &mut [f32]) {
    /// Moves the exponent's bias from 15 to 127; the product is exact, subnormal numbers included.
    const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    for (&bits, value) in bits.iter().zip(values) {
        let magnitude = u32::from(bits & 0x7FFF) << 13;
        let special = if bits & 0x7C00 == 0x7C00 { 0x7F80_0000 } else { 0 };
        let sign = u32::from(bits & 0x8000) << 16;
        *value = f32::from_bits((f32::from_bits(magnitude) * REBIAS).to_bits() | special | sign);
    }
}

/// `a` if it is higher, else `b`: one instruction, and NaN as `a` gives `b`.
#[inline(always)]
fn higher(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Lanes in pairs, then pairs of these: the order that vectors have.
#[inline(always)]
fn reduce<T: Copy>(mut lanes: [T; LANES], combine: impl Fn(T, T) -> T) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = combine(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Calls `take(lane, value)` for each value: over whole groups of lanes first, whose fixed length lets the loop vectorise.
#[inline(always)]
fn for_each_lane(block: &[f32], mut take: impl FnMut(usize, f32)) {
    let (groups, rest) = block.as_chunks::<LANES>();
    for group in groups {
        for (lane, &value) in group.iter().enumerate() {
            take(lane, value);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        take(lane, value);
    }
}
