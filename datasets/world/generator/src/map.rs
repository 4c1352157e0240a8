//! The island: its places, where they lie from the market town in the middle, and how far apart they are.

/// The market town in the middle, where all roads meet and nobody lives.
pub const CENTRE: &str = "Fennick";

/// A place where people live.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Its name.
    pub name: &'static str,
    /// Miles east of the market town (west when negative).
    pub east: i32,
    /// Miles north of the market town (south when negative).
    pub north: i32,
    /// Its flag's colour.
    pub flag: &'static str,
    /// Its place, after "lies": `by the sea`.
    pub land: &'static str,
    /// Its fame, after "known for": `its old lighthouse`.
    pub fame: &'static str,
}

const fn place(
    name: &'static str,
    (east, north): (i32, i32),
    flag: &'static str,
    land: &'static str,
    fame: &'static str,
) -> Place {
    Place { name, east, north, flag, land, fame }
}

/// The places of the island; six people live in each.
pub const PLACES: [Place; 12] = [
    place("Tallow Bay", (0, -7), "blue", "by the sea", "its old lighthouse"),
    place("Stonebrook", (-5, 5), "grey", "by a river", "its three bridges"),
    place("Alderwood", (-6, 0), "green", "in a forest", "its tall trees"),
    place("Gullwick", (8, 0), "white", "by the sea", "its noisy harbour"),
    place("Highmoor", (0, 9), "purple", "in the hills", "its cold wind"),
    place("Millford", (2, 2), "yellow", "by a river", "its seven mills"),
    place("Thornfield", (0, -3), "brown", "among fields", "its long hedges"),
    place("Copperdale", (6, 6), "orange", "in the hills", "its deep mine"),
    place("Windmere", (0, 4), "red", "by a lake", "its still water"),
    place("Larkhill", (-4, -4), "black", "among fields", "its singing birds"),
    place("Saltmarsh", (5, -5), "blue", "by the sea", "its white salt"),
    place("Fernhollow", (-11, 0), "green", "in a forest", "its dark caves"),
];

impl Place {
    /// The side of the market town it lies on, one of eight: `north east`.
    pub fn side(&self) -> &'static str {
        match (self.east.signum(), self.north.signum()) {
            (0, 1) => "north",
            (1, 1) => "northeast",
            (1, 0) => "east",
            (1, -1) => "southeast",
            (0, -1) => "south",
            (-1, -1) => "southwest",
            (-1, 0) => "west",
            _ => "northwest",
        }
    }

    /// Whole miles from the market town.
    pub fn miles(&self) -> usize {
        distance((self.east, self.north), (0, 0))
    }

    /// Whole miles to another place.
    pub fn miles_to(&self, other: &Place) -> usize {
        distance((self.east, self.north), (other.east, other.north))
    }
}

fn distance(a: (i32, i32), b: (i32, i32)) -> usize {
    f64::from((a.0 - b.0).pow(2) + (a.1 - b.1).pow(2)).sqrt().round() as usize
}

/// The place nearest to place `of`, the first of the list when two are as near.
pub fn nearest(of: usize) -> usize {
    let here = &PLACES[of];
    (0..PLACES.len()).filter(|&p| p != of).min_by_key(|&p| (here.miles_to(&PLACES[p]), p)).unwrap_or(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_lies_exactly_on_its_side_of_the_market_town() {
        for place in &PLACES {
            let (east, north) = (place.east, place.north);
            assert!(east == 0 || north == 0 || east.abs() == north.abs(), "{} lies between two sides", place.name);
            assert!(place.miles() > 1, "{}", place.name);
        }
        assert_eq!((PLACES[0].side(), PLACES[0].miles()), ("south", 7));
    }

    #[test]
    fn the_nearest_place_is_another_one() {
        assert_eq!(PLACES[nearest(4)].name, "Windmere");
        assert!((0..PLACES.len()).all(|p| nearest(p) != p));
    }
}
