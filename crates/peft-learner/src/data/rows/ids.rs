//! Rows of tokens with their masks.

use serde_json::Value;

use super::options::RowOptions;
use super::shape::{Row, from_text, kind};
use crate::data::batch::{IGNORE_INDEX, UNSEEN_INDEX};
use crate::data::files::RawRow;

/// Takes the tokens of a row out of it.
pub(super) fn read(row: &mut RawRow, options: &RowOptions) -> Result<Row, String> {
    let ids = from_text(row.remove("input_ids").unwrap_or_default());
    let input_ids: Vec<u32> = numbers("input_ids", "token ids", ids, |number| u32::try_from(number).ok())?;
    let length = input_ids.len();
    let labels = list(row, "labels", "token ids or -100", length, |number| {
        i32::try_from(number).ok().filter(|&label| label >= 0 || label == IGNORE_INDEX)
    })?;
    let attention = mask(row, "attention_mask", length)?;
    trivial(row, length)?;
    let completion = mask(row, "completion_mask", length)?.filter(|_| options.completion_only_loss);
    let assistant = mask(row, "assistant_masks", length)?;
    let masks: Vec<&Vec<bool>> = completion.iter().chain(&assistant).collect();
    let learned = |at: usize| masks.iter().all(|mask| mask[at]);
    let labels = match labels {
        // As in TRL, labels that are given are taken as they are.
        Some(labels) => match (1..length).find(|&at| labels[at] != IGNORE_INDEX && !learned(at)) {
            Some(at) => {
                return Err(format!(
                    "`labels` has a target at {at}, which `completion_mask` or `assistant_masks` leaves out; give one of them"
                ));
            }
            None => Some(labels),
        },
        None if masks.is_empty() && attention.is_none() => None,
        None => {
            let seen = |at: usize| attention.as_ref().is_none_or(|seen| seen[at]);
            let label = |(at, &id): (usize, &u32)| if learned(at) && seen(at) { id as i32 } else { IGNORE_INDEX };
            Some(input_ids.iter().enumerate().map(label).collect())
        }
    };
    match attention {
        Some(attention) => without_padding(input_ids, labels, &attention),
        None => Ok(Row::InputIds { input_ids, labels }),
    }
}

/// Cuts off what `attention_mask` hides, on both sides. Where the first token after padding on the left is learned, one token of the padding
/// stays, from which it is predicted, as in Transformers.
fn without_padding(mut ids: Vec<u32>, labels: Option<Vec<i32>>, seen: &[bool]) -> Result<Row, String> {
    let Some(start) = seen.iter().position(|&seen| seen) else {
        return Ok(Row::InputIds { input_ids: Vec::new(), labels: None });
    };
    let end = seen.iter().rposition(|&seen| seen).map_or(start, |last| last + 1);
    if let Some(hole) = (start..end).find(|&at| !seen[at]) {
        return Err(format!(
            "`attention_mask` is 0 at {hole}, between tokens that are seen; only padding at the beginning and the end of a \
             row can be hidden"
        ));
    }
    let mut labels = labels.unwrap_or_else(|| ids.iter().map(|&id| id as i32).collect());
    let hidden = (0..start).chain(end..ids.len());
    if let Some(at) = hidden.skip(usize::from(start > 0)).find(|&at| labels[at] != IGNORE_INDEX) {
        return Err(format!(
            "`labels` has a target at {at}, where `attention_mask` is 0; set it to -100, so that padding is not learned"
        ));
    }
    let from_padding = start > 0 && labels[start] != IGNORE_INDEX;
    let first = start - usize::from(from_padding);
    ids = ids[first..end].to_vec();
    labels = labels[first..end].to_vec();
    if from_padding {
        labels[0] = UNSEEN_INDEX;
    }
    Ok(Row::InputIds { input_ids: ids, labels: Some(labels) })
}

/// Refuses what packs several examples in a row, and takes it out where it says nothing.
fn trivial(row: &mut RawRow, length: usize) -> Result<(), String> {
    let lengths = row.remove("seq_lengths").map(from_text);
    if lengths.is_some_and(|lengths| !lengths.is_null() && lengths != serde_json::json!([length])) {
        return Err(
            "`seq_lengths` says that several examples are packed in it; give each a row, and set data.packing = true"
                .into(),
        );
    }
    let positions = row.remove("position_ids").map(from_text);
    let counting = Value::from((0..length).collect::<Vec<_>>());
    if positions.is_some_and(|positions| !positions.is_null() && positions != counting) {
        return Err("`position_ids` do not count from 0; leave them out, or give each packed example a row".into());
    }
    Ok(())
}

fn mask(row: &mut RawRow, key: &str, length: usize) -> Result<Option<Vec<bool>>, String> {
    list(row, key, "0 and 1", length, |number| (0..2).contains(&number).then_some(number == 1))
}

/// A list as long as `input_ids`, where there is one.
fn list<T>(
    row: &mut RawRow,
    key: &str,
    what: &str,
    length: usize,
    convert: impl Fn(i64) -> Option<T>,
) -> Result<Option<Vec<T>>, String> {
    let values = match from_text(row.remove(key).unwrap_or_default()) {
        Value::Null => return Ok(None),
        values => numbers(key, what, values, convert)?,
    };
    if values.len() != length {
        return Err(format!("{} `{key}` for {length} `input_ids`; there must be one for each", values.len()));
    }
    Ok(Some(values))
}

fn numbers<T>(key: &str, what: &str, list: Value, convert: impl Fn(i64) -> Option<T>) -> Result<Vec<T>, String> {
    let Value::Array(list) = list else {
        return Err(format!("`{key}` must be a list of {what}, not {}", kind(&list)));
    };
    // Tables with gaps hold whole numbers as fractions.
    let whole = |value: f64| (value.fract() == 0.0 && value.abs() < 1e9).then_some(value as i64);
    let number = |value: &Value| {
        value.as_i64().or_else(|| value.as_bool().map(i64::from)).or_else(|| value.as_f64().and_then(whole))
    };
    let convert = |value: &Value| number(value).and_then(&convert);
    list.iter().map(|value| convert(value).ok_or_else(|| format!("`{key}` holds {value}; it takes {what}"))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_row(row: Value) -> Result<(Vec<u32>, Option<Vec<i32>>), String> {
        match read(&mut row.as_object().unwrap().clone(), &RowOptions::default())? {
            Row::InputIds { input_ids, labels } => Ok((input_ids, labels)),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn masks_say_what_is_learned() {
        assert_eq!(read_row(json!({"input_ids": [1, 2]})).unwrap(), (vec![1, 2], None));
        let row =
            json!({"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1], "assistant_masks": [false, true, false]});
        assert_eq!(read_row(row).unwrap().1.unwrap(), [-100, 6, -100]);
        let row = json!({"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1], "labels": [5, 6, 7]});
        assert_eq!(read_row(row).unwrap().1.unwrap(), [5, 6, 7], "labels come first, as in TRL");
        assert_eq!(read_row(json!({"input_ids": [1.0, 2.0]})).unwrap(), (vec![1, 2], None), "of a table with gaps");
        assert_eq!(read_row(json!({"input_ids": "[1, 2]", "labels": null})).unwrap(), (vec![1, 2], None), "of a table");
    }

    #[test]
    fn padding_is_cut_off() {
        let row = json!({"input_ids": [0, 0, 5, 6, 0], "attention_mask": [0, 0, 1, 1, 0]});
        assert_eq!(read_row(row).unwrap(), (vec![0, 5, 6], Some(vec![UNSEEN_INDEX, 5, 6])));
        let labels = json!([-100, -100, -100, 6, -100]);
        let row = json!({"input_ids": [0, 0, 5, 6, 0], "attention_mask": [0, 0, 1, 1, 0], "labels": labels});
        assert_eq!(read_row(row).unwrap(), (vec![5, 6], Some(vec![-100, 6])));
        let row = json!({"input_ids": [5, 6, 0, 0], "attention_mask": [1, 1, 0, 0]});
        assert_eq!(read_row(row).unwrap(), (vec![5, 6], Some(vec![5, 6])));
        let all = json!({"input_ids": [5, 6], "attention_mask": [1, 1]});
        assert_eq!(read_row(all).unwrap(), (vec![5, 6], Some(vec![5, 6])));
        let none = json!({"input_ids": [5, 6], "attention_mask": [0, 0]});
        assert_eq!(read_row(none).unwrap(), (vec![], None));
    }

    #[test]
    fn what_would_change_the_result_is_refused() {
        let error = |row| read_row(row).unwrap_err();
        assert!(error(json!({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]})).contains("is 0 at 1"));
        let row = json!({"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0], "labels": [1, 2, 0]});
        assert!(error(row).contains("a target at 2, where `attention_mask` is 0; set it to -100"));
        let row = json!({"input_ids": [1, 2, 3], "completion_mask": [0, 0, 1], "labels": [1, 2, 3]});
        assert!(error(row).contains("`labels` has a target at 1, which `completion_mask`"));
        assert!(error(json!({"input_ids": [1, 2], "seq_lengths": [1, 1]})).contains("data.packing"));
        assert!(error(json!({"input_ids": [1, 2], "position_ids": [0, 0]})).contains("position_ids"));
        assert!(read_row(json!({"input_ids": [1, 2], "position_ids": [0, 1], "seq_lengths": [2]})).is_ok());
        assert!(error(json!({"input_ids": [1, -2]})).contains("`input_ids` holds -2; it takes token ids"));
        assert!(error(json!({"input_ids": [1, 2], "labels": [-1, 2]})).contains("`labels` holds -1"));
        assert!(error(json!({"input_ids": [1, 2], "labels": [2]})).contains("1 `labels` for 2 `input_ids`"));
        assert!(error(json!({"input_ids": [1.5]})).contains("`input_ids` holds 1.5"));
        assert!(error(json!({"input_ids": "1 2"})).contains("must be a list of token ids, not a string"));
        assert!(error(json!({"input_ids": [1], "attention_mask": [2]})).contains("it takes 0 and 1"));
    }
}
