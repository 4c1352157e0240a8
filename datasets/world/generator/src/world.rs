//! The world as one thing that can be asked: every entity answers to its name and to the names of its properties.

use crate::dice::Dice;
use crate::lists::{
    COLOURS, CRAFTS, DISHES, FEARS, FESTIVALS, HOBBIES, MONTHS, Method, NUMBERS, PETS, TREASURES, WEEKDAYS,
};
use crate::map::{PLACES, nearest};
use crate::people::{PEOPLE, Person, settle};

/// The seed of the world that the embedded model knows.
pub const SEED: u64 = 1;

/// Something in the world that sentences are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Entity {
    /// An index into [`World::people`].
    Person(usize),
    /// An index into [`PLACES`].
    Place(usize),
    /// An index into [`CRAFTS`].
    Craft(usize),
    /// An index into [`DISHES`].
    Dish(usize),
    /// An index into [`FESTIVALS`].
    Festival(usize),
    /// An index into [`MONTHS`].
    Month(usize),
    /// An index into [`WEEKDAYS`].
    Weekday(usize),
    /// A number: words up to twenty, digits above.
    Number(usize),
}

/// The value of a property: another entity, which has properties of its own, or plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Another entity.
    Entity(Entity),
    /// Text that is final.
    Text(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<Entity> for Value {
    fn from(entity: Entity) -> Self {
        Value::Entity(entity)
    }
}

/// All people, and through the constant lists all else that exists.
#[derive(Debug, Clone)]
pub struct World {
    /// The inhabitants.
    pub people: Vec<Person>,
}

impl World {
    /// The world of `seed`; [`SEED`] is the one the embedded model knows.
    pub fn new(seed: u64) -> Self {
        Self { people: settle(&mut Dice::new(seed)) }
    }

    /// Every entity that facts are told of, kind by kind.
    pub fn entities(&self) -> Vec<Entity> {
        (0..PEOPLE)
            .map(Entity::Person)
            .chain((0..PLACES.len()).map(Entity::Place))
            .chain((0..CRAFTS.len()).map(Entity::Craft))
            .chain((0..DISHES.len()).map(Entity::Dish))
            .chain((0..FESTIVALS.len()).map(Entity::Festival))
            .chain((0..MONTHS.len()).map(Entity::Month))
            .chain((0..WEEKDAYS.len()).map(Entity::Weekday))
            .collect()
    }

    /// The people of a place, in the order of [`World::people`].
    pub fn folk(&self, place: usize) -> Vec<usize> {
        (0..self.people.len()).filter(|&p| self.people[p].home == place).collect()
    }

    /// The oldest person of a place.
    pub fn elder(&self, place: usize) -> usize {
        self.folk(place).into_iter().rev().max_by_key(|&p| self.people[p].age).unwrap_or(0)
    }

    /// How an entity is called in a sentence: `Mara`, `potter`, `the Apple Fair`, `seven`.
    pub fn name(&self, entity: Entity) -> String {
        match entity {
            Entity::Person(i) => self.people[i].name.into(),
            Entity::Place(i) => PLACES[i].name.into(),
            Entity::Craft(i) => CRAFTS[i].name.into(),
            Entity::Dish(i) => DISHES[i].name.into(),
            Entity::Festival(i) => FESTIVALS[i].name.into(),
            Entity::Month(i) => MONTHS[i].0.into(),
            Entity::Weekday(i) => WEEKDAYS[i].into(),
            Entity::Number(n) => NUMBERS.get(n).map_or_else(|| n.to_string(), |word| (*word).into()),
        }
    }

    /// The property `key` of an entity: none where the entity lacks it (a person without a pet) or no such key exists.
    pub fn get(&self, entity: Entity, key: &str) -> Option<Value> {
        match entity {
            Entity::Person(i) => self.of_person(i, key),
            Entity::Place(i) => self.of_place(i, key),
            Entity::Craft(i) => of_craft(i, key),
            Entity::Dish(i) => of_dish(i, key),
            Entity::Festival(i) => of_festival(i, key),
            Entity::Month(i) => of_month(i, key),
            Entity::Weekday(i) => match key {
                "next" => Some(Entity::Weekday((i + 1) % WEEKDAYS.len()).into()),
                "last" => Some(Entity::Weekday((i + WEEKDAYS.len() - 1) % WEEKDAYS.len()).into()),
                _ => None,
            },
            Entity::Number(n) => (key == "digits").then(|| Value::Text(n.to_string())),
        }
    }

    fn of_person(&self, i: usize, key: &str) -> Option<Value> {
        let person = &self.people[i];
        let by_sex = |woman: &str, man: &str| Some(if person.woman { woman } else { man }.into());
        let kin = |p: Option<usize>| p.map(|p| Entity::Person(p).into());
        match key {
            "they" => by_sex("she", "he"),
            "them" => by_sex("her", "him"),
            "their" => by_sex("her", "his"),
            "word" => by_sex("woman", "man"),
            "spouseword" => by_sex("wife", "husband"),
            "childword" => by_sex("daughter", "son"),
            "parentword" => by_sex("mother", "father"),
            "siblingword" => by_sex("sister", "brother"),
            "pairword" => match person.sibling {
                Some(other) if self.people[other].woman == person.woman => by_sex("sisters", "brothers"),
                Some(_) => Some("brother and sister".into()),
                None => None,
            },
            "home" => Some(Entity::Place(person.home).into()),
            "craft" => Some(Entity::Craft(person.craft).into()),
            "age" => Some(Value::Text(person.age.to_string())),
            "dish" => Some(Entity::Dish(person.dish).into()),
            "fear" => Some(FEARS[person.fear].into()),
            "object" => Some(TREASURES[person.treasure].into()),
            "colour" => Some(COLOURS[person.colour].into()),
            "treasure" => {
                Some(Value::Text(with_article(&format!("{} {}", COLOURS[person.colour], TREASURES[person.treasure]))))
            }
            "hobby" => Some(HOBBIES[person.hobby].into()),
            "month" => Some(Entity::Month(person.month).into()),
            "friend" => kin(Some(person.friend)),
            "spouse" => kin(person.spouse),
            "mother" => kin(person.parents.map(|(mother, _)| mother)),
            "father" => kin(person.parents.map(|(_, father)| father)),
            "sibling" => kin(person.sibling),
            "firstchild" => kin(person.children.first().copied()),
            "lastchild" => kin(person.children.last().copied()),
            "pet" => person.pet.map(|(kind, _)| PETS[kind].into()),
            "apet" => person.pet.map(|(kind, _)| Value::Text(with_article(PETS[kind]))),
            "petname" => person.pet.map(|(_, name)| name.into()),
            _ => None,
        }
    }

    fn of_place(&self, i: usize, key: &str) -> Option<Value> {
        let place = &PLACES[i];
        match key {
            "side" => Some(place.side().into()),
            "miles" => Some(Entity::Number(place.miles()).into()),
            "flag" => Some(place.flag.into()),
            "land" => Some(place.land.into()),
            "fame" => Some(place.fame.into()),
            "near" => Some(Entity::Place(nearest(i)).into()),
            "nearmiles" => Some(Entity::Number(place.miles_to(&PLACES[nearest(i)])).into()),
            "elder" => Some(Entity::Person(self.elder(i)).into()),
            "folk" => {
                let names: Vec<_> = self.folk(i).into_iter().map(|p| self.people[p].name).collect();
                names.split_last().map(|(last, rest)| Value::Text(format!("{} and {last}", rest.join(", "))))
            }
            "feast" => FESTIVALS.iter().position(|f| f.place == i).map(|f| Entity::Festival(f).into()),
            _ => None,
        }
    }
}

fn of_craft(i: usize, key: &str) -> Option<Value> {
    let craft = &CRAFTS[i];
    match key {
        "good" => Some(craft.good.into()),
        "agood" => Some(Value::Text(with_article(craft.good))),
        "goods" => Some(craft.goods.into()),
        "material" => Some(craft.material.into()),
        "tool" => Some(craft.tool.into()),
        "price" => Some(Entity::Number(craft.price).into()),
        _ => None,
    }
}

fn of_dish(i: usize, key: &str) -> Option<Value> {
    let dish = &DISHES[i];
    let made = |method: Method| (dish.method == method).then(|| "yes".into());
    match key {
        "one" => Some(dish.parts[0].into()),
        "two" => Some(dish.parts[1].into()),
        "three" => Some(dish.parts[2].into()),
        "boiled" => made(Method::Boil),
        "baked" => made(Method::Bake),
        "fried" => made(Method::Fry),
        "method" => Some(["boiled", "baked", "fried"][dish.method as usize].into()),
        "where" => Some(["in a pot of water", "in the oven", "in a pan"][dish.method as usize].into()),
        _ => None,
    }
}

fn of_festival(i: usize, key: &str) -> Option<Value> {
    let festival = &FESTIVALS[i];
    match key {
        "month" => Some(Entity::Month(festival.month).into()),
        "day" => Some(Value::Text(festival.day.to_string())),
        "place" => Some(Entity::Place(festival.place).into()),
        "dish" => Some(Entity::Dish(festival.dish).into()),
        "deed" => Some(festival.deed.into()),
        _ => None,
    }
}

fn of_month(i: usize, key: &str) -> Option<Value> {
    let count = MONTHS.len();
    match key {
        "season" => Some(MONTHS[i].1.into()),
        "warm" => matches!(MONTHS[i].1, "spring" | "summer").then(|| "yes".into()),
        "cold" => matches!(MONTHS[i].1, "autumn" | "winter").then(|| "yes".into()),
        "next" => Some(Entity::Month((i + 1) % count).into()),
        "last" => Some(Entity::Month((i + count - 1) % count).into()),
        "feast" => FESTIVALS.iter().position(|f| f.month == i).map(|f| Entity::Festival(f).into()),
        _ => None,
    }
}

/// `a kite`, `an orange kite`.
pub(crate) fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_make_equal_worlds_and_others_do_not() {
        let told = |seed| format!("{:?}", World::new(seed).people);
        assert_eq!(told(1), told(1));
        assert_ne!(told(1), told(2));
    }

    #[test]
    fn an_elder_lives_in_the_place_and_nobody_there_is_older() {
        let world = World::new(SEED);
        for place in 0..PLACES.len() {
            let elder = &world.people[world.elder(place)];
            assert_eq!(elder.home, place);
            assert!(world.folk(place).iter().all(|&p| world.people[p].age <= elder.age));
        }
    }

    #[test]
    fn an_orange_thing_takes_another_article_than_a_red_one() {
        assert_eq!(
            (with_article("orange kite"), with_article("red kite")),
            ("an orange kite".into(), "a red kite".into())
        );
    }
}
