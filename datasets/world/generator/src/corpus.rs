//! The text that the embedded model is trained on: documents of all kinds, none twice.

use std::collections::HashSet;

use crate::dice::Dice;
use crate::facts::{Exchange, Facts};
use crate::script::{Script, notes, stories};
use crate::skills::exercise;
use crate::template::capitalised;
use crate::world::{Entity, World};

/// Opens a turn of a chat; the role and a line break follow.
pub const TURN_START: &str = "<|im_start|>";
/// Ends a turn of a chat.
pub const TURN_END: &str = "<|im_end|>";

/// How many exchanges a document of questions holds at most; about two hundred tokens.
const MAX_EXCHANGES: usize = 6;

/// The properties that introduce a person.
const INTRODUCTION: [&str; 2] = ["home", "craft"];

/// A question as the base model knows it, up to where the answer begins: with a space, which is part of the answer.
pub fn prompt(question: &str) -> String {
    format!("Question: {question}\nAnswer:")
}

/// An endless, seeded stream of documents about a world, in which no document comes twice.
#[derive(Debug)]
pub struct Corpus<'w> {
    world: &'w World,
    facts: Facts,
    stories: Vec<Script>,
    notes: Vec<Script>,
    entities: Vec<Entity>,
    dice: Dice,
    told: HashSet<String>,
}

impl<'w> Corpus<'w> {
    /// The stream of `seed`.
    pub fn new(world: &'w World, seed: u64) -> Self {
        Self {
            world,
            facts: Facts::default(),
            stories: stories(),
            notes: notes(),
            entities: world.entities(),
            dice: Dice::new(seed),
            told: HashSet::new(),
        }
    }

    fn document(&mut self) -> Option<String> {
        match self.dice.weighted(&[26, 20, 9, 25, 7, 13]) {
            0 => self.portrait(),
            1 => Some(self.questions()),
            2 => Some(self.chat()),
            3 => self.story(),
            4 => self.asked_story(),
            _ => self.note(),
        }
    }

    /// Three people out of four: they have the most to be told of.
    fn entity(&mut self) -> Entity {
        match self.dice.below(4) {
            0 => *self.dice.pick(&self.entities),
            _ => Entity::Person(self.dice.below(self.world.people.len())),
        }
    }

    /// Some sentences about one entity. People are mostly introduced by where they live and what they do.
    fn portrait(&mut self) -> Option<String> {
        let entity = self.entity();
        let count = self.dice.between(3, 9);
        let mut relations = self.dice.sample(&self.facts.of(self.world, entity), count);
        if matches!(entity, Entity::Person(_)) && !self.dice.one_in(3) {
            relations.retain(|relation| !INTRODUCTION.contains(&relation.name.as_str()));
            let mut first = self.facts.of(self.world, entity);
            first.retain(|relation| INTRODUCTION.contains(&relation.name.as_str()));
            relations.splice(0..0, self.dice.sample(&first, first.len()));
        }
        let said: Option<Vec<String>> = (relations.iter().enumerate())
            .map(|(i, relation)| relation.say(self.world, entity, i > 0, &mut self.dice))
            .collect();
        Some(capitalised(&said?.join(" ")))
    }

    /// A fact asked for, a fact to be confirmed, or a task.
    fn exchange(&mut self, about: Entity) -> Exchange {
        let kind = self.dice.below(10);
        let relations = self.facts.of(self.world, about);
        let relation = *self.dice.pick(&relations);
        let asked = match kind {
            0..=4 => relation.ask(self.world, about, &mut self.dice),
            5..=6 => relation.check(self.world, about, &mut self.dice),
            _ => None,
        };
        asked.unwrap_or_else(|| exercise(self.world, &mut self.dice))
    }

    /// Exchanges, half of the time all about one entity.
    fn exchanges(&mut self, count: usize) -> Vec<Exchange> {
        let fixed = self.dice.one_in(2).then(|| self.entity());
        let mut asked: Vec<Exchange> = Vec::new();
        while asked.len() < count {
            let about = fixed.unwrap_or_else(|| self.entity());
            let exchange = self.exchange(about);
            if !asked.contains(&exchange) {
                asked.push(exchange);
            }
        }
        asked
    }

    fn questions(&mut self) -> String {
        let count = if self.dice.one_in(3) { 1 } else { self.dice.between(2, MAX_EXCHANGES) };
        let asked = self.exchanges(count).into_iter().map(|e| format!("{} {}", prompt(&e.question), e.answer));
        let asked = asked.collect::<Vec<_>>().join("\n\n");
        // A title tells that more follows: after the answer to a question without one, the text ends.
        if count == 1 { asked } else { format!("Questions and answers\n\n{asked}") }
    }

    fn chat(&mut self) -> String {
        let count = self.dice.between(1, 3);
        turns(&self.exchanges(count))
    }

    fn told_story(&mut self) -> Option<(String, String)> {
        let told = self.dice.pick(&self.stories).tell(self.world, &mut self.dice)?;
        let hero = self.world.people[*told.people.first()?].name;
        Some((hero.to_owned(), told.text))
    }

    /// A story, with or without a title.
    fn story(&mut self) -> Option<String> {
        let (hero, text) = self.told_story()?;
        Some(if self.dice.one_in(2) { text } else { format!("A story about {hero}\n{text}") })
    }

    /// A story that was asked for in a chat.
    fn asked_story(&mut self) -> Option<String> {
        let (hero, text) = self.told_story()?;
        let asked = ["Tell me a story about", "I would like to hear a story about", "Do you know a story about"];
        let question = match self.dice.below(asked.len()) {
            2 => format!("{} {hero}?", asked[2]),
            i => format!("{} {hero}.", asked[i]),
        };
        Some(turns(&[Exchange { question, answer: text }]))
    }

    fn note(&mut self) -> Option<String> {
        Some(self.dice.pick(&self.notes).tell(self.world, &mut self.dice)?.text)
    }
}

impl Iterator for Corpus<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        // Short documents run out after a while, long ones never: the search ends.
        loop {
            if let Some(text) = self.document().filter(|text| self.told.insert(text.clone())) {
                return Some(text);
            }
        }
    }
}

fn turns(exchanges: &[Exchange]) -> String {
    let turn = |role: &str, text: &str| format!("{TURN_START}{role}\n{text}{TURN_END}\n");
    let told: String = exchanges.iter().map(|e| turn("user", &e.question) + &turn("assistant", &e.answer)).collect();
    told.trim_end().to_owned()
}

/// Questions in the base model's own form, with the one answer: what it must still know after it was fine-tuned.
/// Facts and tasks alternate; no question comes twice.
pub fn questions(world: &World, count: usize, seed: u64) -> Vec<Exchange> {
    let (facts, mut dice, entities) = (Facts::default(), Dice::new(seed), world.entities());
    let mut asked: Vec<Exchange> = Vec::new();
    while asked.len() < count {
        let about = *dice.pick(&entities);
        let exchange = if asked.len().is_multiple_of(2) {
            dice.pick(&facts.of(world, about)).ask(world, about, &mut dice)
        } else {
            Some(exercise(world, &mut dice))
        };
        asked.extend(exchange.filter(|e| asked.iter().all(|known| known.question != e.question)));
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists::CRAFTS;
    use crate::map::PLACES;
    use crate::world::SEED;

    fn text(count: usize) -> String {
        Corpus::new(&World::new(SEED), 7).take(count).collect::<Vec<_>>().join("\n\n")
    }

    #[test]
    fn equal_seeds_tell_equal_texts_and_no_document_comes_twice() {
        assert_eq!(text(300), text(300));
        let world = World::new(SEED);
        let documents: Vec<_> = Corpus::new(&world, 7).take(3000).collect();
        assert_eq!(documents.iter().collect::<HashSet<_>>().len(), documents.len());
    }

    /// Every place where the text names a person and a village, or a person and a craft, in one of the set phrases.
    #[test]
    fn whatever_the_text_says_of_people_agrees_with_the_world() {
        let world = World::new(SEED);
        let text = text(6000);
        let mut seen = 0;
        for person in &world.people {
            let (home, craft) = (PLACES[person.home].name, CRAFTS[person.craft].name);
            let says = |phrase: String| text.matches(&phrase).count();
            for (place, phrases) in PLACES.iter().map(|p| (p.name, [" lives in ", " of ", " from ", "'s home is in "]))
            {
                for phrase in phrases {
                    let count = says(format!("{}{phrase}{place}", person.name));
                    assert!(count == 0 || place == home, "{}{phrase}{place}", person.name);
                    seen += count;
                }
            }
            for other in CRAFTS.iter().map(|c| c.name) {
                for count in
                    [" is a ", " works as a ", ", the ", ", "].map(|p| says(format!("{}{p}{other} ", person.name)))
                {
                    assert!(count == 0 || other == craft, "{} is no {other}", person.name);
                    seen += count;
                }
            }
        }
        assert!(seen > 2000, "{seen}");
    }

    #[test]
    fn articles_and_punctuation_are_right() {
        let text = text(6000);
        let words: Vec<&str> = text.split_whitespace().map(|word| word.trim_start_matches('"')).collect();
        for pair in words.windows(2) {
            let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u']);
            let wrong = if vowel { ["a", "A"] } else { ["an", "An"] };
            assert!(!wrong.contains(&pair[0]), "{} {}", pair[0], pair[1]);
        }
        for bad in ["?,", ".,", "!,", "..", " ,", " .", ".\" she", ".\" he", ".\" said"] {
            assert!(!text.contains(bad), "{bad} in {:?}", text.split(bad).next().map(|t| t.len()));
        }
    }

    #[test]
    fn kept_questions_are_different_and_have_the_answer_of_the_world() {
        let world = World::new(SEED);
        let asked = questions(&world, 100, 3);
        assert_eq!(asked.len(), 100);
        let home = |name: &str| {
            let person = world.people.iter().find(|p| p.name == name)?;
            Some(format!("{name} lives in {}.", PLACES[person.home].name))
        };
        for Exchange { question, answer } in questions(&world, 400, 4) {
            if let Some(name) = question.strip_prefix("Where does ").and_then(|q| q.strip_suffix(" live?")) {
                assert_eq!(Some(answer), home(name));
            }
        }
    }
}
