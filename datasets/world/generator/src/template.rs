//! Sentences with slots and alternatives.
//!
//! `[One|Another] morning {a} met {b.friend}, {b.friend.their} {^b.craft}.`: of the alternatives in square brackets one
//! is taken (they nest); a path in braces is looked up in the world, with a caret its first letter is made a capital.

use crate::dice::Dice;
use crate::world::{Entity, Value, World};

/// The meaning of the first word of a path.
#[derive(Debug, Clone)]
pub struct Scope<'w> {
    world: &'w World,
    names: Vec<(String, Value)>,
}

impl<'w> Scope<'w> {
    /// A scope that knows no name yet.
    pub fn new(world: &'w World) -> Self {
        Self { world, names: Vec::new() }
    }

    /// The world that paths are looked up in.
    pub fn world(&self) -> &'w World {
        self.world
    }

    /// Lets `name` stand for `value` from now on, whatever it stood for before.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.names.retain(|(known, _)| known != name);
        self.names.push((name.to_owned(), value.into()));
    }

    /// The target of `path` (`a`, `a.home.flag`): none where it leads nowhere.
    pub fn get(&self, path: &str) -> Option<Value> {
        let mut keys = path.split('.');
        let first = keys.next()?;
        let (_, start) = self.names.iter().find(|(name, _)| name == first)?;
        keys.try_fold(start.clone(), |value, key| match value {
            Value::Entity(entity) => self.world.get(entity, key),
            Value::Text(_) => None,
        })
    }

    /// The words for what `path` leads to.
    pub fn text(&self, path: &str) -> Option<String> {
        Some(match self.get(path)? {
            Value::Entity(entity) => self.world.name(entity),
            Value::Text(text) => text,
        })
    }

    /// The entities named so far.
    pub fn entities(&self) -> impl Iterator<Item = Entity> + '_ {
        self.names.iter().filter_map(|(_, value)| match value {
            Value::Entity(entity) => Some(*entity),
            Value::Text(_) => None,
        })
    }
}

/// Fills a template in: none when a slot that was reached leads nowhere, as for the pet of a person who has none.
pub fn fill(template: &str, scope: &Scope<'_>, dice: &mut Dice) -> Option<String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['[', '{']) {
        out.push_str(&rest[..at]);
        let inside = &rest[at + 1..];
        if rest[at..].starts_with('{') {
            let end = inside.find('}')?;
            let path = &inside[..end];
            out.push_str(&match path.strip_prefix('^') {
                Some(path) => capitalised(&scope.text(path)?),
                None => scope.text(path)?,
            });
            rest = &inside[end + 1..];
        } else {
            let (choices, end) = alternatives(inside)?;
            let choice = dice.pick(&choices);
            out.push_str(&fill(choice, scope, dice)?);
            rest = &inside[end..];
        }
    }
    out.push_str(rest);
    Some(out)
}

/// The alternatives up to the closing bracket, and where the text goes on behind it.
fn alternatives(text: &str) -> Option<(Vec<&str>, usize)> {
    let (mut choices, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' if depth > 0 => depth -= 1,
            '|' if depth == 0 => {
                choices.push(&text[start..at]);
                start = at + 1;
            }
            ']' => {
                choices.push(&text[start..at]);
                return Some((choices, at + 1));
            }
            _ => {}
        }
    }
    None
}

/// `text` with a capital at its beginning.
pub fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::SEED;
    use std::collections::HashSet;

    #[test]
    fn slots_follow_their_path_and_alternatives_are_all_reached() {
        let world = World::new(SEED);
        let mut scope = Scope::new(&world);
        scope.set("p", Entity::Place(0));
        let mut dice = Dice::new(1);
        let told: HashSet<_> =
            (0..50).filter_map(|_| fill("[{p}|The [one|other] {p.flag} {^p.flag}] end", &scope, &mut dice)).collect();
        let expected = ["Tallow Bay end", "The one blue Blue end", "The other blue Blue end"];
        assert_eq!(told, expected.map(String::from).into());
    }

    #[test]
    fn a_slot_that_leads_nowhere_and_an_open_bracket_give_nothing() {
        let world = World::new(SEED);
        let mut scope = Scope::new(&world);
        scope.set("p", Entity::Place(0));
        for bad in ["{q}", "{p.pet}", "{p.flag.flag}", "[a|b", "{p"] {
            assert_eq!(fill(bad, &scope, &mut Dice::new(1)), None, "{bad}");
        }
    }

    #[test]
    fn a_name_set_again_stands_for_the_new_value() {
        let world = World::new(SEED);
        let mut scope = Scope::new(&world);
        scope.set("p", Entity::Place(0));
        scope.set("p", "here");
        assert_eq!(scope.text("p").as_deref(), Some("here"));
    }
}
