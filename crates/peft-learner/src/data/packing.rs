//! Several short examples in one row.

use std::collections::BTreeMap;

/// Fills rows of `max_length` tokens with the examples `order`, which are `lengths[i]` long, in that order: a row ends
/// where the next example does not fit any more. An example longer than a row gets one of its own.
pub(super) fn in_order(lengths: &[usize], order: &[usize], max_length: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for &example in order {
        match rows.last_mut() {
            Some(row) if lengths[example] <= room => row.push(example),
            _ => {
                rows.push(vec![example]);
                room = max_length;
            }
        }
        room = room.saturating_sub(lengths[example]);
    }
    rows
}

/// Fills rows of `max_length` tokens, longest examples first, each into the row it leaves the least room in (best-fit
/// decreasing: at most 11/9 of the fewest possible rows). Which of several equally long examples goes where follows
/// `order`; how many rows there are does not depend on it.
pub(super) fn best_fit(lengths: &[usize], order: &[usize], max_length: usize) -> Vec<Vec<usize>> {
    let mut order = order.to_vec();
    order.sort_by_key(|&example| std::cmp::Reverse(lengths[example]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows by the room that is left in them.
    let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for example in order {
        let length = lengths[example];
        let fitting =
            open.range_mut(length..).next().and_then(|(&room, rows)| Some((room, rows.pop()?, rows.is_empty())));
        let (room, row) = match fitting {
            Some((room, row, last)) => {
                if last {
                    open.remove(&room);
                }
                (room, row)
            }
            None => {
                rows.push(Vec::new());
                (max_length, rows.len() - 1)
            }
        };
        rows[row].push(example);
        open.entry(room.saturating_sub(length)).or_default().push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_keeps_the_file_order() {
        assert_eq!(in_order(&[3, 4, 2, 1, 9, 1], &[0, 1, 2, 3, 4, 5], 8), [vec![0, 1], vec![2, 3], vec![4], vec![5]]);
        assert_eq!(in_order(&[3, 4], &[], 8), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn best_fit_closes_the_gaps() {
        // By hand: 6, 5 and 4 open rows; the other 4 joins the 4, then 3 the 5, and 2 the 6.
        assert_eq!(best_fit(&[2, 5, 4, 3, 6, 4], &[0, 1, 2, 3, 4, 5], 8), [vec![4, 0], vec![1, 3], vec![2, 5]]);
    }

    #[test]
    fn nothing_is_lost_doubled_or_overfull() {
        let lengths: Vec<usize> = (0..500).map(|at| 1 + at * 7919 % 60).collect();
        let order: Vec<usize> = (0..lengths.len()).rev().collect();
        for pack in [in_order, best_fit] {
            let rows = pack(&lengths, &order, 64);
            let mut seen = rows.concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..500).collect::<Vec<_>>());
            assert!(rows.iter().all(|row| row.iter().map(|&at| lengths[at]).sum::<usize>() <= 64));
        }
        let total: usize = lengths.iter().sum();
        let rows = best_fit(&lengths, &order, 64).len();
        assert!(total * 100 >= rows * 64 * 98, "{rows} rows for {total} tokens: more than 2% is padding");
        assert_eq!(rows, best_fit(&lengths, &(0..500).collect::<Vec<_>>(), 64).len(), "whatever the order");
    }
}
