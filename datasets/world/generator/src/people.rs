//! The people of the island: who they are, where they live, what they make, like, fear and own, and who is whose kin.

use crate::dice::Dice;
use crate::lists::{COLOURS, CRAFTS, DISHES, FEARS, HOBBIES, MEN, MONTHS, PET_NAMES, PETS, TREASURES, WOMEN};
use crate::map::PLACES;

/// How many people there are; a person is an index below this.
pub const PEOPLE: usize = WOMEN.len() + MEN.len();

/// One inhabitant. Numbers are indices into the lists named beside them.
#[derive(Debug, Clone)]
pub struct Person {
    /// The name, which no one else has.
    pub name: &'static str,
    /// Woman or man.
    pub woman: bool,
    /// Years.
    pub age: usize,
    /// Into [`PLACES`].
    pub home: usize,
    /// Into [`CRAFTS`]; no two people of a place share one.
    pub craft: usize,
    /// Into [`DISHES`]: the one liked best.
    pub dish: usize,
    /// Into [`FEARS`].
    pub fear: usize,
    /// Into [`TREASURES`].
    pub treasure: usize,
    /// Into [`COLOURS`]: the treasure's.
    pub colour: usize,
    /// Into [`HOBBIES`].
    pub hobby: usize,
    /// Into [`MONTHS`]: of birth.
    pub month: usize,
    /// The best friend, whose best friend this is.
    pub friend: usize,
    /// Husband or wife.
    pub spouse: Option<usize>,
    /// Mother and father.
    pub parents: Option<(usize, usize)>,
    /// The one brother or sister.
    pub sibling: Option<usize>,
    /// Children, eldest first.
    pub children: Vec<usize>,
    /// Into [`PETS`], and the pet's name.
    pub pet: Option<(usize, &'static str)>,
}

impl Person {
    fn is_kin(&self, other: usize) -> bool {
        self.spouse == Some(other)
            || self.sibling == Some(other)
            || self.parents.is_some_and(|(mother, father)| mother == other || father == other)
            || self.children.contains(&other)
    }
}

/// Makes the people of a world: equal dice make equal people.
pub fn settle(dice: &mut Dice) -> Vec<Person> {
    let mut people = found_families(dice);
    let homes: Vec<usize> = people.iter().map(|p| p.home).collect();

    let mut crafts = deal(dice, CRAFTS.len());
    let craft_taken = |crafts: &[usize], person: usize| {
        (0..PEOPLE).any(|p| p != person && homes[p] == homes[person] && crafts[p] == crafts[person])
    };
    while let Some(person) = (0..PEOPLE).find(|&p| craft_taken(&crafts, p)) {
        crafts.swap(person, dice.below(PEOPLE));
    }

    let dishes = deal(dice, DISHES.len());
    let colours = deal(dice, COLOURS.len());
    let months = deal(dice, MONTHS.len());
    let treasures = deal(dice, TREASURES.len());
    let pets = deal(dice, PETS.len());
    let owners: Vec<bool> = deal(dice, 2).into_iter().map(|half| half == 0).collect();
    let pet_of = |p: usize| owners[p].then(|| PETS[pets[p]]);
    let fears = deal_where(dice, FEARS.len(), |p, fear| pet_of(p).is_none_or(|pet| !frightens(FEARS[fear], pet)));
    let hobbies = deal_where(dice, HOBBIES.len(), |p, hobby| !frightens(FEARS[fears[p]], HOBBIES[hobby]));
    let mut pet_names = dice.sample(&PET_NAMES, PET_NAMES.len()).into_iter();

    for (p, person) in people.iter_mut().enumerate() {
        person.craft = crafts[p];
        person.dish = dishes[p];
        person.colour = colours[p];
        person.month = months[p];
        person.treasure = treasures[p];
        person.fear = fears[p];
        person.hobby = hobbies[p];
        person.pet = if owners[p] { pet_names.next().map(|name| (pets[p], name)) } else { None };
    }
    befriend(&mut people, dice);
    people
}

/// Whether someone who fears `fear` would hardly keep such a pet or love to do such a thing.
fn frightens(fear: &str, thing: &str) -> bool {
    match fear {
        "geese" => thing == "goose",
        "deep water" => matches!(thing, "swimming" | "sailing" | "otter" | "fishing"),
        "the dark" => thing == "watching the stars",
        "high places" => thing == "climbing",
        "wolves" => thing == "dog",
        "storms" | "fog" => thing == "sailing",
        "owls" => thing == "raven",
        _ => false,
    }
}

/// Couples with two children each, and pairs of grown brothers and sisters; homes, ages and kin are set.
fn found_families(dice: &mut Dice) -> Vec<Person> {
    let mut people: Vec<Person> =
        (WOMEN.iter().map(|&name| newcomer(name, true))).chain(MEN.iter().map(|&name| newcomer(name, false))).collect();
    let mut women = dice.sample(&(0..WOMEN.len()).collect::<Vec<_>>(), WOMEN.len());
    let mut men = dice.sample(&(WOMEN.len()..PEOPLE).collect::<Vec<_>>(), MEN.len());
    let couples: Vec<(usize, usize)> = women.drain(..PLACES.len()).zip(men.drain(..PLACES.len())).collect();
    let mut rest = [women, men].concat();
    dice.shuffle(&mut rest);
    let mut rest = rest.into_iter();

    let mut movers = Vec::new();
    for (place, &(mother, father)) in couples.iter().enumerate() {
        for (parent, other) in [(mother, father), (father, mother)] {
            people[parent].spouse = Some(other);
            people[parent].home = place;
            people[parent].age = dice.between(40, 58);
        }
        let children: Vec<usize> = rest.by_ref().take(2).collect();
        for (child, age) in children.iter().zip([dice.between(21, 24), dice.between(16, 19)]) {
            people[*child].parents = Some((mother, father));
            people[*child].age = age;
            people[*child].home = place;
        }
        if let [elder, younger] = children[..] {
            make_siblings(&mut people, elder, younger);
            movers.push(elder);
        }
        people[mother].children = children.clone();
        people[father].children = children;
    }
    let singles: Vec<usize> = rest.collect();
    for pair in singles.chunks_exact(2) {
        people[pair[0]].age = dice.between(26, 38);
        people[pair[1]].age = people[pair[0]].age + dice.between(1, 9);
        make_siblings(&mut people, pair[0], pair[1]);
    }
    movers.extend(singles);
    let mut homes: Vec<usize> = (0..movers.len()).map(|i| i % PLACES.len()).collect();
    dice.shuffle(&mut homes);
    for (mover, home) in movers.into_iter().zip(homes) {
        people[mover].home = home;
    }
    people
}

fn newcomer(name: &'static str, woman: bool) -> Person {
    Person {
        name,
        woman,
        age: 0,
        home: 0,
        craft: 0,
        dish: 0,
        fear: 0,
        treasure: 0,
        colour: 0,
        hobby: 0,
        month: 0,
        friend: 0,
        spouse: None,
        parents: None,
        sibling: None,
        children: Vec::new(),
        pet: None,
    }
}

fn make_siblings(people: &mut [Person], a: usize, b: usize) {
    people[a].sibling = Some(b);
    people[b].sibling = Some(a);
}

/// Pairs everyone with a best friend who is not kin.
fn befriend(people: &mut [Person], dice: &mut Dice) {
    let mut order: Vec<usize> = (0..people.len()).collect();
    dice.shuffle(&mut order);
    while let Some(kin) = order.chunks_exact(2).position(|pair| people[pair[0]].is_kin(pair[1])) {
        order.swap(2 * kin, dice.below(people.len()));
    }
    for pair in order.chunks_exact(2) {
        people[pair[0]].friend = pair[1];
        people[pair[1]].friend = pair[0];
    }
}

/// Deals the numbers below `kinds` to all people, each as often as the others (or once less).
fn deal(dice: &mut Dice, kinds: usize) -> Vec<usize> {
    let mut hands: Vec<usize> = (0..PEOPLE).map(|i| i % kinds).collect();
    dice.shuffle(&mut hands);
    hands
}

/// [`deal`] with a condition that nearly every person and number meet.
fn deal_where(dice: &mut Dice, kinds: usize, fits: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let mut hands = deal(dice, kinds);
    while let Some(person) = (0..PEOPLE).find(|&p| !fits(p, hands[p])) {
        hands.swap(person, dice.below(PEOPLE));
    }
    hands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn people() -> Vec<Person> {
        settle(&mut Dice::new(1))
    }

    #[test]
    fn six_people_live_in_each_place_and_none_share_a_craft_there() {
        let people = people();
        for place in 0..PLACES.len() {
            let mut crafts: Vec<_> = people.iter().filter(|p| p.home == place).map(|p| p.craft).collect();
            assert_eq!(crafts.len(), 6);
            crafts.sort_unstable();
            crafts.dedup();
            assert_eq!(crafts.len(), 6);
        }
    }

    #[test]
    fn kin_and_friends_agree_with_each_other() {
        let people = people();
        for (i, person) in people.iter().enumerate() {
            assert_eq!(people[person.friend].friend, i);
            assert!(person.friend != i && !person.is_kin(person.friend));
            assert!(person.spouse.is_none_or(|s| people[s].spouse == Some(i) && people[s].woman != person.woman));
            assert!(person.sibling.is_none_or(|s| people[s].sibling == Some(i) && people[s].age != person.age));
            for &child in &person.children {
                assert!(people[child].age + 15 < person.age);
                assert!(people[child].parents.is_some_and(|(m, f)| m == i || f == i));
            }
            if let Some((mother, father)) = person.parents {
                assert!(people[mother].woman && !people[father].woman);
                assert_eq!(people[mother].children, people[father].children);
            }
        }
    }

    #[test]
    fn nobody_keeps_or_loves_what_frightens_them() {
        for person in people() {
            let fear = FEARS[person.fear];
            assert!(!frightens(fear, HOBBIES[person.hobby]), "{}", person.name);
            assert!(person.pet.is_none_or(|(kind, _)| !frightens(fear, PETS[kind])), "{}", person.name);
        }
    }

    #[test]
    fn half_of_them_have_a_pet_and_no_pet_name_is_used_twice() {
        let mut names: Vec<_> = people().iter().filter_map(|p| p.pet.map(|(_, name)| name)).collect();
        assert_eq!(names.len(), PEOPLE / 2);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PEOPLE / 2);
    }
}
