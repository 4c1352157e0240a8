//! Head and embedding trained as one: PEFT's `ensure_weight_tying`.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::adaptable::AdaptableModel;
use crate::error::{PeftError, Result, Unsupported};
use crate::layers::layer::LayerRef;
use crate::methods::PeftConfig;
use crate::modules::{ModuleInfo, ModuleKind};
use crate::targets::Resolution;

/// The embedding and the head of a model in which they are one matrix.
pub(crate) fn tied_pair<M: AdaptableModel>(model: &M) -> Option<[ModuleInfo; 2]> {
    let find = |kind: ModuleKind| model.modules().into_iter().find(|module| module.kind == kind);
    let pair = [find(ModuleKind::Embedding)?, find(ModuleKind::OutputHead)?];
    let weight = |module: &ModuleInfo| {
        let (_, layer) = model.layers().into_iter().find(|(path, _)| *path == module.path)?;
        match layer {
            LayerRef::Linear(layer) => Some(layer.original_weight().dense().into_data()),
            LayerRef::Embedding(layer) => Some(layer.original().dense().into_data()),
            LayerRef::Norm(_) => None,
        }
    };
    (weight(&pair[0])? == weight(&pair[1])?).then_some(pair)
}

/// Lets the embedding's part of an adapter be the head's too, where it has one on either of them.
///
/// # Errors
/// A low-rank update of the pair with dropout, which PEFT has on the head's input alone, or with DoRA's norms, which are not
/// the same for rows and columns.
pub(crate) fn tie(resolution: &mut Resolution, [embedding, head]: [ModuleInfo; 2]) -> Result<()> {
    let one = |modules: &mut Vec<ModuleInfo>| {
        let found = modules.contains(&embedding) || modules.contains(&head);
        modules.retain(|module| *module != head && *module != embedding);
        if found {
            modules.insert(0, embedding.clone());
        }
        found
    };
    let (saved, adapted) = (one(&mut resolution.modules_to_save), one(&mut resolution.adapted));
    let dora = matches!(&resolution.config, PeftConfig::Lora(lora) if lora.use_dora);
    let dropout = resolution.config.dropout();
    if adapted && (dora || dropout > 0.0) {
        let (key, value, off) =
            if dora { ("use_dora", "true".to_owned(), "false") } else { ("lora_dropout", dropout.to_string(), "0") };
        let (embedding, head) = (embedding.path.clone(), head.path.clone());
        return Err(Unsupported::TiedUpdate { key, value, off, embedding, head }.into());
    }
    if adapted {
        resolution.warnings.push(format!(
            "ensure_weight_tying: one low-rank update is trained for {} and {}, by the sum of their gradients; PEFT 0.21.2 \
             takes a step for each of the two, so that its training goes another way",
            embedding.path, head.path
        ));
    }
    resolution.tied = saved || adapted;
    Ok(())
}

/// The head whose trained rows are those of the embedding that it is tied to: the configuration names the same tokens of both.
///
/// # Errors
/// Other tokens of the head, where `ensure_weight_tying` wants one matrix.
pub(super) fn follower<M: AdaptableModel>(model: &M, config: &PeftConfig) -> Result<Option<String>> {
    let tokens = |kind: ModuleKind| {
        let named = model.modules().into_iter().filter(|module| module.kind == kind);
        let tokens = named.map(|module| config.trainable_tokens_for(&module.path).to_vec());
        tokens.into_iter().find(|tokens| !tokens.is_empty())
    };
    let (Some(of_embedding), Some(of_head)) = (tokens(ModuleKind::Embedding), tokens(ModuleKind::OutputHead)) else {
        return Ok(None);
    };
    let Some([_, head]) = tied_pair(model) else { return Ok(None) };
    if of_embedding == of_head {
        return Ok(Some(head.path));
    }
    if matches!(config, PeftConfig::Lora(lora) if lora.ties_weights()) {
        return Err(PeftError::Config {
            origin: "adapter".into(),
            problems: vec![format!(
                "ensure_weight_tying with other tokens of the embedding ({of_embedding:?}) than of the head ({of_head:?}) in \
                 trainable_token_indices: name the same tokens of both, or set ensure_weight_tying to false"
            )],
        });
    }
    Ok(None)
}

/// The transpose of a matrix's values, in f32.
pub(crate) fn transposed(data: TensorData) -> TensorData {
    Tensor::<2>::from_data(data.convert_dtype(DType::F32), &Device::flex()).transpose().into_data()
}
