//! Head and embedding trained as one: PEFT's `ensure_weight_tying`.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::adaptable::AdaptableModel;
use crate::error::{Result, Unsupported};
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
    resolution.tied = saved || adapted;
    Ok(())
}

/// The transpose of a matrix's values, in f32.
pub(crate) fn transposed(data: TensorData) -> TensorData {
    Tensor::<2>::from_data(data.convert_dtype(DType::F32), &Device::flex()).transpose().into_data()
}
