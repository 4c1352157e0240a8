//! A model's modules by their paths, and how one is built from named tensors.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use fused_burn::Weight;
use peft_burn::{PeftEmbedding, PeftLinear};

use super::norm::RmsNorm;
use crate::config::LlamaConfig;
use crate::tensors::Kind;

/// A module that holds weights.
pub(crate) enum PartRef<'a> {
    Embedding(&'a PeftEmbedding),
    Linear(&'a PeftLinear),
    Norm(&'a RmsNorm),
}

/// The same, to change.
pub(crate) enum PartMut<'a> {
    Embedding(&'a mut PeftEmbedding),
    Linear(&'a mut PeftLinear),
    Norm(&'a mut RmsNorm),
}

/// A part of modules that hold weights. `path` is the module's own; parts come with their whole paths, in the
/// order of the forward pass.
pub(crate) trait Parts {
    fn parts<'a>(&'a self, path: &str, all: &mut Vec<(String, PartRef<'a>)>);
    fn parts_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, PartMut<'a>)>);
}

/// Implements [`Parts`] for a struct by the names of its fields, which are Transformers'.
macro_rules! parts {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::model::parts::Parts for $type {
            fn parts<'a>(&'a self, path: &str, all: &mut Vec<(String, $crate::model::parts::PartRef<'a>)>) {
                $(self.$field.parts(&format!("{path}.{}", stringify!($field)), all);)*
            }

            fn parts_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, $crate::model::parts::PartMut<'a>)>) {
                $(self.$field.parts_mut(&format!("{path}.{}", stringify!($field)), all);)*
            }
        }
    };
}
pub(crate) use parts;

macro_rules! single {
    ($($kind:ident: $type:ty),*) => {$(
        impl Parts for $type {
            fn parts<'a>(&'a self, path: &str, all: &mut Vec<(String, PartRef<'a>)>) {
                all.push((path.to_owned(), PartRef::$kind(self)));
            }

            fn parts_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, PartMut<'a>)>) {
                all.push((path.to_owned(), PartMut::$kind(self)));
            }
        }
    )*};
}

single!(Embedding: PeftEmbedding, Linear: PeftLinear, Norm: RmsNorm);

impl<P: Parts> Parts for Option<P> {
    fn parts<'a>(&'a self, path: &str, all: &mut Vec<(String, PartRef<'a>)>) {
        self.iter().for_each(|part| part.parts(path, all));
    }

    fn parts_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, PartMut<'a>)>) {
        self.iter_mut().for_each(|part| part.parts_mut(path, all));
    }
}

impl<P: Parts> Parts for Vec<P> {
    fn parts<'a>(&'a self, path: &str, all: &mut Vec<(String, PartRef<'a>)>) {
        self.iter().enumerate().for_each(|(i, part)| part.parts(&format!("{path}.{i}"), all));
    }

    fn parts_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, PartMut<'a>)>) {
        self.iter_mut().enumerate().for_each(|(i, part)| part.parts_mut(&format!("{path}.{i}"), all));
    }
}

/// Where a new model's weights come from.
pub(crate) trait Source {
    /// Why there may be none.
    type Error;

    /// The tensor that Transformers calls `name`, of the shape `shape`.
    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Result<Tensor<D>, Self::Error>;

    /// The weight of a projection or an embedding, which may be packed.
    fn weight(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight, Self::Error> {
        Ok(self.tensor(name, shape)?.into())
    }
}

/// Builds modules by their paths, from a configuration's table and a source of tensors.
pub(crate) struct Builder<'a, S> {
    pub config: &'a LlamaConfig,
    /// Each module with its place in the table.
    table: BTreeMap<String, (usize, Kind)>,
    source: S,
}

impl<'a, S: Source> Builder<'a, S> {
    pub fn new(config: &'a LlamaConfig, source: S) -> Self {
        let table = config.table().into_iter().enumerate().map(|(slot, (path, kind))| (path, (slot, kind)));
        Self { config, table: table.collect(), source }
    }

    fn place(&self, path: &str) -> (usize, Kind) {
        // A test builds a model: its structs and the table name the same modules.
        self.table.get(path).copied().unwrap_or_else(|| unreachable!("{path} is not in the table"))
    }

    pub fn embedding(&mut self, path: &str) -> Result<PeftEmbedding, S::Error> {
        let (slot, Kind::Embedding { rows, width }) = self.place(path) else { unreachable!("{path} is no embedding") };
        Ok(PeftEmbedding::new(self.source.weight(&format!("{path}.weight"), [rows, width])?).with_slot(slot))
    }

    pub fn norm(&mut self, path: &str) -> Result<RmsNorm, S::Error> {
        let (_, Kind::Norm { width }) = self.place(path) else { unreachable!("{path} is no norm") };
        let norm = RmsNorm::new(self.source.tensor(&format!("{path}.weight"), [width])?, self.config.rms_norm_eps);
        Ok(norm.with_offset(if self.config.decoder.norm_offset { 1.0 } else { 0.0 }))
    }

    pub fn linear(&mut self, path: &str) -> Result<PeftLinear, S::Error> {
        let (slot, Kind::Linear { inp, out, bias }) = self.place(path) else { unreachable!("{path} is no projection") };
        let weight = self.source.weight(&format!("{path}.weight"), [out, inp])?;
        let bias = if bias { Some(self.source.tensor(&format!("{path}.bias"), [out])?) } else { None };
        Ok(PeftLinear::new(weight, bias).with_slot(slot))
    }

    /// The head; one that is tied shares the memory of `embedding`.
    pub fn head(&mut self, path: &str, embedding: &PeftEmbedding) -> Result<PeftLinear, S::Error> {
        let (slot, Kind::Head { inp, out, tied }) = self.place(path) else { unreachable!("{path} is no head") };
        let weight =
            if tied { embedding.base().val() } else { self.source.weight(&format!("{path}.weight"), [out, inp])? };
        Ok(PeftLinear::new(weight, None).with_slot(slot))
    }
}
