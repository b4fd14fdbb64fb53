//! The passes over whole rows, compiled for several instruction sets; the CPU's best is taken at run time.
//!
//! All are plain loops over a fixed number of lanes that the compiler turns into vectors: IEEE additions and
//! multiplications in an order that the instruction set does not change, so the bits are the same on every machine.

use crate::exp::exp;

/// Logits per block: the unit in which whole rows are summarised and skipped.
pub const BLOCK: usize = 64;
/// Independent accumulators of a pass.
const LANES: usize = 16;

macro_rules! for_each_instruction_set {
    ($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? = $body:ident) => {
        $(#[$doc])*
        pub fn $name($($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    $body($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    $body($($argument),*)
                }
                if has_avx512() {
                    // SAFETY: the CPU has what the function was compiled for.
                    return unsafe { avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the CPU has what the function was compiled for.
                    return unsafe { avx2($($argument),*) };
                }
            }
            $body($($argument),*)
        }
    };
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

for_each_instruction_set! {
    /// The highest value of each block, and whether any value is NaN (NaN is never the highest).
    maxima(values: &[f32], block_max: &mut Vec<f32>) -> bool = maxima_of
}
for_each_instruction_set! {
    /// The sum of exp((value - highest) * scale) over each block.
    masses(values: &[f32], highest: f32, scale: f32, block_mass: &mut Vec<f64>) = masses_of
}
for_each_instruction_set! {
    /// The sum of x exp(x), x = (value - highest) * scale, over all values.
    surprise(values: &[f32], highest: f32, scale: f32) -> f64 = surprise_of
}
for_each_instruction_set! {
    /// Over all values above -inf: how many, the sum of value - highest, and the sum of its squares.
    moments(values: &[f32], highest: f32) -> (f64, f64, f64) = moments_of
}
for_each_instruction_set! {
    /// bfloat16 as float32.
    widen_bfloat16(bits: &[u16], values: &mut [f32]) = widen_bfloat16_of
}
for_each_instruction_set! {
    /// float16 as float32.
    widen_float16(bits: &[u16], values: &mut [f32]) = widen_float16_of
}

#[inline(always)]
fn maxima_of(values: &[f32], block_max: &mut Vec<f32>) -> bool {
    block_max.resize(values.len().div_ceil(BLOCK), 0.0);
    let mut nan = [false; LANES];
    for (block, result) in values.chunks(BLOCK).zip(block_max) {
        let mut max = [f32::NEG_INFINITY; LANES];
        for_each_lane(block, |lane, value| {
            max[lane] = higher(value, max[lane]);
            nan[lane] |= value.is_nan();
        });
        *result = reduce(max, higher);
    }
    nan.contains(&true)
}

#[inline(always)]
fn masses_of(values: &[f32], highest: f32, scale: f32, block_mass: &mut Vec<f64>) {
    block_mass.resize(values.len().div_ceil(BLOCK), 0.0);
    for (block, result) in values.chunks(BLOCK).zip(block_mass) {
        let mut sum = [0.0_f32; LANES];
        for_each_lane(block, |lane, value| sum[lane] += exp((value - highest) * scale));
        *result = f64::from(reduce(sum, |a, b| a + b));
    }
}

#[inline(always)]
fn surprise_of(values: &[f32], highest: f32, scale: f32) -> f64 {
    let mut total = 0.0;
    for block in values.chunks(BLOCK) {
        let mut sum = [0.0_f32; LANES];
        for_each_lane(block, |lane, value| {
            let x = (value - highest) * scale;
            // The weight of what lies below is 0: the clamp keeps -inf * 0 out.
            sum[lane] += exp(x) * higher(x, -1e3);
        });
        total += f64::from(reduce(sum, |a, b| a + b));
    }
    total
}

#[inline(always)]
fn moments_of(values: &[f32], highest: f32) -> (f64, f64, f64) {
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
fn widen_bfloat16_of(bits: &[u16], values: &mut [f32]) {
    for (&bits, value) in bits.iter().zip(values) {
        *value = f32::from_bits(u32::from(bits) << 16);
    }
}

#[inline(always)]
fn widen_float16_of(bits: &[u16], values: &mut [f32]) {
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
