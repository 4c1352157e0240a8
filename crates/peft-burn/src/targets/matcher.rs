//! Whether a module path is selected.

use fancy_regex::Regex;

use super::layer_numbers::layer_numbers;
use crate::config::{ModuleNames, OneOrMany, TargetModules};
use crate::methods::MethodConfig;
use crate::modules::names_module;
use crate::{PeftError, Result};

/// The answer of a configuration about a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Selected,
    /// Taken out by `exclude_modules` or `modules_to_save`, whether or not it would have been selected.
    Excluded,
    Unmatched,
}

/// A configuration's names and patterns, compiled.
pub(super) struct Matcher {
    targets: Names,
    exclude: Option<Names>,
    saved: Vec<Regex>,
    /// Empty: every layer.
    layers: Vec<usize>,
    layer_patterns: Vec<Regex>,
}

/// A list of names or one pattern over the whole path.
enum Names {
    List(Vec<String>),
    Pattern(Regex),
}

impl Names {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::List(names) => names.iter().any(|name| names_module(name, path)),
            Self::Pattern(pattern) => is_match(pattern, path),
        }
    }
}

impl Matcher {
    pub(super) fn new(config: &dyn MethodConfig) -> Result<Self> {
        let whole = |key, pattern: &str| compile(key, pattern, &format!(r"\A(?:{pattern})\z"));
        let targets = match config.target_modules() {
            TargetModules::List(names) => Names::List(names.clone()),
            TargetModules::Regex(pattern) => Names::Pattern(whole("target_modules", pattern)?),
            // Spelled out before.
            TargetModules::ModelDefault | TargetModules::AllLinear => Names::List(Vec::new()),
        };
        let exclude = match config.exclude_modules() {
            Some(ModuleNames::List(names)) => Some(Names::List(names.clone())),
            Some(ModuleNames::Regex(pattern)) => Some(Names::Pattern(whole("exclude_modules", pattern)?)),
            None => None,
        };
        // The module itself and all that is inside it.
        let saved = |name: &String| compile("modules_to_save", name, &format!(r"\A(?:^|.*\.){name}(?:$|\..*)"));
        let layer = |name: &String| compile("layers_pattern", name, &format!(r"\A(?:^|.*?\.){name}\.(?P<index>\d+)\."));
        let layer_patterns = match config.layers().1.map_or(&[][..], OneOrMany::as_slice) {
            // Without a name the first number between dots is the layer's.
            [] => vec![compile("layers_pattern", "", r"\A.*?\.[^.]*\.(?P<index>\d+)\.")?],
            names => names.iter().map(layer).collect::<Result<_>>()?,
        };
        Ok(Self {
            targets,
            exclude,
            saved: config.modules_to_save().iter().map(saved).collect::<Result<_>>()?,
            layers: layer_numbers(config).to_vec(),
            layer_patterns,
        })
    }

    pub(super) fn verdict(&self, path: &str) -> Verdict {
        if self.excludes(path) || self.saved.iter().any(|name| is_match(name, path)) {
            Verdict::Excluded
        } else if self.targets.matches(path) && (self.names_in_full(path) || self.keeps_layer_of(path)) {
            Verdict::Selected
        } else {
            Verdict::Unmatched
        }
    }

    /// Whether `exclude_modules` covers the path.
    pub(super) fn excludes(&self, path: &str) -> bool {
        self.exclude.as_ref().is_some_and(|names| names.matches(path))
    }

    /// Whether `target_modules` covers the path, before anything narrows it.
    pub(super) fn targets(&self, path: &str) -> bool {
        self.targets.matches(path)
    }

    /// The number of the layer that the path is in.
    pub(super) fn layer_of(&self, path: &str) -> Option<usize> {
        let captures = self.layer_patterns.iter().find_map(|pattern| pattern.captures(path).ok().flatten())?;
        captures.name("index")?.as_str().parse().ok()
    }

    fn keeps_layer_of(&self, path: &str) -> bool {
        self.layers.is_empty() || self.layer_of(path).is_some_and(|layer| self.layers.contains(&layer))
    }

    /// A path that is listed in full is selected whatever its layer.
    fn names_in_full(&self, path: &str) -> bool {
        matches!(&self.targets, Names::List(names) if names.iter().any(|name| name == path))
    }
}

fn compile(key: &str, given: &str, pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|error| PeftError::Config {
        origin: key.into(),
        problems: vec![format!("`{given}` is not a regular expression: {error}")],
    })
}

/// A pattern that takes too long to decide matches nothing, and is then reported as such.
fn is_match(pattern: &Regex, path: &str) -> bool {
    pattern.is_match(path).unwrap_or(false)
}
