//! The hottest passes in AVX-512: compilers make half-width vectors and long reductions of the portable ones.
//! What is left of a row behind its whole blocks goes to these.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

use super::{BLOCK, LANES, portable};
use crate::exp::{COEFFICIENTS, LAST_COEFFICIENT, ROUNDER, SMALLEST};

/// Compiles the portable pass for AVX-512.
macro_rules! as_is {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            pub fn $name($($argument: $type),*) $(-> $result)? {
                portable::$name($($argument),*)
            }
        )*
    };
}

as_is! {
    allowed_maxima(values: &[f32], mask: &[u32], block_max: &mut [f32]);
    mass_at_least(block_max: &[f32], block_top: &[f32], block_mass: &[f32], bound: f32, below: f32) -> f32;
    surprise(values: &[f32], highest: f32, scale: f32) -> f64;
    moments(values: &[f32], highest: f32) -> (f64, f64, f64);
    range(values: &[f32]) -> (f32, f32);
    widen_bfloat16(bits: &[u16], values: &mut [f32]);
    widen_float16(bits: &[u16], values: &mut [f32]);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn maxima(values: &[f32], block_max: &mut [f32]) -> bool {
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    let mut nan = 0;
    for (block, result) in blocks.iter().zip(block_max.iter_mut()) {
        let [a, b, c, d] = groups(block);
        nan |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b) | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(c, d);
        *result = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d)));
    }
    portable::maxima(rest, &mut block_max[blocks.len()..]) | (nan != 0)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn masses(values: &[f32], highest: f32, scale: f32, block_mass: &mut [f64]) {
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    let weight = weighing(highest, scale);
    for (block, result) in blocks.iter().zip(block_mass.iter_mut()) {
        let sum = groups(block).into_iter().fold(_mm512_setzero_ps(), |sum, group| _mm512_add_ps(sum, weight(group)));
        *result = f64::from(add_lanes(sum));
    }
    portable::masses(rest, highest, scale, &mut block_mass[blocks.len()..]);
}

/// As 2^t = 2^n 2^r, n the integer nearest to t: two thirds of the operations of `exp2`, which may neither fuse nor scale.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn mass(values: &[f32], highest: f32) -> f64 {
    const NEAREST: i32 = 8;
    let (groups, rest) = values.as_chunks::<LANES>();
    let (log2_e, highest_lanes) = (_mm512_set1_ps(LOG2_E), _mm512_set1_ps(highest));
    // -inf becomes the smallest normal number, which no sum that holds a 1 can tell from 0.
    let smallest = _mm512_set1_ps(-126.0);
    let mut sum = _mm512_setzero_ps();
    for group in groups {
        // The caller reads a row in such pieces: the next one comes while this one keeps the processor busy.
        _mm_prefetch::<_MM_HINT_T0>(group.as_ptr().wrapping_add(values.len()).cast());
        // Not fused with the difference: highest * log2(e) would be rounded, by much where it is large.
        let t = _mm512_max_ps(_mm512_mul_ps(_mm512_sub_ps(load(group), highest_lanes), log2_e), smallest);
        let r = _mm512_reduce_ps::<NEAREST>(t);
        let mut p = _mm512_set1_ps(LAST_COEFFICIENT);
        for coefficient in COEFFICIENTS {
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(coefficient));
        }
        sum = _mm512_add_ps(sum, _mm512_scalef_ps(p, _mm512_roundscale_ps::<NEAREST>(t)));
    }
    f64::from(add_lanes(sum)) + portable::mass(rest, highest)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn weigh(values: &[f32], highest: f32, scale: f32, weights: &mut [f32]) {
    let (groups, rest) = values.as_chunks::<LANES>();
    let (results, rest_of_results) = weights.as_chunks_mut::<LANES>();
    let weight = weighing(highest, scale);
    for (group, result) in groups.iter().zip(results) {
        store(weight(load(group)), result);
    }
    portable::weigh(rest, highest, scale, rest_of_results);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn count_from(values: &[f32], bound: f32) -> usize {
    let (groups, rest) = values.as_chunks::<LANES>();
    let bounds = _mm512_set1_ps(bound);
    let count = |group| _mm512_cmp_ps_mask::<_CMP_GE_OQ>(load(group), bounds).count_ones() as usize;
    groups.iter().map(count).sum::<usize>() + portable::count_from(rest, bound)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn mass_from(keys: &[f32], weights: &[f32], bound: f32) -> (usize, f64) {
    let (key_blocks, keys) = keys.as_chunks::<BLOCK>();
    let (weight_blocks, weights) = weights.as_chunks::<BLOCK>();
    let bounds = _mm512_set1_ps(bound);
    let (mut count, mut mass) = (0, 0.0);
    for (keys, weights) in key_blocks.iter().zip(weight_blocks) {
        let mut sum = _mm512_setzero_ps();
        let mut bits = 0;
        for (keys, weights) in groups(keys).into_iter().zip(groups(weights)) {
            let kept = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(keys, bounds);
            sum = _mm512_mask_add_ps(sum, kept, sum, weights);
            bits = bits << LANES | u64::from(kept);
        }
        count += bits.count_ones() as usize;
        if bits != 0 {
            mass += f64::from(add_lanes(sum));
        }
    }
    let (rest_count, rest_mass) = portable::mass_from(keys, weights, bound);
    (count + rest_count, mass + rest_mass)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn collect(values: &[f32], block_max: &[f32], bound: f32, indices: &mut [u32], found: &mut [f32]) -> usize {
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    let bounds = _mm512_set1_ps(bound);
    let mut count = 0;
    let (groups_of_max, rest_of_max) = block_max[..blocks.len()].as_chunks::<LANES>();
    for (number, group) in groups_of_max.iter().enumerate() {
        let mut high = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(load(group), bounds);
        while high != 0 {
            let block = number * LANES + high.trailing_zeros() as usize;
            count += collect_block(&blocks[block], block, bounds, &mut indices[count..], &mut found[count..]);
            high &= high - 1;
        }
    }
    let first = blocks.len() - rest_of_max.len();
    for (block, &max) in (first..).zip(rest_of_max) {
        if max >= bound {
            count += collect_block(&blocks[block], block, bounds, &mut indices[count..], &mut found[count..]);
        }
    }
    count + portable::collect_block(rest, blocks.len(), bound, &mut indices[count..], &mut found[count..])
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn keep_from(values: &mut [f32], weights: &mut [f32], ids: &mut [u32], bound: f32) -> usize {
    let len = values.len();
    let (weights, ids) = (&mut weights[..len], &mut ids[..len]);
    let bounds = _mm512_set1_ps(bound);
    let mut kept = 0;
    for first in (0..len).step_by(LANES) {
        let present = u16::MAX >> (LANES - (len - first).min(LANES));
        // SAFETY: lanes that are not present are neither read nor written, and what is written lies at most where it was
        // read: `kept` is at most `first`.
        unsafe {
            let value = _mm512_maskz_loadu_ps(present, values.as_ptr().add(first));
            let weight = _mm512_maskz_loadu_ps(present, weights.as_ptr().add(first));
            let id = _mm512_maskz_loadu_epi32(present, ids.as_ptr().add(first).cast());
            let keep = _mm512_mask_cmp_ps_mask::<_CMP_GE_OQ>(present, value, bounds);
            _mm512_mask_storeu_ps(values.as_mut_ptr().add(kept), present, _mm512_maskz_compress_ps(keep, value));
            _mm512_mask_storeu_ps(weights.as_mut_ptr().add(kept), present, _mm512_maskz_compress_ps(keep, weight));
            _mm512_mask_storeu_epi32(ids.as_mut_ptr().add(kept).cast(), present, _mm512_maskz_compress_epi32(keep, id));
            kept += keep.count_ones() as usize;
        }
    }
    kept
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn collect_block(block: &[f32; BLOCK], number: usize, bounds: __m512, indices: &mut [u32], found: &mut [f32]) -> usize {
    let (indices, found) = (&mut indices[..BLOCK], &mut found[..BLOCK]);
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let mut count = 0;
    for (group, values) in groups(block).into_iter().enumerate() {
        let kept = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(values, bounds);
        let first = _mm512_set1_epi32((number * BLOCK + group * LANES) as i32);
        let ids = _mm512_maskz_compress_epi32(kept, _mm512_add_epi32(first, lanes));
        // SAFETY: `count` is at most LANES times the groups before this one, so LANES places are left.
        unsafe {
            _mm512_storeu_ps(found.as_mut_ptr().add(count), _mm512_maskz_compress_ps(kept, values));
            _mm512_storeu_si512(indices.as_mut_ptr().add(count).cast(), ids);
        }
        count += kept.count_ones() as usize;
    }
    count
}

/// 2^((value - highest) * scale), by the operations of [`exp2`](crate::exp::exp2) in their order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn weighing(highest: f32, scale: f32) -> impl Fn(__m512) -> __m512 {
    let (highest, scale) = (_mm512_set1_ps(highest), _mm512_set1_ps(scale));
    move |values| exp2(_mm512_mul_ps(_mm512_sub_ps(values, highest), scale))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn exp2(x: __m512) -> __m512 {
    let smallest = _mm512_set1_ps(SMALLEST);
    let clamped = _mm512_max_ps(x, smallest);
    let rounded = _mm512_add_ps(clamped, _mm512_set1_ps(ROUNDER));
    let fraction = _mm512_sub_ps(clamped, _mm512_sub_ps(rounded, _mm512_set1_ps(ROUNDER)));
    let mut p = _mm512_set1_ps(LAST_COEFFICIENT);
    for coefficient in COEFFICIENTS {
        p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(coefficient));
    }
    let one = _mm512_castps_si512(_mm512_set1_ps(1.0));
    let power_of_two = _mm512_add_epi32(_mm512_slli_epi32::<23>(_mm512_castps_si512(rounded)), one);
    let normal = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, smallest);
    _mm512_maskz_mul_ps(normal, p, _mm512_castsi512_ps(power_of_two))
}

/// The sum of all lanes, in the order of `portable::reduce`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn add_lanes(lanes: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps::<1>(lanes));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn groups(block: &[f32; BLOCK]) -> [__m512; BLOCK / LANES] {
    let (groups, _) = block.as_chunks::<LANES>();
    [load(&groups[0]), load(&groups[1]), load(&groups[2]), load(&groups[3])]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn load(group: &[f32; LANES]) -> __m512 {
    // SAFETY: the array has as many values as are read.
    unsafe { _mm512_loadu_ps(group.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn store(values: __m512, group: &mut [f32; LANES]) {
    // SAFETY: the array has as many places as are written.
    unsafe { _mm512_storeu_ps(group.as_mut_ptr(), values) }
}
