//! PyTorch's CPU random numbers, bit for bit, for the one place where files depend on them: VeRA's shared projection
//! is not in the file when `save_projection` is false, only the seed is.

/// The Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), as PyTorch seeds and reads it.
struct Mt19937 {
    state: [u32; Self::N],
    next: usize,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    /// PyTorch uses the low 32 bits of the seed.
    fn new(seed: u64) -> Self {
        let mut state = [0; Self::N];
        state[0] = seed as u32;
        for i in 1..Self::N {
            let previous: u32 = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: Self::N }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == Self::N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for i in 0..Self::N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::M) % Self::N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// A `rows` x `columns` matrix, row by row, uniform in ±√(6 / columns): Kaiming's for a ReLU, by fan-in.
    fn kaiming_uniform(&mut self, rows: usize, columns: usize) -> Vec<f32> {
        // The order of operations is PyTorch's; another order moves the last bit.
        let bound = 3f64.sqrt() * (2f64.sqrt() / (columns as f64).sqrt());
        let (low, high) = (-bound as f32, bound as f32);
        let range = high - low;
        let unit = |bits: u32| (bits & 0x00ff_ffff) as f32 * 2f32.powi(-24);
        (0..rows * columns).map(|_| unit(self.next_u32()).mul_add(range, low)).collect()
    }
}

/// VeRA's frozen pair for the seed `projection_prng_key`, equal bit for bit to the one PEFT draws.
///
/// Returns A (`r` x `max_in`) and B (`max_out` x `r`), row by row, where `max_in` and `max_out` are the largest
/// widths among the adapted modules; a module uses the first columns of A and the first rows of B. Always in f32:
/// PEFT rounds the pair to the base model's dtype when that is narrower.
pub fn vera_projection(key: u64, r: usize, max_in: usize, max_out: usize) -> (Vec<f32>, Vec<f32>) {
    let mut generator = Mt19937::new(key);
    let a = generator.kaiming_uniform(r, max_in);
    let b = generator.kaiming_uniform(max_out, r);
    (a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FNV-1a over the bits.
    fn fingerprint(values: impl Iterator<Item = f32>) -> u64 {
        values.fold(0xcbf2_9ce4_8422_2325, |hash, value| {
            (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// Seed, r, max_in, max_out; fingerprint; bits of A's and of B's first and last element: from torch 2.12.1, the
    /// first row also from an adapter that PEFT saved.
    type Case = ((u64, usize, usize, usize), u64, [u32; 4]);
    const TORCH: [Case; 7] = [
        ((42, 16, 128, 64), 0x9cb4_c52c_b2a0_c246, [0x3e29_8007, 0x3e50_f351, 0x3e91_9e62, 0x3e9f_fecf]),
        ((0, 7, 33, 13), 0xc2ed_3d0f_f082_f4b4, [0xbb51_376e, 0x3b98_d551, 0x3f43_7cd3, 0x3dec_c138]),
        ((0, 256, 576, 1536), 0x4dc5_e466_277e_4986, [0xba48_4f41, 0xbd82_45a8, 0x3dd4_2ae7, 0xbd24_b613]),
        ((123_456_789, 3, 5, 2), 0xbc7d_aebc_a133_31f8, [0xbe54_8f6b, 0x3eac_ee91, 0xbf1a_0775, 0xbf36_10be]),
        ((5, 1, 1, 1), 0x0f3b_1021_fa8f_3ba8, [0x3fcf_1741, 0x3fcf_1741, 0xbfea_7454, 0xbfea_7454]),
        ((5 + (1 << 32), 1, 1, 1), 0x0f3b_1021_fa8f_3ba8, [0x3fcf_1741, 0x3fcf_1741, 0xbfea_7454, 0xbfea_7454]),
        ((u64::MAX, 17, 640, 3), 0xd45d_06c1_c62d_bd7f, [0x3dc3_d66f, 0xbd10_7867, 0x3e83_a643, 0xbeaf_7556]),
    ];

    #[test]
    fn the_projection_is_torchs_bit_for_bit() {
        for ((key, r, max_in, max_out), expected, ends) in TORCH {
            let (a, b) = vera_projection(key, r, max_in, max_out);
            assert_eq!((a.len(), b.len()), (r * max_in, max_out * r));
            let bits = |values: &[f32]| [values[0].to_bits(), values[values.len() - 1].to_bits()];
            assert_eq!([bits(&a), bits(&b)].concat(), ends, "ends of key {key}, r {r}");
            assert_eq!(fingerprint(a.into_iter().chain(b)), expected, "all of key {key}, r {r}");
        }
    }
}
