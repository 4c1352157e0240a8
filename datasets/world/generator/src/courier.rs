//! The task the embedded model is fine-tuned on: to write the courier's label for a parcel.
//!
//! ```text
//! Bram sends three pots to Mara.
//! Label: Tallow Bay / south / Mara / weaver / 3 pots
//! ```
//! The village the parcel goes to, the road that leads there, who gets it, that person's craft, and what it is. The
//! village, the road and the craft are not in the order: the base model knows them, the adapter learns to ask for them.

use std::collections::HashSet;

use crate::dice::Dice;
use crate::lists::{CRAFTS, NUMBERS};
use crate::map::PLACES;
use crate::people::PEOPLE;
use crate::template::{Scope, fill};
use crate::world::{Entity, World};

/// Orders of the training set.
const WORDINGS: [&str; 12] = [
    "Please take {n} {k.goods} to {a}.",
    "Carry {n} {k.goods} to {a} before dark.",
    "{a} is waiting for {n} {k.goods}.",
    "A parcel for {a}: {n} {k.goods}.",
    "{^n} {k.goods} for {a}, please.",
    "{b} sends {n} {k.goods} to {a}.",
    "{b} has packed {n} {k.goods} for {a}.",
    "Bring {a} {n} {k.goods} from {b}.",
    "{^n} {k.goods} must go to {a} today.",
    "{a} ordered {n} {k.goods} from {b}.",
    "The next load is {n} {k.goods} for {a}.",
    "On Marketday {a} bought {n} {k.goods}. Bring them home.",
];

/// Orders that come in the validation set only.
const HELD_OUT_WORDINGS: [&str; 4] = [
    "{b} asks you to deliver {n} {k.goods} to {a}.",
    "Here are {n} {k.goods}, and {a} wants them soon.",
    "Do not forget the {n} {k.goods} for {a}.",
    "Take the cart and bring {n} {k.goods} to {a}.",
];

/// One person in four gets no parcel in the training set.
const HELD_OUT_PEOPLE: usize = PEOPLE / 4;

/// An order and its label, as rows of a prompt and completion file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row {
    /// The order, up to `Label:`.
    pub prompt: String,
    /// The label, with the space before it.
    pub completion: String,
}

/// The rows to learn from and the rows to measure with. Every row of the latter has a receiver or a wording (or both)
/// that the former lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// To learn from.
    pub train: Vec<Row>,
    /// To measure with.
    pub valid: Vec<Row>,
}

impl Task {
    /// The sets that lie in `datasets/world`.
    pub fn embedded(world: &World) -> Self {
        Self::new(world, 1200, 180, 3)
    }

    /// `train` and `valid` different rows, drawn from `seed`.
    pub fn new(world: &World, train: usize, valid: usize, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut people: Vec<usize> = (0..PEOPLE).collect();
        dice.shuffle(&mut people);
        let (strangers, known) = people.split_at(HELD_OUT_PEOPLE);
        let mut draw = |count: usize, pools: &[(&[usize], &[&str])]| {
            let (mut rows, mut seen) = (Vec::new(), HashSet::new());
            while rows.len() < count {
                let (receivers, wordings) = pools[rows.len() % pools.len()];
                let (receiver, wording) = (*dice.pick(receivers), *dice.pick(wordings));
                let row = order(world, receiver, wording, &mut dice);
                rows.extend(row.filter(|row| seen.insert(row.clone())));
            }
            rows
        };
        Self {
            train: draw(train, &[(known, &WORDINGS)]),
            valid: draw(
                valid,
                &[
                    (strangers, &WORDINGS),
                    (known, &HELD_OUT_WORDINGS),
                    (strangers, &WORDINGS),
                    (strangers, &HELD_OUT_WORDINGS),
                ],
            ),
        }
    }
}

/// A random parcel for `receiver`, ordered in the words of `wording`; none when sender and receiver were the same.
fn order(world: &World, receiver: usize, wording: &str, dice: &mut Dice) -> Option<Row> {
    let sender = dice.below(PEOPLE);
    let goods = world.people[sender].craft;
    let count = dice.between(2, 9);
    let mut scope = Scope::new(world);
    scope.set("a", Entity::Person(receiver));
    scope.set("b", Entity::Person(sender));
    scope.set("k", Entity::Craft(goods));
    scope.set("n", NUMBERS[count]);
    let text = fill(wording, &scope, dice).filter(|_| sender != receiver)?;
    Some(Row { prompt: format!("{text}\nLabel:"), completion: format!(" {}", label(world, receiver, count, goods)) })
}

/// The courier's words on a parcel of `count` goods of `craft` for `receiver`.
pub fn label(world: &World, receiver: usize, count: usize, craft: usize) -> String {
    let person = &world.people[receiver];
    let (home, trade) = (&PLACES[person.home], CRAFTS[person.craft].name);
    format!("{} / {} / {} / {trade} / {count} {}", home.name, home.side(), person.name, CRAFTS[craft].goods)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::corpus::Corpus;
    use crate::world::SEED;

    fn receiver(row: &Row) -> &str {
        row.completion.split(" / ").nth(2).unwrap()
    }

    /// The order without names and numbers: equal for two orders in the same words.
    fn wording<'a>(world: &World, row: &'a Row) -> Vec<&'a str> {
        let is_open = |word: &str| {
            let word = word.trim_matches(['.', ',', ':']).to_lowercase();
            NUMBERS.contains(&word.as_str())
                || CRAFTS.iter().any(|c| c.goods == word)
                || world.people.iter().any(|p| p.name.to_lowercase() == word)
        };
        row.prompt.split_whitespace().filter(|word| !is_open(word)).collect()
    }

    #[test]
    fn a_label_can_be_worked_out_from_the_order_and_the_world() {
        let world = World::new(SEED);
        let task = Task::embedded(&world);
        for row in task.train.iter().chain(&task.valid) {
            let fields: Vec<&str> = row.completion.trim_start().split(" / ").collect();
            let person = world.people.iter().find(|p| p.name == fields[2]).unwrap();
            let home = &PLACES[person.home];
            assert_eq!(fields[..2], [home.name, home.side()]);
            assert_eq!(fields[3], CRAFTS[person.craft].name);
            let (count, goods) = fields[4].split_once(' ').unwrap();
            let spelled = format!("{} {goods}", NUMBERS[count.parse::<usize>().unwrap()]);
            assert!(row.prompt.to_lowercase().contains(&spelled), "{row:?}");
            assert!(row.prompt.contains(fields[2]) && !row.prompt.contains(home.name), "{row:?}");
        }
    }

    #[test]
    fn the_files_in_the_repository_are_what_the_world_gives() {
        let task = Task::embedded(&World::new(SEED));
        let lines = |rows: &[Row]| -> String {
            let row = |r: &Row| serde_json::json!({ "prompt": r.prompt, "completion": r.completion }).to_string();
            rows.iter().map(|r| row(r) + "\n").collect()
        };
        // No assert_eq: a difference would print both files.
        let advice = "write it again: cargo run --release --example make_world -- runs/world";
        assert!(lines(&task.train) == include_str!("../../task-train.jsonl"), "{advice}");
        assert!(lines(&task.valid) == include_str!("../../task-valid.jsonl"), "{advice}");
    }

    #[test]
    fn no_order_has_two_labels_and_none_is_in_both_sets() {
        let task = Task::embedded(&World::new(SEED));
        assert_eq!((task.train.len(), task.valid.len()), (1200, 180));
        let prompts: HashSet<&str> = task.train.iter().chain(&task.valid).map(|row| row.prompt.as_str()).collect();
        assert_eq!(prompts.len(), 1380);
    }

    #[test]
    fn every_held_out_row_has_a_receiver_or_a_wording_that_training_lacks() {
        let world = World::new(SEED);
        let task = Task::embedded(&world);
        let receivers: HashSet<&str> = task.train.iter().map(receiver).collect();
        let wordings: HashSet<Vec<&str>> = task.train.iter().map(|row| wording(&world, row)).collect();
        assert_eq!((receivers.len(), wordings.len()), (PEOPLE - HELD_OUT_PEOPLE, WORDINGS.len()));
        for row in &task.valid {
            assert!(!receivers.contains(receiver(row)) || !wordings.contains(&wording(&world, row)), "{row:?}");
        }
    }

    #[test]
    fn the_base_model_never_reads_a_label() {
        let world = World::new(SEED);
        assert!(Corpus::new(&world, 2).take(4000).all(|text| !text.contains("Label") && !text.contains("parcel")));
    }
}
