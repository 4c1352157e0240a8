//! A micro-batch on the host: right-padded, rectangular, with targets already shifted.

/// The label that marks a position without a target, as in Transformers.
pub const IGNORE_INDEX: i32 = -100;

/// The first label of an example whose first token is padding: it sees nothing and no token sees it, but the second token
/// is predicted from it, as Transformers does in rows that are padded on the left.
pub const UNSEEN_INDEX: i32 = -101;

/// One training example: token ids, and a label for each of them.
///
/// Labels are aligned with the ids as in Transformers: `labels[t]` is what position `t - 1` is to predict, and
/// [`IGNORE_INDEX`] takes no part in the loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// As long as `input_ids`. The first one is never a target; it may be [`UNSEEN_INDEX`].
    pub labels: Vec<i32>,
}

impl Example {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether its first token is padding.
    fn begins_unseen(&self) -> bool {
        self.labels.first() == Some(&UNSEEN_INDEX)
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Labels that take part in the loss. The first one never does: nothing comes before it.
    pub fn num_targets(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&label| label != IGNORE_INDEX).count()
    }
}

/// A rectangular micro-batch of `B` rows of `S` positions, right-padded; matrices are flat and row-major.
///
/// Its loss is the sum over its targets divided by [`step_targets`](Self::step_targets), so that adding up the
/// micro-batches of a step gives the mean over all target tokens of that step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Rows, `B`.
    pub batch: usize,
    /// Positions a row, `S`: the longest row's length.
    pub seq: usize,
    /// Token ids `[B*S]`, the pad id after a row's end.
    pub input_ids: Vec<i32>,
    /// `[B*S]`: the id that each position is to predict, or [`IGNORE_INDEX`]. Never one of another example.
    pub targets: Vec<i32>,
    /// Tokens in each row `[B]`.
    pub lengths: Vec<usize>,
    /// For packed rows, and rows that begin with padding, `[B*S]`: which example of its row a token belongs to, from 0; −1 on
    /// padding.
    pub segments: Option<Vec<i32>>,
    /// For the same rows `[B*S]`: the position within the example, from 0; 0 on padding.
    pub positions: Option<Vec<i32>>,
    /// Flat indices `b*S + t` of the positions that have a target, ascending.
    pub target_positions: Vec<i32>,
    /// The targets at those positions.
    pub target_ids: Vec<i32>,
    /// Targets in the whole optimiser step that this micro-batch is part of (a lone batch: its own).
    pub step_targets: usize,
    /// Which micro-batch of its step this is, from 0.
    pub micro: usize,
}

impl Batch {
    /// One example a row.
    pub fn collate(examples: &[&Example], pad_id: u32) -> Self {
        let mut batch = Self::packed(&examples.iter().map(|&example| vec![example]).collect::<Vec<_>>(), pad_id);
        if !examples.iter().any(|example| example.begins_unseen()) {
            (batch.segments, batch.positions) = (None, None);
        }
        batch
    }

    /// Several examples a row, one after the other; `segments` and `positions` keep them apart.
    pub fn packed(rows: &[Vec<&Example>], pad_id: u32) -> Self {
        let lengths: Vec<usize> = rows.iter().map(|row| row.iter().map(|example| example.len()).sum()).collect();
        let seq = lengths.iter().copied().max().unwrap_or(0);
        let cells = rows.len() * seq;
        let mut input_ids = vec![pad_id as i32; cells];
        let mut targets = vec![IGNORE_INDEX; cells];
        let mut segments = vec![-1; cells];
        let mut positions = vec![0; cells];
        for (b, row) in rows.iter().enumerate() {
            let mut at = b * seq;
            for (segment, example) in row.iter().enumerate() {
                for (t, &id) in example.input_ids.iter().enumerate() {
                    input_ids[at + t] = id as i32;
                    segments[at + t] = if t == 0 && example.begins_unseen() { -1 } else { segment as i32 };
                    positions[at + t] = t as i32;
                }
                // The last token of an example predicts nothing: what follows is padding or another example.
                for (t, &label) in example.labels.iter().enumerate().skip(1) {
                    targets[at + t - 1] = label;
                }
                at += example.len();
            }
        }
        let (target_positions, target_ids): (Vec<i32>, Vec<i32>) =
            (0..).zip(&targets).filter(|&(_, &target)| target != IGNORE_INDEX).unzip();
        Self {
            batch: rows.len(),
            seq,
            input_ids,
            lengths,
            segments: Some(segments),
            positions: Some(positions),
            step_targets: target_ids.len(),
            micro: 0,
            targets,
            target_positions,
            target_ids,
        }
    }

    /// Tokens that are not padding.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Positions that have a target.
    pub fn num_targets(&self) -> usize {
        self.target_ids.len()
    }
}

/// Tells every batch of one optimiser step its place in it, and how many targets the step has.
pub(crate) fn share_step_targets(batches: &mut [Batch]) {
    let total = batches.iter().map(Batch::num_targets).sum();
    for (micro, batch) in batches.iter_mut().enumerate() {
        (batch.step_targets, batch.micro) = (total, micro);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[u32], labels: &[i32]) -> Example {
        Example { input_ids: ids.to_vec(), labels: labels.to_vec() }
    }

    #[test]
    fn rows_are_padded_on_the_right_and_targets_shifted() {
        let (a, b) = (example(&[5, 6, 7], &[-100, 6, 7]), example(&[8, 9], &[8, 9]));
        let batch = Batch::collate(&[&a, &b], 1);
        assert_eq!((batch.batch, batch.seq, batch.tokens()), (2, 3, 5));
        assert_eq!(batch.input_ids, [5, 6, 7, 8, 9, 1]);
        assert_eq!(batch.targets, [6, 7, -100, 9, -100, -100]);
        assert_eq!(batch.lengths, [3, 2]);
        assert_eq!(batch.target_positions, [0, 1, 3]);
        assert_eq!(batch.target_ids, [6, 7, 9]);
        assert_eq!((batch.num_targets(), batch.step_targets), (3, 3));
        assert_eq!((batch.segments, batch.positions), (None, None));
    }

    #[test]
    fn packed_examples_do_not_predict_each_other() {
        let (a, b, c) = (example(&[5, 6], &[5, 6]), example(&[7, 8, 9], &[7, -100, 9]), example(&[4], &[4]));
        let batch = Batch::packed(&[vec![&a, &b], vec![&c]], 0);
        assert_eq!(batch.input_ids, [5, 6, 7, 8, 9, 4, 0, 0, 0, 0]);
        assert_eq!(batch.targets, [6, -100, -100, 9, -100, -100, -100, -100, -100, -100]);
        assert_eq!(batch.segments.as_deref(), Some(&[0, 0, 1, 1, 1, 0, -1, -1, -1, -1][..]));
        assert_eq!(batch.positions.as_deref(), Some(&[0, 1, 0, 1, 2, 0, 0, 0, 0, 0][..]));
        assert_eq!(batch.lengths, [5, 1]);
    }

    #[test]
    fn padding_at_the_beginning_belongs_to_no_segment() {
        let (a, b) = (example(&[0, 6, 7], &[UNSEEN_INDEX, 6, 7]), example(&[8, 9], &[8, 9]));
        let batch = Batch::collate(&[&a, &b], 1);
        assert_eq!(batch.segments.as_deref(), Some(&[-1, 0, 0, 0, 0, -1][..]));
        assert_eq!(batch.target_ids, [6, 7, 9]);
        assert_eq!(a.num_targets(), 2);
    }

    #[test]
    fn an_examples_first_label_is_no_target() {
        assert_eq!(example(&[1, 2, 3], &[1, -100, 3]).num_targets(), 1);
        assert_eq!(example(&[1], &[1]).num_targets(), 0);
    }
}
