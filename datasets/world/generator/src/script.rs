//! Documents of several sentences (stories, letters, recipes, notes) with a cast: who plays in them is drawn anew each
//! time, the rest is filled in. The scripts are in `text/stories.txt` and `text/notes.txt`.
//!
//! A script begins with `# title`; then come the cast, a line `name = rule` each, and the sentences, a line each: one
//! that begins with `?` is left out half of the time, and `\n` at the end of a line ends a paragraph.

use crate::dice::Dice;
use crate::lists::{CRAFTS, DISHES, FESTIVALS, MONTHS, WEEKDAYS};
use crate::map::PLACES;
use crate::people::PEOPLE;
use crate::template::{Scope, fill};
use crate::world::{Entity, Value, World};

/// How often a cast is drawn before a script is given up, as when nobody is as it wants them.
const DRAWS: usize = 200;

/// A document with open roles.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Its name; not part of the text.
    pub title: String,
    cast: Vec<(String, String)>,
    lines: Vec<String>,
}

/// A document that was told.
#[derive(Debug, Clone)]
pub struct Told {
    /// The people in it, in the order of the cast.
    pub people: Vec<usize>,
    /// The text, without white space at its end.
    pub text: String,
}

/// The stories.
pub fn stories() -> Vec<Script> {
    parse(include_str!("../text/stories.txt"))
}

/// Letters, recipes, market notes, lists and weather logs.
pub fn notes() -> Vec<Script> {
    parse(include_str!("../text/notes.txt"))
}

fn parse(text: &str) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(title) = line.strip_prefix("# ") {
            scripts.push(Script { title: title.into(), ..Script::default() });
        } else if let Some(script) = scripts.last_mut() {
            match line.split_once(" = ") {
                Some((name, rule)) => script.cast.push((name.into(), rule.into())),
                None => script.lines.push(line.into()),
            }
        }
    }
    scripts
}

impl Script {
    /// Tells it with a new cast; none when no cast of many would do.
    pub fn tell(&self, world: &World, dice: &mut Dice) -> Option<Told> {
        (0..DRAWS).find_map(|_| self.tell_once(world, dice))
    }

    fn tell_once(&self, world: &World, dice: &mut Dice) -> Option<Told> {
        let mut scope = Scope::new(world);
        scope.set("m", Entity::Month(dice.below(MONTHS.len())));
        scope.set("d", Entity::Weekday(dice.below(WEEKDAYS.len())));
        scope.set("v", Entity::Festival(dice.below(FESTIVALS.len())));
        scope.set("n", Entity::Number(dice.between(2, 9)));
        let day = dice.between(1, 15);
        scope.set("i", Entity::Number(day));
        scope.set("j", Entity::Number(day + dice.between(1, 12)));
        for (name, rule) in &self.cast {
            let value = draw(rule, &scope, dice)?;
            scope.set(name, value);
        }
        let mut text = String::new();
        for line in &self.lines {
            let line = match line.strip_prefix("? ") {
                Some(_) if dice.one_in(2) => continue,
                Some(line) => line,
                None => line,
            };
            text.push_str(&fill(line, &scope, dice)?.replace("\\n", "\n"));
            if !text.ends_with('\n') {
                text.push(' ');
            }
        }
        let people = (scope.entities())
            .filter_map(|entity| if let Entity::Person(p) = entity { Some(p) } else { None })
            .collect();
        Some(Told { people, text: text.trim_end().replace(" \n", "\n") })
    }
}

/// Draws what a rule of the cast asks for; none where the draw went wrong and another cast may do.
fn draw(rule: &str, scope: &Scope<'_>, dice: &mut Dice) -> Option<Value> {
    let world = scope.world();
    let words: Vec<&str> = rule.split(' ').collect();
    let taken: Vec<Entity> = scope.entities().collect();
    let mut one_of = |candidates: Vec<Entity>| {
        let free: Vec<Entity> = candidates.into_iter().filter(|entity| !taken.contains(entity)).collect();
        (!free.is_empty()).then(|| Value::Entity(*dice.pick(&free)))
    };
    let number = |path: &str| match scope.get(path)? {
        Value::Entity(Entity::Number(n)) => Some(n),
        _ => None,
    };
    match words[..] {
        ["someone"] => one_of((0..PEOPLE).map(Entity::Person).collect()),
        ["neighbour", of] => {
            let Some(Value::Entity(Entity::Person(p))) = scope.get(of) else { return None };
            one_of(world.folk(world.people[p].home).into_iter().map(Entity::Person).collect())
        }
        ["maker", craft] => {
            let Some(Value::Entity(Entity::Craft(k))) = scope.get(craft) else { return None };
            one_of((0..PEOPLE).filter(|&p| world.people[p].craft == k).map(Entity::Person).collect())
        }
        ["place"] => {
            let homes: Vec<usize> = (taken.iter())
                .filter_map(|entity| if let Entity::Person(p) = entity { Some(world.people[*p].home) } else { None })
                .collect();
            one_of((0..PLACES.len()).filter(|p| !homes.contains(p)).map(Entity::Place).collect())
        }
        ["trade"] => one_of((0..CRAFTS.len()).map(Entity::Craft).collect()),
        ["dish"] => one_of((0..DISHES.len()).map(Entity::Dish).collect()),
        ["festival"] => one_of((0..FESTIVALS.len()).map(Entity::Festival).collect()),
        ["has", path] => scope.get(path),
        ["differ", one, other] => (scope.get(one)? != scope.get(other)?).then(|| "yes".into()),
        [low, "to", high] => Some(Entity::Number(dice.between(low.parse().ok()?, high.parse().ok()?)).into()),
        [one, "*", other] => Some(Entity::Number(number(one)? * number(other)?).into()),
        [path] => scope.get(path),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::world::SEED;

    #[test]
    fn every_script_can_be_told_whole() {
        let world = World::new(SEED);
        let mut dice = Dice::new(1);
        for script in stories().iter().chain(&notes()) {
            for _ in 0..60 {
                let told = script.tell(&world, &mut dice);
                let text = told.unwrap_or_else(|| panic!("{} cannot be told", script.title)).text;
                assert!(!text.contains(['[', ']', '{', '}', '\\', '^']), "{}: {text}", script.title);
                assert!(!text.contains("  ") && text.len() > 60, "{}: {text}", script.title);
            }
        }
    }

    #[test]
    fn a_story_is_told_in_many_ways() {
        let world = World::new(SEED);
        let mut dice = Dice::new(2);
        let story = &stories()[0];
        let told: std::collections::HashSet<_> =
            (0..300).filter_map(|_| story.tell(&world, &mut dice)).map(|told| told.text).collect();
        assert!(told.len() > 290, "{}", told.len());
    }

    #[test]
    fn the_sum_of_an_order_is_the_count_times_the_price() {
        let world = World::new(SEED);
        let order = notes().into_iter().find(|s| s.title == "letter of an order").unwrap();
        let mut dice = Dice::new(3);
        for _ in 0..50 {
            let text = order.tell(&world, &mut dice).unwrap().text;
            let craft = CRAFTS.iter().find(|c| text.contains(&format!(" {} for me", c.goods))).unwrap();
            let number = |word: &str| {
                crate::lists::NUMBERS.iter().position(|n| *n == word).unwrap_or_else(|| word.parse().unwrap())
            };
            let word_before = |end: &str| text.split(end).next().unwrap().rsplit(' ').next().unwrap().to_owned();
            let count = number(&word_before(&format!(" {} for me", craft.goods)));
            let total = number(text.split("here are ").nth(1).unwrap().split(' ').next().unwrap());
            assert_eq!(total, count * craft.price, "{text}");
        }
    }
}
