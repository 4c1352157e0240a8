//! Which modules of a model a configuration adapts, by PEFT's rules.

mod complete;
mod layer_numbers;
mod matcher;
mod minimal;
mod unmatched;

use std::collections::BTreeMap;

use crate::config::TargetModules;
use crate::config::checks::MOST_NUMBERS;
use crate::error::{PeftError, Result, Unsupported};
use crate::methods::{MethodConfig, PeftConfig};
use crate::modules::last_segment;
pub use crate::modules::{ModuleInfo, ModuleKind};
use matcher::{Matcher, Verdict};

/// The meaning of a configuration for a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolution {
    /// The configuration as PEFT would store it: defaults of the model type filled in, `all-linear` spelled out,
    /// heads of the task added to `modules_to_save`.
    pub config: PeftConfig,
    /// The modules that get an adapter, in the model's order.
    pub adapted: Vec<ModuleInfo>,
    /// The modules that are trained and saved whole, in the model's order.
    pub modules_to_save: Vec<ModuleInfo>,
    /// Paths of those among them that are used and not trained: they lie beside an adapter that was saved, and its configuration
    /// does not name them.
    pub frozen: Vec<String>,
    /// Embeddings and heads with trained rows of a matrix that the adapter brings, and the number of its rows.
    pub own_vocabularies: BTreeMap<String, usize>,
    /// Whether what the adapter has for the embedding is the tied head's too.
    pub tied: bool,
    /// Notes for the user.
    pub warnings: Vec<String>,
}

impl Resolution {
    /// The largest input and output among the adapted modules: the size of VeRA's shared pair.
    pub fn largest_features(&self) -> (usize, usize) {
        let largest = |width: fn(&ModuleInfo) -> usize| self.adapted.iter().map(width).max().unwrap_or(0);
        (largest(|module| module.in_features), largest(|module| module.out_features))
    }
}

/// Resolves the configuration of a new adapter for a model with these modules.
///
/// The rules are PEFT's, which for a list of names differ from those for a regular expression; see
/// [`TargetModules`]. Stricter than PEFT: every name, pattern and layer number that matches nothing is an error.
///
/// # Errors
/// * [`PeftError::Config`] if the configuration is not [valid](MethodConfig::validate), or `target_modules` is absent
///   and `model_type` has no default
/// * [`PeftError::UnmatchedTargets`] with everything that matches nothing
/// * [`PeftError::NoMatchingModule`] if no module is left to adapt
/// * [`PeftError::Unsupported`] if a selected module is one that the method cannot adapt
pub fn resolve(config: &PeftConfig, modules: &[ModuleInfo], model_type: &str) -> Result<Resolution> {
    Resolver::new(config, modules, model_type)?.resolve(false)
}

/// As [`resolve`], for an adapter that was saved: names and patterns may match nothing, which is then a warning. People
/// list the names of many architectures at once, and the adapter's tensors tell whether anything is left out.
///
/// # Errors
/// As [`resolve`], without [`PeftError::UnmatchedTargets`].
pub fn resolve_saved(config: &PeftConfig, modules: &[ModuleInfo], model_type: &str) -> Result<Resolution> {
    Resolver::new(config, modules, model_type)?.resolve(true)
}

/// `modules` with the numbers of tokens that an adapter brings for some of them, by path.
pub(crate) fn with_vocabularies(mut modules: Vec<ModuleInfo>, own: &BTreeMap<String, usize>) -> Vec<ModuleInfo> {
    for module in &mut modules {
        let Some(rows) = own.get(&module.path).copied() else { continue };
        match module.kind {
            ModuleKind::OutputHead => module.out_features = rows,
            _ => module.in_features = rows,
        }
    }
    modules
}

struct Resolver<'a> {
    config: PeftConfig,
    modules: &'a [ModuleInfo],
    model_type: &'a str,
}

impl<'a> Resolver<'a> {
    fn new(config: &PeftConfig, modules: &'a [ModuleInfo], model_type: &'a str) -> Result<Self> {
        config.validate()?;
        let mut config = config.clone();
        complete::complete(&mut *config, modules, model_type)?;
        Ok(Self { config, modules, model_type })
    }

    fn resolve(mut self, saved: bool) -> Result<Resolution> {
        let matcher = Matcher::new(&*self.config)?;
        let adapted = self.select(&matcher);
        let completed = self.config.complete(self.model_type, &adapted);
        completed.map_err(|key| complete::no_default(&*self.config, key, self.model_type))?;
        let mut warnings = Vec::new();
        let unmatched = unmatched::find(&*self.config, &matcher, self.modules, &adapted);
        let unmatched: Vec<_> = unmatched.targets.into_iter().chain(unmatched.refinements).collect();
        if saved {
            warnings.extend(unmatched.into_iter().map(|line| format!("matches nothing, ignored: {line}")));
        } else if !unmatched.is_empty() {
            return Err(PeftError::UnmatchedTargets { unmatched, available: self.available() });
        }
        if adapted.is_empty() {
            return Err(self.no_match(&matcher));
        }
        self.check_kinds(&adapted)?;
        self.check_tokens(&adapted)?;
        self.check_sizes(&adapted)?;

        let modules_to_save: Vec<_> = self.modules.iter().filter(|m| saves(&*self.config, &m.path)).cloned().collect();
        if let Some(module) = modules_to_save.iter().find(|module| adapted.contains(module)) {
            return Err(Unsupported::AdaptedAndSaved { module: module.path.clone() }.into());
        }
        self.shorten_targets(&adapted)?;
        Ok(Resolution {
            config: self.config,
            adapted,
            modules_to_save,
            frozen: Vec::new(),
            own_vocabularies: BTreeMap::new(),
            tied: false,
            warnings,
        })
    }

    fn select(&self, matcher: &Matcher) -> Vec<ModuleInfo> {
        let selected = |module: &&ModuleInfo| matcher.verdict(&module.path) == Verdict::Selected;
        self.modules.iter().filter(selected).cloned().collect()
    }

    /// Whether the method can adapt modules of that kind.
    fn adapts(&self, kind: ModuleKind) -> bool {
        match kind {
            ModuleKind::Linear | ModuleKind::OutputHead => true,
            ModuleKind::Embedding => self.config.adapts_embeddings(),
            ModuleKind::Other => false,
        }
    }

    /// Refuses ranks at which an adapter of these modules would be larger than anything that can be computed with.
    fn check_sizes(&self, adapted: &[ModuleInfo]) -> Result<()> {
        let too_large = adapted.iter().filter(|module| self.config.parameters(module) > MOST_NUMBERS);
        let mut problems: Vec<String> = too_large
            .map(|m| format!("the adapter of {} would have {} numbers", m.path, self.config.parameters(m)))
            .collect();
        let largest = |width: fn(&ModuleInfo) -> usize| adapted.iter().map(width).max().unwrap_or(0);
        let pair = self.config.shared_pair(largest(|m| m.in_features), largest(|m| m.out_features));
        if let Some(pair) = pair
            && pair.r.saturating_mul(pair.max_in.max(pair.max_out)) > MOST_NUMBERS
        {
            problems.push(format!("the shared pair of rank {} would have more than {MOST_NUMBERS} numbers", pair.r));
        }
        if problems.is_empty() {
            return Ok(());
        }
        problems.push("choose a smaller rank".into());
        Err(PeftError::Config { origin: format!("{} configuration", self.config.peft_type()), problems })
    }

    fn check_kinds(&self, adapted: &[ModuleInfo]) -> Result<()> {
        let modules: Vec<_> = adapted.iter().filter(|m| !self.adapts(m.kind)).map(|m| m.path.clone()).collect();
        if modules.is_empty() {
            return Ok(());
        }
        let (peft_type, adapts) = (self.config.peft_type(), self.config.adapts());
        Err(Unsupported::ModuleKinds { peft_type, adapts, modules }.into())
    }

    /// Trained tokens must be in the vocabulary, and their embedding or head not be trained whole; a head not be adapted either.
    fn check_tokens(&self, adapted: &[ModuleInfo]) -> Result<()> {
        let mut problems = Vec::new();
        for module in self.modules {
            let path = &module.path;
            let vocabulary = match module.kind {
                ModuleKind::Embedding => module.in_features,
                ModuleKind::OutputHead => module.out_features,
                ModuleKind::Linear | ModuleKind::Other => continue,
            };
            let tokens = self.config.trainable_tokens_for(path);
            let beyond = tokens.iter().filter(|token| **token >= vocabulary);
            if !tokens.is_empty() && module.kind == ModuleKind::OutputHead && adapted.contains(module) {
                problems.push(format!("{path} is in target_modules and in trainable_token_indices; use one of them"));
            }
            problems.extend(beyond.map(|token| {
                format!(
                    "trainable_token_indices names token {token}, and {path} has {vocabulary}: 0 to {}",
                    vocabulary - 1
                )
            }));
            if !tokens.is_empty() && saves(&*self.config, path) {
                problems.push(format!("{path} is in modules_to_save and in trainable_token_indices; use one of them"));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(PeftError::Config { origin: "adapter".into(), problems }) }
    }

    /// The last segments of the paths that the method can adapt.
    fn available(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for module in self.modules.iter().filter(|module| self.adapts(module.kind)) {
            let name = last_segment(&module.path);
            if !names.iter().any(|known| known == name) {
                names.push(name.into());
            }
        }
        names
    }

    fn no_match(&self, matcher: &Matcher) -> PeftError {
        let mut notes = Vec::new();
        let excluded = self.modules.iter().filter(|m| matcher.verdict(&m.path) == Verdict::Excluded).count();
        if excluded > 0 {
            notes.push(format!("{excluded} modules are taken out by exclude_modules or modules_to_save"));
        }
        if let (Some(layers), _) = self.config.layers() {
            let layers: Vec<_> = layers.as_slice().iter().map(ToString::to_string).collect();
            notes.push(format!("layers_to_transform keeps layers {} only", layers.join(", ")));
        }
        if let (_, Some(pattern)) = self.config.layers() {
            notes.push(format!("layers_pattern looks for layers named {}", pattern.as_slice().join(", ")));
        }
        let targets = match self.config.target_modules() {
            TargetModules::Regex(pattern) => {
                let hint = "a string is a regular expression over the whole path; to give a name, write a list";
                notes.push(format!("{hint}: [\"{pattern}\"]"));
                format!("= \"{pattern}\"")
            }
            TargetModules::List(names) => format!("= {names:?}"),
            TargetModules::ModelDefault | TargetModules::AllLinear => String::new(),
        };
        PeftError::NoMatchingModule { targets, notes, available: self.available() }
    }

    /// PEFT stores long lists of paths by their shortest telling endings, for most methods.
    fn shorten_targets(&mut self, adapted: &[ModuleInfo]) -> Result<()> {
        const LONG: usize = 20;
        let TargetModules::List(names) = self.config.target_modules() else { return Ok(()) };
        if names.len() < LONG || !self.config.shortens_targets() {
            return Ok(());
        }
        let short = minimal::suffixes(names, self.modules.iter().map(|module| module.path.as_str()));
        if short.len() >= names.len() {
            return Ok(());
        }
        let long = std::mem::replace(self.config.shared_mut().target_modules, TargetModules::List(short));
        // layers_to_transform applies to endings but not to whole paths.
        if self.select(&Matcher::new(&*self.config)?) != adapted {
            *self.config.shared_mut().target_modules = long;
        }
        Ok(())
    }
}

/// Whether `modules_to_save` covers the module, or one that it is part of: as in PEFT any ending of a path counts,
/// also in the middle of a segment.
fn saves(config: &dyn MethodConfig, path: &str) -> bool {
    let dots = path.match_indices('.').map(|(dot, _)| dot);
    let ends = |end: usize| config.modules_to_save().iter().any(|name| path[..end].ends_with(name.as_str()));
    dots.chain([path.len()]).any(ends)
}
