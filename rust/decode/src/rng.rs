//! Random numbers as a pure function of (seed, step): Philox4x32-10.
//!
//! Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 3.3. A counter-based
//! generator has no state to keep: any number of the sequence is computed alone, in any order, on any thread.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The last counter word says what a number is for, so that the uses never share one.
const STREAM_SAMPLING: u32 = 0;
const STREAM_SEEDS: u32 = 1;

/// The Philox4x32-10 block of `counter` under `key`.
#[must_use]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
        }
        let (high0, low0) = multiply(MULTIPLIERS[0], counter[0]);
        let (high1, low1) = multiply(MULTIPLIERS[1], counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
    }
    counter
}

/// The two uniform numbers in [0, 1) that sequence `seed` has at `step`: 53 bits each, all of them random. The first
/// draws the token, the second is for a stage that acts at random.
#[must_use]
pub fn uniforms(seed: u64, step: u64) -> [f64; 2] {
    let [a, b, c, d] = block(seed, step, STREAM_SAMPLING);
    [(a, b), (c, d)].map(|(high, low)| {
        let bits = (u64::from(high >> 5) << 26) | u64::from(low >> 6);
        bits as f64 / (1_u64 << 53) as f64
    })
}

/// The seed of sample `index` of those that start from `seed`. Sample 0 has `seed` itself.
#[must_use]
pub fn derive_seed(seed: u64, index: u64) -> u64 {
    if index == 0 {
        return seed;
    }
    let [a, b, ..] = block(seed, index, STREAM_SEEDS);
    (u64::from(b) << 32) | u64::from(a)
}

fn block(seed: u64, position: u64, stream: u32) -> [u32; 4] {
    let (low, high) = halves(position);
    let (key0, key1) = halves(seed);
    philox4x32([low, high, 0, stream], [key0, key1])
}

fn multiply(a: u32, b: u32) -> (u32, u32) {
    let (low, high) = halves(u64::from(a) * u64::from(b));
    (high, low)
}

fn halves(x: u64) -> (u32, u32) {
    (x as u32, (x >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors ship with Random123 (kat_vectors, "philox4x32 10").
    #[test]
    fn known_answers() {
        let ones = u32::MAX;
        let table = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in table {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn uniform_stays_in_range_and_has_the_right_mean() {
        let draws: Vec<f64> = (0..50_000).flat_map(|step| uniforms(7, step)).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        // The mean of 100,000 draws has standard deviation 0.0009.
        assert!((mean - 0.5).abs() < 0.004, "{mean}");
    }

    #[test]
    fn derived_seeds_differ_and_the_first_is_the_seed() {
        let mut seeds: Vec<u64> = (0..1000).map(|index| derive_seed(42, index)).collect();
        assert_eq!(seeds[0], 42);
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 1000);
    }
}
