//! Tensors of several adapters made into one: sums, pruned sums and TIES.

use crate::random::TensorRng;

/// How the numbers of several tensors become one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The weighted sum.
    Linear,
    /// The weighted sum of each one's largest values.
    MagnitudePrune,
    /// Each one's largest values; of those only the ones with the sign that prevails, averaged (Yadav et al. 2023,
    /// arXiv:2306.01708).
    Ties,
    /// The weighted sum of values kept at random and scaled up (Yu et al. 2023, arXiv:2311.03099).
    DareLinear,
    /// [`Rule::Ties`] of values kept at random and scaled up.
    DareTies,
}

/// Which sign prevails in TIES.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MajoritySign {
    /// The sign of the sum.
    #[default]
    Total,
    /// The sign of most values.
    Frequency,
}

/// The values that a [`Rule`] needs beside the tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pruning {
    /// The share of values kept.
    pub(crate) density: f64,
    pub(crate) majority: MajoritySign,
}

/// Combines tensors of one size, each with its weight.
pub(crate) fn combine(rule: Rule, tensors: &[(f64, Vec<f32>)], pruning: Pruning, rng: &mut TensorRng) -> Vec<f32> {
    let kept: Vec<(f64, Vec<f32>)> = tensors
        .iter()
        .map(|(weight, values)| {
            let values = match rule {
                Rule::Linear => values.clone(),
                Rule::MagnitudePrune | Rule::Ties => largest(values, pruning.density),
                Rule::DareLinear | Rule::DareTies => at_random(values, pruning.density, rng),
            };
            (*weight, values)
        })
        .collect();
    let n = kept.first().map_or(0, |(_, values)| values.len());
    let ties = matches!(rule, Rule::Ties | Rule::DareTies);
    (0..n).map(|i| if ties { agreed(&kept, i, pruning.majority) } else { sum(&kept, i) }).collect()
}

fn sum(tensors: &[(f64, Vec<f32>)], i: usize) -> f32 {
    tensors.iter().map(|(weight, values)| *weight as f32 * values[i]).sum()
}

/// The mean of the `i`th values that have the prevailing sign.
fn agreed(tensors: &[(f64, Vec<f32>)], i: usize, majority: MajoritySign) -> f32 {
    let votes = tensors.iter().map(|(_, values)| match majority {
        MajoritySign::Total => values[i],
        MajoritySign::Frequency => sign(values[i]),
    });
    let prevailing = if votes.sum::<f32>() >= 0.0 { 1.0 } else { -1.0 };
    let agreeing = tensors.iter().filter(|(_, values)| sign(values[i]) == prevailing);
    let count = agreeing.clone().count().max(1) as f32;
    agreeing.map(|(weight, values)| *weight as f32 * values[i]).sum::<f32>() / count
}

fn sign(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { value.signum() }
}

/// The largest values by magnitude, the others zero.
fn largest(values: &[f32], density: f64) -> Vec<f32> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].abs().total_cmp(&values[a].abs()));
    let keep = ((density * values.len() as f64) as usize).min(values.len());
    let mut kept = vec![0.0; values.len()];
    order[..keep].iter().for_each(|&i| kept[i] = values[i]);
    kept
}

/// Values kept with probability `density` and divided by it, the others zero.
fn at_random(values: &[f32], density: f64, rng: &mut TensorRng) -> Vec<f32> {
    if density >= 1.0 {
        return values.to_vec();
    }
    let draws = rng.uniform(values.len(), 1.0);
    let keep = |draw: f32| f64::from(draw + 1.0) / 2.0 < density;
    values.iter().zip(draws).map(|(v, draw)| if keep(draw) { v / density as f32 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rule: Rule, density: f64, majority: MajoritySign) -> Vec<f32> {
        let tensors =
            [(1.0, vec![4.0, -1.0, 2.0, 0.0]), (0.5, vec![-2.0, -3.0, 8.0, 1.0]), (1.0, vec![-1.0, 0.5, 1.0, 0.0])];
        combine(rule, &tensors, Pruning { density, majority }, &mut TensorRng::new(1, "t"))
    }

    #[test]
    fn each_rule_by_hand() {
        let total = MajoritySign::Total;
        assert_eq!(run(Rule::Linear, 1.0, total), [2.0, -2.0, 7.0, 0.5]);
        assert_eq!(run(Rule::MagnitudePrune, 0.5, total), [3.0, -1.5, 7.0, 0.0]);
        assert_eq!(run(Rule::Ties, 1.0, total), [4.0, -1.25, 7.0 / 3.0, 0.5]);
        assert_eq!(run(Rule::Ties, 1.0, MajoritySign::Frequency), [-1.0, -1.25, 7.0 / 3.0, 0.5]);
        assert_eq!(run(Rule::DareLinear, 1.0, total), run(Rule::Linear, 1.0, total));
    }

    #[test]
    fn random_pruning_keeps_the_mean() {
        let values = vec![1.0; 40_000];
        let kept = at_random(&values, 0.3, &mut TensorRng::new(2, "d"));
        let mean = kept.iter().sum::<f32>() / kept.len() as f32;
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        assert!(kept.iter().all(|v| *v == 0.0 || (v - 1.0 / 0.3).abs() < 1e-5));
    }
}
