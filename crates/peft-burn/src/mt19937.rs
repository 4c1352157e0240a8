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
