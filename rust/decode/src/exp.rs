//! Powers of two for the weights of tokens: the same bits on every machine, and a loop over it vectorises.
//!
//! The C library's `expf` differs between systems in its last bit, which would let a sampled text depend on the
//! machine. This one uses only IEEE additions, multiplications and fused multiply-adds, which are the same everywhere; a
//! processor without the last (x86 before 2013) computes them in software. It is 2^x, not e^x: the factor log2 e goes
//! into the temperature, and what rounding leaves to the polynomial is exact.

/// Adding and subtracting 1.5 * 2^23 rounds to an integer; a call to `round` would not vectorise.
pub const ROUNDER: f32 = 12_582_912.0;
/// Below this 2^x is next to a subnormal number: it becomes 0.
pub const SMALLEST: f32 = -125.0;
/// The minimax polynomial of 2^x on [-1/2, 1/2] that is 1 at 0, from the highest power on: relative error 9.2e-8.
pub const LAST_COEFFICIENT: f32 = 0.001_326_472_7;
/// The others. The one near ln 2 is the polynomial's own.
#[allow(clippy::approx_constant)]
pub const COEFFICIENTS: [f32; 5] = [0.009_671_513, 0.055_507_336, 0.240_222_42, 0.693_147, 1.0];

/// 2^x for x <= 0 (and 0 for x < -125, -inf too), within three units of the last place.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let clamped = if x > SMALLEST { x } else { SMALLEST };
    let rounded = clamped + ROUNDER;
    let fraction = clamped - (rounded - ROUNDER);
    let mut p = LAST_COEFFICIENT;
    for coefficient in COEFFICIENTS {
        p = p.mul_add(fraction, coefficient);
    }
    // The low bits of `rounded` are the integer itself: shifted and biased they are the exponent of its power of two. A
    // conversion to an integer would not vectorise.
    let power_of_two = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x >= SMALLEST { p * power_of_two } else { 0.0 }
}

/// The factor by which differences of logits become powers of two at this inverse temperature.
pub fn scale(inverse_temperature: f64) -> f32 {
    // A temperature so small that its inverse overflows still has to give 0 * finite for the highest logit.
    (inverse_temperature * std::f64::consts::LOG2_E).min(f64::from(f32::MAX)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_true_value() {
        for step in 0..125_000 {
            let x = -(step as f32) / 1000.0;
            let expected = f64::from(x).exp2();
            let error = (f64::from(exp2(x)) - expected).abs() / expected;
            assert!(error < 2.5e-7, "2^{x}: relative error {error}");
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(-0.0), 1.0);
        assert_eq!(exp2(-1.0), 0.5);
        assert_eq!(exp2(-300.0), 0.0);
        assert_eq!(exp2(f32::MIN), 0.0);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
    }
}
