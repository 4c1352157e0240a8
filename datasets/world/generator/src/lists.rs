//! The words the world is made of, written by hand. What belongs together is decided in `people.rs`, from a seed.

/// Names of women, one woman each.
pub const WOMEN: [&str; 36] = [
    "Mara", "Ilsa", "Brena", "Tamsin", "Odette", "Fenna", "Greta", "Hilda", "Juna", "Kessa", "Lota", "Merrin", "Nella",
    "Orla", "Pella", "Rosa", "Sela", "Thea", "Una", "Vesna", "Willa", "Yara", "Zenna", "Anwen", "Bessa", "Cora",
    "Dalia", "Edda", "Freya", "Gilda", "Hesta", "Isolde", "Jessa", "Katla", "Linna", "Mabel",
];

/// Names of men, one man each.
pub const MEN: [&str; 36] = [
    "Tobin", "Aldo", "Bram", "Corin", "Dovan", "Edric", "Finn", "Garrick", "Hob", "Ivor", "Joss", "Kelm", "Lorcan",
    "Milo", "Nils", "Osric", "Pim", "Quin", "Rolf", "Soren", "Tam", "Ulf", "Varn", "Wat", "Yorick", "Zeb", "Anselm",
    "Bertil", "Dorn", "Emil", "Fergus", "Gorm", "Harn", "Jarl", "Kip", "Ludo",
];

/// Names of pets, each used once.
pub const PET_NAMES: [&str; 36] = [
    "Biscuit", "Pepper", "Moss", "Button", "Thistle", "Nettle", "Pickle", "Acorn", "Ember", "Bramble", "Clover",
    "Dusty", "Fig", "Ginger", "Hazel", "Inky", "Juniper", "Kettle", "Lupin", "Mallow", "Nutmeg", "Oats", "Pebble",
    "Quince", "Rusty", "Sorrel", "Toffee", "Umber", "Velvet", "Whisper", "Yarrow", "Ziggy", "Barley", "Cinder",
    "Domino", "Poppy",
];

/// Kinds of pets.
pub const PETS: [&str; 12] =
    ["cat", "dog", "goat", "donkey", "hen", "goose", "pony", "raven", "rabbit", "hedgehog", "tortoise", "otter"];

/// Fears, in the plural or as a mass.
#[rustfmt::skip]
pub const FEARS: [&str; 16] = [
    "storms", "spiders", "deep water", "the dark", "geese", "high places", "thunder", "wolves", "ghosts", "fire",
    "bats", "snakes", "crowds", "mice", "fog", "owls",
];

/// Treasured belongings.
#[rustfmt::skip]
pub const TREASURES: [&str; 24] = [
    "kite", "flute", "boat", "wagon", "drum", "mirror", "ladder", "cart", "telescope", "whistle", "umbrella", "chest",
    "compass", "bell", "ring", "scarf", "cloak", "cane", "teapot", "shield", "spade", "map", "feather", "key",
];

/// Colours of treasures and flags.
pub const COLOURS: [&str; 10] =
    ["red", "blue", "green", "yellow", "white", "black", "brown", "grey", "purple", "orange"];

/// Pastimes, as gerunds.
#[rustfmt::skip]
pub const HOBBIES: [&str; 16] = [
    "singing", "swimming", "fishing", "dancing", "telling stories", "climbing", "playing chess", "sailing", "whittling",
    "reading", "running", "skating", "watching the stars", "gathering shells", "picking mushrooms", "throwing dice",
];

/// A trade: who does it, what comes of it, out of what, with which tool, where, and at what price.
#[derive(Debug, Clone, Copy)]
pub struct Craft {
    /// Who does it: `potter`.
    pub name: &'static str,
    /// Its product, one of it: `pot`.
    pub good: &'static str,
    /// Several of it: `pots`.
    pub goods: &'static str,
    /// Its material: `clay`.
    pub material: &'static str,
    /// The tool of the trade: `wheel`.
    pub tool: &'static str,
    /// Pennies for one.
    pub price: usize,
}

const fn craft(
    name: &'static str,
    good: &'static str,
    goods: &'static str,
    material: &'static str,
    tool: &'static str,
    price: usize,
) -> Craft {
    Craft { name, good, goods, material, tool, price }
}

/// The trades of the island; three people follow each of them.
pub const CRAFTS: [Craft; 24] = [
    craft("potter", "pot", "pots", "clay", "turning wheel", 4),
    craft("baker", "loaf", "loaves", "flour", "oven", 2),
    craft("weaver", "blanket", "blankets", "wool", "loom", 9),
    craft("smith", "knife", "knives", "iron", "hammer", 7),
    craft("candlemaker", "candle", "candles", "wax", "dipping rod", 2),
    craft("carpenter", "stool", "stools", "oak", "saw", 6),
    craft("hatter", "hat", "hats", "felt", "steam kettle", 5),
    craft("tailor", "coat", "coats", "linen", "needle", 9),
    craft("toymaker", "doll", "dolls", "pine", "carving knife", 3),
    craft("glassblower", "bottle", "bottles", "sand", "blowpipe", 4),
    craft("basketmaker", "basket", "baskets", "willow", "pruning hook", 3),
    craft("ropemaker", "rope", "ropes", "hemp", "spinning hook", 5),
    craft("cooper", "barrel", "barrels", "elm", "adze", 8),
    craft("painter", "picture", "pictures", "paint", "brush", 8),
    craft("bookbinder", "book", "books", "paper", "glue pot", 7),
    craft("clockmaker", "clock", "clocks", "brass", "file", 9),
    craft("fiddlemaker", "fiddle", "fiddles", "spruce", "gouge", 9),
    craft("cheesemaker", "cheese", "cheeses", "milk", "press", 3),
    craft("saddler", "saddle", "saddles", "leather", "awl", 8),
    craft("wheelwright", "wheel", "wheels", "ash wood", "mallet", 6),
    craft("herbalist", "balm", "balms", "mint", "mortar", 4),
    craft("netmaker", "net", "nets", "twine", "shuttle", 5),
    craft("tinsmith", "lantern", "lanterns", "tin", "shears", 6),
    craft("broommaker", "broom", "brooms", "birch", "binding knife", 2),
];

/// How a dish is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// In a pot of water.
    Boil,
    /// In the oven.
    Bake,
    /// In a pan.
    Fry,
}

/// A dish and what goes into it.
#[derive(Debug, Clone, Copy)]
pub struct Dish {
    /// Its name: `barley soup`.
    pub name: &'static str,
    /// How it is made.
    pub method: Method,
    /// The three things that go into it.
    pub parts: [&'static str; 3],
}

const fn dish(name: &'static str, method: Method, parts: [&'static str; 3]) -> Dish {
    Dish { name, method, parts }
}

/// The dishes of the island; three people like each of them best.
pub const DISHES: [Dish; 24] = [
    dish("barley soup", Method::Boil, ["barley", "leeks", "butter"]),
    dish("honey cake", Method::Bake, ["flour", "honey", "eggs"]),
    dish("plum pie", Method::Bake, ["flour", "plums", "butter"]),
    dish("chestnut soup", Method::Boil, ["chestnuts", "cream", "salt"]),
    dish("fried eel", Method::Fry, ["eel", "flour", "salt"]),
    dish("leek stew", Method::Boil, ["leeks", "carrots", "cream"]),
    dish("oat porridge", Method::Boil, ["oats", "milk", "honey"]),
    dish("pear tart", Method::Bake, ["flour", "pears", "cream"]),
    dish("mushroom broth", Method::Boil, ["mushrooms", "onions", "parsley"]),
    dish("ginger bread", Method::Bake, ["flour", "ginger", "honey"]),
    dish("onion pie", Method::Bake, ["flour", "onions", "cheese"]),
    dish("apple pie", Method::Bake, ["flour", "apples", "sugar"]),
    dish("pea soup", Method::Boil, ["peas", "onions", "salt"]),
    dish("blackberry jam", Method::Boil, ["blackberries", "sugar", "lemon"]),
    dish("cheese toast", Method::Fry, ["bread", "cheese", "butter"]),
    dish("fried trout", Method::Fry, ["trout", "butter", "parsley"]),
    dish("nut bread", Method::Bake, ["flour", "walnuts", "milk"]),
    dish("carrot cake", Method::Bake, ["carrots", "flour", "eggs"]),
    dish("noodle soup", Method::Boil, ["noodles", "eggs", "parsley"]),
    dish("cherry pudding", Method::Boil, ["cherries", "bread", "milk"]),
    dish("bean stew", Method::Boil, ["beans", "garlic", "onions"]),
    dish("walnut cake", Method::Bake, ["flour", "walnuts", "honey"]),
    dish("fried corn", Method::Fry, ["corn", "butter", "salt"]),
    dish("potato hash", Method::Fry, ["potatoes", "eggs", "onions"]),
];

/// A month of thirty days: its name and its season.
pub const MONTHS: [(&str, &str); 8] = [
    ("Thaw", "spring"),
    ("Bud", "spring"),
    ("Bloom", "summer"),
    ("Hay", "summer"),
    ("Gold", "autumn"),
    ("Leaf", "autumn"),
    ("Mist", "winter"),
    ("Frost", "winter"),
];

/// The six days of the week.
pub const WEEKDAYS: [&str; 6] = ["Firstday", "Millday", "Washday", "Marketday", "Songday", "Restday"];

/// A feast: its name, its month and day, its place (an index of `map::PLACES`), the dish and what people do.
#[derive(Debug, Clone, Copy)]
pub struct Festival {
    /// Its name with the article: `the Apple Fair`.
    pub name: &'static str,
    /// Index into [`MONTHS`].
    pub month: usize,
    /// Day of the month, from 1.
    pub day: usize,
    /// Index into the places of the map.
    pub place: usize,
    /// Index into [`DISHES`].
    pub dish: usize,
    /// The custom there, after "people": `hang lanterns in the trees`.
    pub deed: &'static str,
}

const fn festival(
    name: &'static str,
    month: usize,
    day: usize,
    place: usize,
    dish: usize,
    deed: &'static str,
) -> Festival {
    Festival { name, month, day, place, dish, deed }
}

/// The feasts of the year, one a month.
pub const FESTIVALS: [Festival; 8] = [
    festival("the Seed Walk", 0, 9, 6, 16, "carry seeds round the fields"),
    festival("the Boat Blessing", 1, 14, 3, 15, "hang flowers on the boats"),
    festival("the Honey Feast", 2, 21, 9, 1, "dress up as bees"),
    festival("the Long Race", 3, 5, 4, 22, "run from hill to hill"),
    festival("the Apple Fair", 4, 12, 5, 11, "roll apples down the street"),
    festival("the Wool Day", 5, 18, 1, 5, "wash the sheep in the river"),
    festival("the Lantern Night", 6, 27, 2, 3, "hang lanterns in the trees"),
    festival("the Ice Dance", 7, 16, 8, 8, "dance on the frozen lake"),
];

/// Things with one well known colour.
pub const COLOURED: [(&str, &str); 20] = [
    ("snow", "white"),
    ("grass", "green"),
    ("coal", "black"),
    ("milk", "white"),
    ("a carrot", "orange"),
    ("a lemon", "yellow"),
    ("blood", "red"),
    ("the sky", "blue"),
    ("a raven", "black"),
    ("a plum", "purple"),
    ("a frog", "green"),
    ("honey", "yellow"),
    ("salt", "white"),
    ("a cherry", "red"),
    ("a donkey", "grey"),
    ("ash", "grey"),
    ("bark", "brown"),
    ("a pumpkin", "orange"),
    ("a leaf", "green"),
    ("a chestnut", "brown"),
];

/// Words and their opposites.
pub const OPPOSITES: [(&str, &str); 24] = [
    ("hot", "cold"),
    ("big", "small"),
    ("old", "new"),
    ("day", "night"),
    ("up", "down"),
    ("wet", "dry"),
    ("fast", "slow"),
    ("full", "empty"),
    ("early", "late"),
    ("loud", "quiet"),
    ("north", "south"),
    ("east", "west"),
    ("open", "shut"),
    ("sweet", "sour"),
    ("light", "heavy"),
    ("long", "short"),
    ("happy", "sad"),
    ("rich", "poor"),
    ("hard", "soft"),
    ("near", "far"),
    ("brave", "afraid"),
    ("clean", "dirty"),
    ("strong", "weak"),
    ("summer", "winter"),
];

/// Plain words for sorting, copying and counting.
#[rustfmt::skip]
pub const WORDS: [&str; 32] = [
    "apple", "barn", "bell", "boat", "candle", "cloud", "coat", "drum", "egg", "fish", "flute", "gate", "hat", "hill",
    "jam", "key", "lamp", "map", "nest", "oak", "pear", "plum", "pot", "rope", "sand", "ship", "stone", "tree", "vine",
    "wagon", "wool", "yarn",
];

/// Numbers as words, from zero.
pub const NUMBERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_things_share_a_name() {
        let names: Vec<&str> = (WOMEN.iter().chain(&MEN).chain(&PET_NAMES).copied())
            .chain(CRAFTS.iter().flat_map(|c| [c.name, c.goods]))
            .chain(DISHES.iter().map(|d| d.name))
            .chain(MONTHS.iter().map(|m| m.0))
            .chain(WEEKDAYS)
            .chain(FESTIVALS.iter().map(|f| f.name))
            .collect();
        let distinct: HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn every_month_has_its_feast() {
        assert!(FESTIVALS.iter().enumerate().all(|(i, f)| f.month == i && (1..=30).contains(&f.day)));
    }
}
