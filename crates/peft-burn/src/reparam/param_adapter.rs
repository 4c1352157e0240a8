//! An adapter on a model's parameters.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ParamId};
use burn::optim::GradientsParams;

use super::layers::AdaptedLayers;
use super::param::{AdaptedParam, Attach};
use super::parameters::{Parameters, Reader, Writer};
use crate::adalora::{self, Allocation};
use crate::error::{PeftError, Result, Unsupported};
use crate::files::AdapterFiles;
use crate::layers::linear::LinearAdapter;
use crate::layers::named_adapters::LayerAdapter;
use crate::methods::PeftConfig;
use crate::model::{AdaptableModel, PeftModel, TrainableReport};
use crate::param::ParamMut;
use crate::targets::resolve;

/// The one adapter's name on [`AdaptedLayers`].
const NAME: &str = ParamAdapter::NAME;

/// An adapter of any method on a model that knows nothing of adapters.
///
/// ```
/// use burn::module::Module;
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{Device, Tensor, activation::relu};
/// use peft_burn::{LoraConfig, ParamAdapter, PeftConfig, TargetModules};
///
/// #[derive(Module, Debug)]
/// struct Net {
///     hidden: Linear,
///     head: Linear,
/// }
///
/// # fn main() -> Result<(), peft_burn::PeftError> {
/// let device = Device::flex();
/// let net = Net { hidden: LinearConfig::new(4, 16).init(&device), head: LinearConfig::new(16, 3).init(&device) };
/// let target_modules = TargetModules::list(["hidden"]);
/// let config = PeftConfig::Lora(LoraConfig { r: 2, target_modules, ..LoraConfig::default() });
/// let (net, adapter) = ParamAdapter::attach(net, &config, 42)?;
/// // Train `net` as before: only the adapter has gradients.
/// let y = net.head.forward(relu(net.hidden.forward(Tensor::<2>::zeros([5, 4], &device))));
/// assert_eq!(y.dims(), [5, 3]);
/// assert_eq!(adapter.trainable_parameters().trainable, 2 * (4 + 16));
/// # let dir = std::env::temp_dir().join(format!("peft-burn-doc-{}", std::process::id()));
/// adapter.save(&net, &dir)?;
/// # std::fs::remove_dir_all(&dir).map_err(peft_burn::PeftError::io(&dir))?;
/// let merged = net.materialize();
/// # let _ = merged;
/// # Ok(())
/// # }
/// ```
///
/// The adapted parameters are a part of the model, and AdaLoRA's averages of them a part of this, which therefore is a
/// [`Module`] as well: its records hold AdaLoRA's averages and masks, and nothing for other methods.
#[derive(Clone, Debug)]
pub struct ParamAdapter {
    pub(super) layers: AdaptedLayers,
    /// Names on disk by the parameters' paths in the model.
    pub(super) keys: BTreeMap<String, String>,
    pub(super) warnings: Vec<String>,
}

impl ParamAdapter {
    /// The adapter's name on [`AdaptedLayers`].
    pub const NAME: &str = "default";

    /// Puts a new adapter on the linear layers of `model` that the configuration selects by path, such as `blocks.0.up`,
    /// and freezes every other parameter. Dropout and running statistics are the model's own affair, as in Burn's `apply_lora`.
    ///
    /// The base's parameters stay in the model's records; the optimiser leaves them as they are.
    ///
    /// # Errors
    /// Those of [`PeftModel::add_adapter`]; a model that has such an adapter; and what a change of parameters alone
    /// cannot do, for which there is [`PeftLinear`](crate::PeftLinear): dropout, `lora_bias`, IA3 on the output of a layer with a bias, embeddings,
    /// whole modules that are no linear layers.
    pub fn attach<M: Module>(model: M, config: &PeftConfig, seed: u64) -> Result<(M, Self)> {
        let mut layers = AdaptedLayers::of(&model)?;
        let resolution = resolve(config, &layers.modules(), layers.model_type())?;
        // Frozen for now, so that what AdaLoRA's allocator keeps stays here and is in no record of the model.
        let warnings = layers.attach(NAME, resolution, seed, false)?;
        Self::put_on(model, layers, warnings, true)
    }

    /// As [`Self::attach`], with an adapter that was saved; frozen unless `trainable`.
    ///
    /// # Errors
    /// As [`Self::attach`] and [`AdapterFiles::load_adapter`].
    pub fn load<M: Module>(model: M, dir: impl AsRef<Path>, trainable: bool) -> Result<(M, Self)> {
        let mut layers = AdaptedLayers::of(&model)?;
        let warnings = layers.load_adapter(dir, NAME, false)?;
        Self::put_on(model, layers, warnings, trainable)
    }

    fn put_on<M: Module>(
        model: M,
        mut layers: AdaptedLayers,
        warnings: Vec<String>,
        trainable: bool,
    ) -> Result<(M, Self)> {
        check(&layers)?;
        let named = layers.adapter_params(NAME)?.into_iter();
        let names: BTreeMap<ParamId, String> = named.map(|(key, param)| (param.id(), key)).collect();
        let mut adapters = BTreeMap::new();
        for (path, layer) in layers.layers() {
            let Some(adapter) = layer.linear().and_then(|linear| linear.adapters().get(NAME)) else { continue };
            let LinearAdapter { mut method, bias, weight, tokens, frozen } = adapter.clone();
            if let Some(bias) = bias {
                adapters.insert(format!("{path}.bias"), AdaptedParam { adapter: LinearAdapter::of_bias(bias) });
            }
            method.iter_mut().for_each(|method| method.base_is_visible());
            if method.is_some() || weight.is_some() || tokens.is_some() {
                let adapter = LinearAdapter { method, bias: None, weight, tokens, frozen };
                adapters.insert(format!("{path}.weight"), AdaptedParam { adapter });
            }
        }
        for adapted in adapters.values_mut() {
            adapted.adapter.params_mut().iter_mut().for_each(|(_, param)| param.set_require_grad(trainable));
        }
        let model = model.apply_reparameterization(Attach(adapters));
        let mut found = Parameters::default();
        model.visit(&mut found);
        let keys = found.own.into_iter().filter_map(|(path, id)| Some((path, names.get(&id)?.clone()))).collect();
        layers.set_trainable(trainable);
        Ok((model, Self { layers, keys, warnings }))
    }

    /// Notes for the user.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The configuration as PEFT would store it.
    ///
    /// # Errors
    /// None in practice: the adapter has one.
    pub fn config(&self) -> Result<&PeftConfig> {
        self.layers.adapter_config(NAME)
    }

    /// Trained and total numbers of parameters, worded as PEFT's `print_trainable_parameters`.
    pub fn trainable_parameters(&self) -> TrainableReport {
        self.layers.trainable_parameters()
    }

    /// The adapted layers with the adapter (named `default`) as it is in `model` now, graph included.
    ///
    /// # Errors
    /// A model that this adapter is not on.
    pub fn layers<M: Module>(&self, model: &M) -> Result<AdaptedLayers> {
        let mut found = Reader::new(&self.keys);
        model.visit(&mut found);
        let Reader { mut one, mut two, .. } = found;
        let mut layers = self.layers.clone();
        let mut missing = Vec::new();
        for (key, param) in layers.adapter_params_mut(NAME)? {
            match param {
                ParamMut::One(param) => match one.remove(&key) {
                    Some(present) => *param = present,
                    None => missing.push(key),
                },
                ParamMut::Two(param) => match two.remove(&key) {
                    Some(present) => *param = present,
                    None => missing.push(key),
                },
            }
        }
        if missing.is_empty() {
            return Ok(layers);
        }
        Err(Unsupported::NotOnModel { missing }.into())
    }

    /// AdaLoRA's part of a training step, as [`adalora::update_and_allocate`]: to be called once an optimiser step, after
    /// it, with the gradients that it used and its number, counted from 1. Averages and masks are kept here, and are in
    /// this adapter's records and not in the model's.
    ///
    /// # Errors
    /// As [`Self::layers`] and [`adalora::update_and_allocate`]; then nothing has changed.
    pub fn update_and_allocate<M: Module>(
        &mut self,
        model: M,
        grads: &GradientsParams,
        step: usize,
    ) -> Result<(M, Allocation)> {
        let mut layers = self.layers(&model)?;
        let allocation = adalora::update_and_allocate(&mut layers, NAME, grads, step)?;
        let mut new = BTreeMap::new();
        for (key, param) in layers.adapter_params_mut(NAME)? {
            if let ParamMut::Two(param) = param {
                new.insert(key, param.val().detach());
            }
        }
        // Of what the allocator knows of, masks change E alone.
        let masked = self.keys.iter().filter(|(_, key)| key.ends_with("lora_E"));
        let values = masked.filter_map(|(path, key)| Some((path.clone(), new.remove(key)?))).collect();
        self.layers = layers;
        Ok((model.map(&mut Writer::new(values)), allocation))
    }

    /// Writes the adapter as it is in `model` as PEFT does.
    ///
    /// # Errors
    /// As [`Self::layers`] and [`AdapterFiles::save_adapter`].
    pub fn save<M: Module>(&self, model: &M, dir: impl AsRef<Path>) -> Result<()> {
        self.layers(model)?.save_adapter(NAME, dir)
    }
}

/// Refuses what a parameter alone cannot do; every reason is listed.
fn check(layers: &AdaptedLayers) -> Result<()> {
    let mut problems = Vec::new();
    let config = layers.adapter_config(NAME)?;
    problems.extend(config.beyond_the_weight());
    for (path, layer) in layers.layers() {
        let Some(linear) = layer.linear() else { continue };
        let Some(method) = linear.adapters().get(NAME).and_then(|a| a.method.as_ref()) else { continue };
        if let Some(hint) = config.how_to_keep_biases().filter(|_| method.changes_bias(linear.base().bias.is_some())) {
            problems.push(format!("{} on {path}, whose bias it would change too: {hint}", config.display_name()));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    problems.push("or make these layers PeftLinear".to_owned());
    let origin = "an adapter on a model's parameters, which sees no layer's input or output".to_owned();
    Err(PeftError::Config { origin, problems })
}
