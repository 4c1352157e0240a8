//! Facts: the properties of each entity, their wordings, and the questions and answers about them. The wordings are in
//! `text/facts.txt`.

use crate::dice::Dice;
use crate::template::{Scope, capitalised, fill};
use crate::world::{Entity, Value, World};

/// A relation that entities of one kind have: many ways to say it and to ask for it, one way to answer.
#[derive(Debug, Clone)]
pub struct Relation {
    /// The kind of entity: `person`, `place`, ...
    pub kind: String,
    /// Its name, unique in its kind.
    pub name: String,
    says: Vec<String>,
    asks: Vec<String>,
    answer: String,
    value: Option<String>,
    checks: Vec<String>,
}

/// All relations, read from the text that is part of the crate.
#[derive(Debug, Clone)]
pub struct Facts {
    relations: Vec<Relation>,
}

impl Default for Facts {
    fn default() -> Self {
        Self::parse(include_str!("../text/facts.txt"))
    }
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Exchange {
    /// The question, with its question mark.
    pub question: String,
    /// The answer, a sentence.
    pub answer: String,
}

impl Facts {
    fn parse(text: &str) -> Self {
        let mut relations: Vec<Relation> = Vec::new();
        let mut kind = String::new();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let rest = rest.to_owned();
            match (word, relations.last_mut()) {
                ("#", _) => kind = rest,
                ("relation", _) => relations.push(Relation {
                    kind: kind.clone(),
                    name: rest,
                    says: Vec::new(),
                    asks: Vec::new(),
                    answer: String::new(),
                    value: None,
                    checks: Vec::new(),
                }),
                ("say", Some(relation)) => relation.says.push(rest),
                ("ask", Some(relation)) => relation.asks.push(rest),
                ("answer", Some(relation)) => relation.answer = rest,
                ("value", Some(relation)) => relation.value = Some(rest),
                ("check", Some(relation)) => relation.checks.push(rest),
                _ => {}
            }
        }
        Self { relations }
    }

    /// The relations that `entity` has.
    pub fn of(&self, world: &World, entity: Entity) -> Vec<&Relation> {
        let kind = kind_of(entity);
        self.relations.iter().filter(|r| r.kind == kind && r.answer(world, entity).is_some()).collect()
    }
}

impl Relation {
    /// One sentence that says what holds for `entity`. With `again` the entity was just spoken of, and a pronoun may
    /// stand for its name.
    pub fn say(&self, world: &World, entity: Entity, again: bool, dice: &mut Dice) -> Option<String> {
        let mut scope = subject(world, entity);
        let pronouns = match entity {
            Entity::Person(i) if world.people[i].woman => ["she", "her", "her"],
            Entity::Person(_) => ["he", "his", "him"],
            _ => ["it", "its", "it"],
        };
        let name = world.name(entity);
        let [s, p, o] = if again && !dice.one_in(4) {
            pronouns.map(String::from)
        } else {
            [name.clone(), format!("{name}'s"), name]
        };
        scope.set("S", capitalised(&s).as_str());
        scope.set("P", capitalised(&p).as_str());
        scope.set("s", s.as_str());
        scope.set("p", p.as_str());
        scope.set("o", o.as_str());
        let wording = dice.pick(&self.says);
        fill(wording, &scope, dice)
    }

    /// The question for what holds for `entity`, in one of its wordings, and the answer.
    pub fn ask(&self, world: &World, entity: Entity, dice: &mut Dice) -> Option<Exchange> {
        let wording = dice.pick(&self.asks);
        let question = fill(wording, &subject(world, entity), dice)?;
        Some(Exchange { question, answer: self.answer(world, entity)? })
    }

    /// The one answer; none where `entity` lacks what is asked for.
    pub fn answer(&self, world: &World, entity: Entity) -> Option<String> {
        // No answer has alternatives, so the dice do not matter.
        fill(&self.answer, &subject(world, entity), &mut Dice::new(0))
    }

    /// A question whose answer begins with yes or no, half of them each: the wrong value is another entity's.
    pub fn check(&self, world: &World, entity: Entity, dice: &mut Dice) -> Option<Exchange> {
        let path = self.value.as_deref()?;
        let mut scope = subject(world, entity);
        let truth = scope.get(path)?;
        let others: Vec<Value> = (world.entities().into_iter())
            .filter(|&other| kind_of(other) == self.kind)
            .filter_map(|other| subject(world, other).get(path))
            .filter(|value| *value != truth && *value != Value::Entity(entity))
            .collect();
        let is_true = dice.one_in(2) || others.is_empty();
        scope.set("v", if is_true { truth } else { dice.pick(&others).clone() });
        let wording = dice.pick(&self.checks);
        let question = fill(wording, &scope, dice)?;
        let answer = self.answer(world, entity)?;
        // An answer that begins with a bare slot begins with a name, which keeps its capital.
        let keeps_capital = self.answer.starts_with("{a}") || self.answer.starts_with("{a.elder");
        let answer = if keeps_capital { answer } else { uncapitalised(&answer) };
        Some(Exchange { question, answer: format!("{}, {answer}", if is_true { "Yes" } else { "No" }) })
    }
}

fn subject(world: &World, entity: Entity) -> Scope<'_> {
    let mut scope = Scope::new(world);
    scope.set("a", entity);
    scope
}

fn kind_of(entity: Entity) -> &'static str {
    match entity {
        Entity::Person(_) => "person",
        Entity::Place(_) => "place",
        Entity::Craft(_) => "craft",
        Entity::Dish(_) => "dish",
        Entity::Festival(_) => "festival",
        Entity::Month(_) => "month",
        Entity::Weekday(_) => "weekday",
        Entity::Number(_) => "number",
    }
}

fn uncapitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::world::SEED;
    use std::collections::HashMap;

    #[test]
    fn every_wording_of_every_relation_can_be_told_of_someone() {
        let (world, facts) = (World::new(SEED), Facts::default());
        assert!(facts.relations.len() > 40);
        for relation in &facts.relations {
            let told: Vec<Entity> = (world.entities().into_iter())
                .filter(|&e| kind_of(e) == relation.kind && relation.answer(&world, e).is_some())
                .collect();
            assert!(!told.is_empty(), "{} {}", relation.kind, relation.name);
            assert!(relation.says.len() > 1 && relation.asks.len() > 1, "{} {}", relation.kind, relation.name);
            let mut dice = Dice::new(1);
            for entity in told {
                for _ in 0..10 {
                    assert!(relation.say(&world, entity, true, &mut dice).is_some(), "{relation:?} {entity:?}");
                    assert!(relation.ask(&world, entity, &mut dice).is_some(), "{relation:?} {entity:?}");
                    if relation.value.is_some() {
                        assert!(relation.check(&world, entity, &mut dice).is_some(), "{relation:?} {entity:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_question_has_one_answer_however_often_it_is_asked() {
        let (world, facts) = (World::new(SEED), Facts::default());
        let mut answers: HashMap<String, String> = HashMap::new();
        let mut dice = Dice::new(2);
        for entity in world.entities().into_iter().cycle().take(4000) {
            for relation in facts.of(&world, entity) {
                for exchange in [relation.ask(&world, entity, &mut dice), relation.check(&world, entity, &mut dice)] {
                    let Some(Exchange { question, answer }) = exchange else { continue };
                    let first = answers.entry(question.clone()).or_insert_with(|| answer.clone());
                    assert_eq!(*first, answer, "{question}");
                }
            }
        }
        assert!(answers.len() > 4000, "{}", answers.len());
    }

    #[test]
    fn yes_and_no_are_said_about_as_often() {
        let (world, facts) = (World::new(SEED), Facts::default());
        let home = facts.of(&world, Entity::Person(0)).into_iter().find(|r| r.name == "home").unwrap();
        let mut dice = Dice::new(3);
        let yes = (0..400)
            .filter(|_| home.check(&world, Entity::Person(0), &mut dice).unwrap().answer.starts_with("Yes"))
            .count();
        assert!((150..250).contains(&yes), "{yes}");
    }
}
