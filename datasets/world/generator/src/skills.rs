//! Small tasks that are asked like facts but must be worked out: sums, counts, sorting, comparing, prices.

use crate::dice::Dice;
use crate::facts::Exchange;
use crate::lists::{COLOURED, CRAFTS, NUMBERS, OPPOSITES, WORDS};
use crate::map::PLACES;
use crate::people::PEOPLE;
use crate::template::capitalised;
use crate::world::{World, with_article};

/// How many kinds of task there are.
const KINDS: usize = 17;

/// A task of a random kind. Equal questions have equal answers.
pub fn exercise(world: &World, dice: &mut Dice) -> Exchange {
    let kind = dice.below(KINDS);
    exercise_of(kind, world, dice)
}

fn exercise_of(kind: usize, world: &World, dice: &mut Dice) -> Exchange {
    let (a, b) = (dice.between(1, 10), dice.between(1, 10));
    let words = |dice: &mut Dice, count: usize| dice.sample(&WORDS, count);
    let craft = *dice.pick(&CRAFTS);
    let (question, answer) = match kind {
        0 => (format!("What is {a} plus {b}?"), format!("{a} plus {b} is {}.", a + b)),
        1 => (format!("What is {} minus {b}?", a + b), format!("{} minus {b} is {a}.", a + b)),
        2 => {
            let (n, price) = (dice.between(2, 5), dice.between(2, 9));
            (format!("What is {n} times {price}?"), format!("{n} times {price} is {}.", n * price))
        }
        3 => {
            let n = dice.below(NUMBERS.len());
            (
                format!("How is {} written in digits?", NUMBERS[n]),
                format!("{} is written {n}.", capitalised(NUMBERS[n])),
            )
        }
        4 => {
            let (count, word) = (dice.between(2, 6), dice.pick(&WORDS));
            let row = vec![*word; count].join(" ");
            (format!("How often is the word written: {row}?"), format!("It is written {} times.", NUMBERS[count]))
        }
        5 => {
            let mut row = words(dice, 3);
            let question = format!("Sort these words: {}.", row.join(", "));
            row.sort_unstable();
            (question, format!("{}.", row.join(", ")))
        }
        6 => {
            let count = dice.between(2, 4);
            let row = words(dice, count).join(", ");
            (format!("Repeat these words: {row}."), format!("{row}."))
        }
        7 => {
            let row = words(dice, 3);
            (format!("Which word is last: {}?", row.join(", ")), format!("The last word is {}.", row[2]))
        }
        8 => {
            let row = words(dice, 3);
            (format!("Which word is first: {}?", row.join(", ")), format!("The first word is {}.", row[0]))
        }
        9 => {
            let mut row = words(dice, 3);
            let question = format!("Say these words backwards: {}.", row.join(", "));
            row.reverse();
            (question, format!("{}.", row.join(", ")))
        }
        10 => {
            let (thing, colour) = dice.pick(&COLOURED);
            (format!("What colour is {thing}?"), format!("{} is {colour}.", capitalised(thing)))
        }
        11 => {
            let (one, other) = *dice.pick(&OPPOSITES);
            let (one, other) = if dice.one_in(2) { (one, other) } else { (other, one) };
            (format!("What is the opposite of {one}?"), format!("The opposite of {one} is {other}."))
        }
        12 => older(world, dice),
        13 => further(dice),
        14 => same_village(world, dice),
        15 => {
            let n = dice.between(2, 5);
            let (count, one, total) = (NUMBERS[n], capitalised(&with_article(craft.good)), n * craft.price);
            (
                format!("What do {count} {} cost?", craft.goods),
                format!(
                    "{one} costs {} pennies, so {count} {} cost {total} pennies.",
                    NUMBERS[craft.price], craft.goods
                ),
            )
        }
        _ => {
            let maker = &world.people[dice.below(PEOPLE)];
            let (name, goods) = (maker.name, CRAFTS[maker.craft].goods);
            (
                format!("{name} has {} {goods} and makes {} more. How many are there now?", a + 1, b + 1),
                format!("{} plus {} is {}, so {name} has {} {goods}.", a + 1, b + 1, a + b + 2, a + b + 2),
            )
        }
    };
    Exchange { question, answer }
}

fn two_people(world: &World, dice: &mut Dice, fit: impl Fn(usize, usize) -> bool) -> (usize, usize) {
    loop {
        let pair = (dice.below(world.people.len()), dice.below(world.people.len()));
        if pair.0 != pair.1 && fit(pair.0, pair.1) {
            return pair;
        }
    }
}

fn older(world: &World, dice: &mut Dice) -> (String, String) {
    let age = |p: usize| world.people[p].age;
    let (a, b) = two_people(world, dice, |a, b| age(a) != age(b));
    let (one, other) = (world.people[a].name, world.people[b].name);
    let who = if age(a) > age(b) { one } else { other };
    (
        format!("Who is older, {one} or {other}?"),
        format!("{one} is {} and {other} is {}, so {who} is older.", age(a), age(b)),
    )
}

fn further(dice: &mut Dice) -> (String, String) {
    let (a, b) = loop {
        let (a, b) = (dice.pick(&PLACES), dice.pick(&PLACES));
        if a.miles() != b.miles() {
            break (a, b);
        }
    };
    let (far, near) = (NUMBERS[a.miles()], NUMBERS[b.miles()]);
    let winner = if a.miles() > b.miles() { a.name } else { b.name };
    (
        format!("Which is further from Fennick, {} or {}?", a.name, b.name),
        format!("It is {far} miles to {} and {near} miles to {}, so {winner} is further.", a.name, b.name),
    )
}

fn same_village(world: &World, dice: &mut Dice) -> (String, String) {
    let home = |p: usize| world.people[p].home;
    let same = dice.one_in(2);
    let (a, b) = two_people(world, dice, |a, b| (home(a) == home(b)) == same);
    let (one, other) = (world.people[a].name, world.people[b].name);
    let answer = if same {
        format!("Yes, {one} and {other} live in {}.", PLACES[home(a)].name)
    } else {
        format!("No, {one} lives in {} and {other} lives in {}.", PLACES[home(a)].name, PLACES[home(b)].name)
    };
    (format!("Do {one} and {other} live in the same village?"), answer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::world::SEED;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn equal_questions_have_equal_answers() {
        let (world, mut dice) = (World::new(SEED), Dice::new(1));
        let mut answers = HashMap::new();
        for _ in 0..20_000 {
            let Exchange { question, answer } = exercise(&world, &mut dice);
            let first = answers.entry(question.clone()).or_insert_with(|| answer.clone());
            assert_eq!(*first, answer, "{question}");
        }
    }

    #[test]
    fn sums_and_orders_come_out_right() {
        let (world, mut dice) = (World::new(SEED), Dice::new(2));
        for _ in 0..200 {
            let sum = exercise_of(0, &world, &mut dice).answer;
            let numbers: Vec<usize> = sum.split([' ', '.']).filter_map(|word| word.parse().ok()).collect();
            assert_eq!(numbers[0] + numbers[1], numbers[2]);
            let sorted = exercise_of(5, &world, &mut dice).answer;
            assert!(sorted.trim_end_matches('.').split(", ").is_sorted(), "{sorted}");
        }
    }

    #[test]
    fn who_is_older_agrees_with_the_ages() {
        let (world, mut dice) = (World::new(SEED), Dice::new(3));
        let age = |name: &str| world.people.iter().find(|p| p.name == name).unwrap().age;
        for _ in 0..200 {
            let Exchange { question, answer } = exercise_of(12, &world, &mut dice);
            let names: HashSet<&str> = question["Who is older, ".len()..].trim_end_matches('?').split(" or ").collect();
            let winner = answer.split("so ").nth(1).unwrap().trim_end_matches(" is older.");
            assert!(names.iter().all(|name| *name == winner || age(name) < age(winner)), "{question} {answer}");
        }
    }
}
