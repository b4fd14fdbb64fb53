//! exp for the weights of tokens: the same bits on every machine, and a loop over it vectorises.
//!
//! The C library's `expf` differs between systems in its last bit, which would let a sampled text depend on the
//! machine. This one uses only IEEE additions and multiplications, which Rust never contracts.

pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts: the first has trailing zeros, so that `n * LN2_HIGH` is exact for the `n` that occur.
pub const LN2_HIGH: f32 = 0.693_359_4;
pub const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding and subtracting 1.5 * 2^23 rounds to an integer; a call to `round` would not vectorise.
pub const ROUNDER: f32 = 12_582_912.0;
/// Below this exp is a subnormal number: it becomes 0.
pub const SMALLEST: f32 = -87.0;
/// Taylor's polynomial, from the highest power on: |r| <= ln(2) / 2, so the first term left out is below 6e-9.
pub const LAST_COEFFICIENT: f32 = 1.0 / 5040.0;
/// The others.
pub const COEFFICIENTS: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// e^x for x <= 0 (and 0 for x < -87, -inf too), within two units of the last place.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = if x > SMALLEST { x } else { SMALLEST };
    let rounded = clamped * LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = LAST_COEFFICIENT;
    for coefficient in COEFFICIENTS {
        p = p * r + coefficient;
    }
    // The low bits of `rounded` are n itself: shifted and biased they are the exponent of 2^n. A conversion of n to an
    // integer would not vectorise.
    let power_of_two = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x >= SMALLEST { p * power_of_two } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_true_value() {
        for step in 0..87_000 {
            let x = -(step as f32) / 1000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.5e-7, "exp({x}): relative error {error}");
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }
}
