//! How likely tokens were.

/// The log-probability of a token, and of those that were the most likely in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// The logarithm of its probability by the model's logits, before temperature, penalties and biases.
    pub logprob: f32,
    /// The most likely tokens with theirs, most likely first.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprob {
    /// Of token `id` where the model gave `logits`, with the `top` most likely ones.
    pub fn new(logits: &[f32], id: u32, top: usize) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
        let log_total = total.ln() as f32 + largest;
        let mut best: Vec<(u32, f32)> = Vec::with_capacity(top + 1);
        for (other, &logit) in logits.iter().enumerate().filter(|_| top > 0) {
            if best.len() < top || best.last().is_some_and(|(_, least)| logit > *least) {
                let at = best.partition_point(|(_, other)| *other >= logit);
                best.insert(at, (other as u32, logit));
                best.truncate(top);
            }
        }
        best.iter_mut().for_each(|(_, logit)| *logit -= log_total);
        let own = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        Self { id, logprob: own - log_total, top: best }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_a_softmax_and_the_first_of_equals_comes_first() {
        let logits = [1.0_f32.ln(), 5.0_f32.ln(), 2.0_f32.ln(), 2.0_f32.ln(), f32::NEG_INFINITY];
        let found = TokenLogprob::new(&logits, 2, 3);
        assert!((found.logprob - 0.2_f32.ln()).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3]);
        assert!((found.top[0].1 - 0.5_f32.ln()).abs() < 1e-6);
        assert!(TokenLogprob::new(&logits, 4, 0).logprob == f32::NEG_INFINITY);
        assert_eq!(TokenLogprob::new(&logits, 0, 20).top.len(), 5);
    }
}
