//! The passes over whole rows and over long lists, for several instruction sets; the CPU's best is taken at run time.
//!
//! All use IEEE additions, multiplications and fused multiply-adds in an order that the instruction set does not change: 16 lanes within
//! blocks of 64 values, lanes in pairs, blocks in double precision. So the bits are the same on every machine.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Values per block: the unit in which whole rows are summarised and skipped.
pub const BLOCK: usize = 64;
/// Independent accumulators of a pass.
pub const LANES: usize = 16;

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// A function that calls the portable one, compiled for AVX2 where the CPU has it, or one written for AVX-512.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?) => {
        $(#[$doc])*
        pub fn $name($($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    portable::$name($($argument),*)
                }
                if has_avx512() {
                    // SAFETY: the CPU has what the function was compiled for.
                    return unsafe { avx512::$name($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the CPU has what the function was compiled for.
                    return unsafe { avx2($($argument),*) };
                }
            }
            portable::$name($($argument),*)
        }
    };
}

kernel! {
    /// The highest value of each block, and whether any value is NaN (NaN is never the highest).
    maxima(values: &[f32], block_max: &mut [f32]) -> bool
}
kernel! {
    /// The highest value of each block among those whose bit of `mask` (i % 32 of word i / 32) is set; -inf where none is.
    allowed_maxima(values: &[f32], mask: &[u32], block_max: &mut [f32])
}
kernel! {
    /// The sum of 2^((value - highest) * scale) over each block.
    masses(values: &[f32], highest: f32, scale: f32, block_mass: &mut [f64])
}
kernel! {
    /// The sum of exp(value - highest) over all values, up to some thousands, within 1e-6 of it. Unlike the others it may
    /// differ between instruction sets, in its last bits.
    mass(values: &[f32], highest: f32) -> f64
}
kernel! {
    /// 2^((value - highest) * scale) of each value.
    weigh(values: &[f32], highest: f32, scale: f32, weights: &mut [f32])
}
kernel! {
    /// The sum of x 2^x, x = (value - highest) * scale, over all values.
    surprise(values: &[f32], highest: f32, scale: f32) -> f64
}
kernel! {
    /// Over all values above -inf: how many, the sum of value - highest, and the sum of its squares.
    moments(values: &[f32], highest: f32) -> (f64, f64, f64)
}
kernel! {
    /// How many values are at least `bound`.
    count_from(values: &[f32], bound: f32) -> usize
}
kernel! {
    /// How many keys are at least `bound`, and the sum of their weights.
    mass_from(keys: &[f32], weights: &[f32], bound: f32) -> (usize, f64)
}
kernel! {
    /// Of the mass of all blocks a part that surely lies in values of at least `bound`: of a block that reaches it, its
    /// highest value's weight, or all but what the others weigh together at most if they do not: `below`.
    mass_at_least(block_max: &[f32], block_top: &[f32], block_mass: &[f32], bound: f32, below: f32) -> f32
}
kernel! {
    /// Writes the indices of the values that are at least `bound`, in order, and the values; gives their number.
    /// `block_max` holds the highest value of each block; `found` and `indices` have a block more room than values.
    collect(values: &[f32], block_max: &[f32], bound: f32, indices: &mut [u32], found: &mut [f32]) -> usize
}
kernel! {
    /// Moves what belongs to values of at least `bound` to the front of all three, in order; gives the number of these.
    keep_from(values: &mut [f32], weights: &mut [f32], ids: &mut [u32], bound: f32) -> usize
}
kernel! {
    /// The lowest and the highest of values that are no NaN; infinities the other way round if there are none.
    range(values: &[f32]) -> (f32, f32)
}
kernel! {
    /// bfloat16 as float32.
    widen_bfloat16(bits: &[u16], values: &mut [f32])
}
kernel! {
    /// float16 as float32.
    widen_float16(bits: &[u16], values: &mut [f32])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes around those of lanes and blocks; ties, zeros of both signs, -inf.
    fn rows() -> impl Iterator<Item = Vec<f32>> {
        [1, 15, 16, 17, 63, 64, 65, 129, 1000, 4096].into_iter().map(|size| {
            let value = |step| {
                let [a, b] = crate::rng::uniforms(size, step);
                if b < 0.1 { f32::NEG_INFINITY } else { ((a * 100.0).round() - 60.0) as f32 * 0.1 }
            };
            (0..size).map(value).collect()
        })
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for values in rows() {
            let blocks = values.len().div_ceil(BLOCK);
            let (mut a, mut b) = (vec![0.0; blocks], vec![1.0; blocks]);
            assert_eq!(maxima(&values, &mut a), portable::maxima(&values, &mut b));
            assert_eq!(a, b);
            let block_max = a.clone();
            for words in [0, u32::MAX, 0x0f0f_5511] {
                let mask = vec![words; values.len().div_ceil(32)];
                let allowed = |id: usize| words >> (id % 32) & 1 == 1;
                let values: Vec<f32> = values.iter().map(|&value| if value == 0.0 { 0.0 } else { value }).collect();
                let of_allowed = |id| if allowed(id) { values[id] } else { f32::NEG_INFINITY };
                let kept: Vec<f32> = (0..values.len()).map(of_allowed).collect();
                let (mut a, mut b) = (vec![7.0; blocks], vec![1.0; blocks]);
                allowed_maxima(&values, &mask, &mut a);
                portable::maxima(&kept, &mut b);
                assert_eq!(a, b);
            }
            let (mut a, mut b) = (vec![0.0; blocks], vec![1.0; blocks]);
            masses(&values, 4.0, 0.7, &mut a);
            portable::masses(&values, 4.0, 0.7, &mut b);
            assert_eq!(a, b);
            let exact: f64 = values.iter().map(|&value| f64::from(value - 4.0).exp()).sum();
            for sum in [mass(&values, 4.0), portable::mass(&values, 4.0)] {
                assert!((sum - exact).abs() <= 1e-6 * exact, "{sum} {exact}");
            }
            let (mut weights, mut b) = (vec![0.0; values.len()], vec![1.0; values.len()]);
            weigh(&values, 4.0, 0.7, &mut weights);
            portable::weigh(&values, 4.0, 0.7, &mut b);
            assert_eq!(weights, b);
            assert_eq!(surprise(&values, 4.0, 0.7), portable::surprise(&values, 4.0, 0.7));
            assert_eq!(moments(&values, 4.0), portable::moments(&values, 4.0));
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(range(&values), (least, most));
            for bound in [f32::NEG_INFINITY, -2.0, 0.0, 3.9, 4.1] {
                let bounded = mass_at_least(&values, &weights, &weights, bound, 0.5);
                assert_eq!(bounded, portable::mass_at_least(&values, &weights, &weights, bound, 0.5));
                assert_eq!(count_from(&values, bound), values.iter().filter(|&&value| value >= bound).count());
                assert_eq!(
                    mass_from(&values, &weights, bound),
                    portable::mass_from(&values, &weights, bound),
                    "{bound} {}",
                    values.len()
                );
                let ids: Vec<u32> = (0..values.len() as u32).collect();
                let (mut a, mut b) =
                    ((values.clone(), weights.clone(), ids.clone()), (values.clone(), weights.clone(), ids));
                let count = keep_from(&mut a.0, &mut a.1, &mut a.2, bound);
                assert_eq!(count, portable::keep_from(&mut b.0, &mut b.1, &mut b.2, bound));
                assert_eq!(
                    (&a.0[..count], &a.1[..count], &a.2[..count]),
                    (&b.0[..count], &b.1[..count], &b.2[..count])
                );
                let room = values.len() + BLOCK;
                let (mut indices, mut found) = (vec![0; room], vec![0.0; room]);
                let count = collect(&values, &block_max, bound, &mut indices, &mut found);
                let expected: Vec<(u32, f32)> =
                    (0..).zip(values.iter().copied()).filter(|&(_, value)| value >= bound).collect();
                let got: Vec<(u32, f32)> = indices.into_iter().zip(found).take(count).collect();
                assert_eq!(got, expected);
            }
        }
    }

    #[test]
    fn nan_is_found_wherever_it_stands() {
        for size in [1, 16, 64, 70, 200] {
            for place in 0..size {
                let mut values = vec![1.0; size];
                values[place] = f32::NAN;
                assert!(maxima(&values, &mut vec![0.0; size.div_ceil(BLOCK)]), "{place} of {size}");
            }
        }
    }
}
