//! Strings that end a text.

/// Hands text out as far as no stop string can have begun in it.
#[derive(Clone, Debug, Default)]
pub struct StopScanner {
    stops: Vec<String>,
    held: String,
}

impl StopScanner {
    /// A scanner for `stops`; empty ones are none.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes more text. Returns what is certain, and whether a stop string was found: then nothing follows.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let places = self.held.char_indices().map(|(at, _)| at);
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let keep = places.skip_while(|at| *at < from).find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text that was held back, at the end.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut scanner = StopScanner::new(&stops);
        let mut all = String::new();
        for piece in pieces {
            let (text, stopped) = scanner.push(piece);
            assert!(stops.iter().all(|stop| stop.is_empty() || !text.contains(stop)));
            all.push_str(&text);
            if stopped {
                return (all, true);
            }
        }
        (all + &scanner.finish(), false)
    }

    #[test]
    fn a_stop_string_over_several_pieces_never_leaks_and_nothing_before_it_is_lost() {
        assert_eq!(said(&["END"], &["one E", "N", "D two"]), ("one ".into(), true));
        assert_eq!(said(&["END"], &["one E", "N", "d two EN"]), ("one ENd two EN".into(), false));
        assert_eq!(said(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(said(&["é🙂", "xyz"], &["zé", "é", "🙂!"]), ("zé".into(), true));
        // Of two that end together the one that begins first.
        assert_eq!(said(&["bc", "abcd"], &["xab", "cd"]), ("x".into(), true));
        assert_eq!(said(&[""], &["a", "b"]), ("ab".into(), false));
    }
}
