//! The tensors of one module in a file, against the method's configuration.

use std::collections::BTreeMap;

use super::config::MethodConfig;

/// Contradictions in the tensors of one module, by their names after its path and with their shapes.
pub(crate) fn tensor_problems(
    config: &dyn MethodConfig,
    path: &str,
    rank: Option<usize>,
    tensors: &BTreeMap<String, Vec<usize>>,
) -> Vec<String> {
    let mut problems = Vec::new();
    if let (Some(rank), Some(said)) = (rank, config.saved_rank(path))
        && rank != said
    {
        problems.push(format!("{path} has rank {rank}, and its configuration says {said}"));
    }
    for (a, b) in config.factors() {
        match (tensors.get(*a), tensors.get(*b)) {
            (Some(a), Some(b)) if a.first() != b.last() => {
                problems.push(format!("{path}: A is {a:?} and B is {b:?}, which have no rank in common"));
            }
            (Some(_), None) => problems.push(format!("{path} has {a} and no {b}")),
            (None, Some(_)) => problems.push(format!("{path} has {b} and no {a}")),
            _ => {}
        }
    }
    problems
}
