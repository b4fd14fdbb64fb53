//! Logits as the caller has them: float32, bfloat16 or float16, row after row.

use crate::kernels;

/// A block of logits, or one row of it; read in place.
#[derive(Clone, Copy, Debug)]
pub enum Logits<'a> {
    /// IEEE single precision.
    Float32(&'a [f32]),
    /// bfloat16, as bits.
    Bfloat16(&'a [u16]),
    /// IEEE half precision, as bits.
    Float16(&'a [u16]),
}

impl<'a> Logits<'a> {
    /// How many logits there are.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Logits::Float32(values) => values.len(),
            Logits::Bfloat16(bits) | Logits::Float16(bits) => bits.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Row number `row` of rows that have `size` logits each.
    pub(crate) fn row(self, row: usize, size: usize) -> Logits<'a> {
        let range = row * size..(row + 1) * size;
        match self {
            Logits::Float32(values) => Logits::Float32(&values[range]),
            Logits::Bfloat16(bits) => Logits::Bfloat16(&bits[range]),
            Logits::Float16(bits) => Logits::Float16(&bits[range]),
        }
    }

    /// Logit number `index`.
    pub(crate) fn at(self, index: usize) -> f32 {
        let mut value = [0.0];
        match self {
            Logits::Float32(values) => value[0] = values[index],
            Logits::Bfloat16(bits) => kernels::widen_bfloat16(&bits[index..=index], &mut value),
            Logits::Float16(bits) => kernels::widen_float16(&bits[index..=index], &mut value),
        }
        value[0]
    }

    /// The logits themselves where they are float32; else their float32 values, written to `buffer`.
    pub(crate) fn read<'b>(self, buffer: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Logits::Float32(values) => return values,
            Logits::Bfloat16(bits) => {
                buffer.resize(bits.len(), 0.0);
                kernels::widen_bfloat16(bits, buffer);
            }
            Logits::Float16(bits) => {
                buffer.resize(bits.len(), 0.0);
                kernels::widen_float16(bits, buffer);
            }
        }
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(logits: Logits<'_>) -> Vec<f32> {
        logits.read(&mut Vec::new()).to_vec()
    }

    #[test]
    fn half_precision_has_its_values() {
        let table = [
            (0x0000, 0.0),
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x7BFF, 65504.0),
            (0x0400, 2.0_f32.powi(-14)),
            (0x0001, 2.0_f32.powi(-24)),
            (0x83FF, -1023.0 * 2.0_f32.powi(-24)),
            (0x7C00, f32::INFINITY),
            (0xFC00, f32::NEG_INFINITY),
        ];
        for (bits, value) in table {
            assert_eq!(read(Logits::Float16(&[bits])), [value], "{bits:#06x}");
        }
        assert!(read(Logits::Float16(&[0x7E00]))[0].is_nan());
        assert!(read(Logits::Float16(&[0xFC01]))[0].is_nan());
    }

    #[test]
    fn bfloat16_is_the_upper_half() {
        for value in [0.0, -1.5, f32::INFINITY, f32::NEG_INFINITY, 3.0e38_f32] {
            let bits = (value.to_bits() >> 16) as u16;
            assert_eq!(read(Logits::Bfloat16(&[bits]))[0].to_bits(), u32::from(bits) << 16);
        }
    }
}
