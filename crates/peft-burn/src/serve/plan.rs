//! Which rows of a batch belong to which adapter.

use std::ops::Range;
use std::sync::Arc;

use super::pack::AdapterPack;

/// Rows that follow each other and have one adapter, or none.
#[derive(Clone, Debug)]
pub struct PlanGroup {
    /// The rows.
    pub rows: Range<usize>,
    /// Their adapter.
    pub pack: Option<Arc<AdapterPack>>,
}

/// Which rows of a batch belong to which adapter: each row to one group.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    groups: Vec<PlanGroup>,
}

fn same(a: Option<&Arc<AdapterPack>>, b: Option<&Arc<AdapterPack>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

impl Plan {
    /// A plan of so many rows for each adapter, one after another. Neighbours with one adapter become one group.
    pub fn new(parts: impl IntoIterator<Item = (Option<Arc<AdapterPack>>, usize)>) -> Self {
        let mut plan = Self::default();
        for (pack, rows) in parts.into_iter().filter(|(_, rows)| *rows > 0) {
            let start = plan.num_rows();
            match plan.groups.last_mut() {
                Some(last) if same(last.pack.as_ref(), pack.as_ref()) => last.rows.end += rows,
                _ => plan.groups.push(PlanGroup { rows: start..start + rows, pack }),
            }
        }
        plan
    }

    /// The plan of some of the rows, which are given in their order.
    pub fn select(&self, rows: &[usize]) -> Self {
        let mut rows = rows.iter().peekable();
        let parts = self.groups.iter().map(|group| {
            let mut count = 0;
            while rows.next_if(|row| group.rows.contains(row)).is_some() {
                count += 1;
            }
            (group.pack.clone(), count)
        });
        Self::new(parts.collect::<Vec<_>>())
    }

    /// The groups, in the order of their rows.
    pub fn groups(&self) -> &[PlanGroup] {
        &self.groups
    }

    /// How many rows there are.
    pub fn num_rows(&self) -> usize {
        self.groups.last().map_or(0, |group| group.rows.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_and_a_selection_keeps_the_order() {
        let [a, b] = [(); 2].map(|()| Arc::new(AdapterPack::default()));
        let plan = Plan::new([(Some(a.clone()), 2), (Some(a.clone()), 1), (None, 2), (Some(b.clone()), 0), (None, 1)]);
        let rows = |plan: &Plan| plan.groups().iter().map(|g| (g.rows.clone(), g.pack.is_some())).collect::<Vec<_>>();
        assert_eq!(rows(&plan), [(0..3, true), (3..6, false)]);
        assert_eq!(rows(&plan.select(&[1, 4, 5])), [(0..1, true), (1..3, false)]);
        assert_eq!(rows(&plan.select(&[5])), [(0..1, false)]);
        assert_eq!(plan.select(&[]).num_rows(), 0);
    }
}
