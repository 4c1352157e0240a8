//! A model folder with what belongs to it: weights, tokenizer, chat template.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType};
pub use llama_burn::Text;
use llama_burn::{CausalModel, Conversation, Encoded, Llama, LlamaConfig, Message, hub};

use crate::config::Dtype;
use crate::data::{
    EncodeError, EncodeOptions, EncodeReport, Example, Part, Preparation, Prepared, TextEncoder,
};
use crate::error::Result;

impl TextEncoder for Text {
    fn encode_text(&self, text: &str) -> Result<Encoded, EncodeError> {
        Ok(Text::encode_text(self, text)?)
    }

    fn encode_completion(&self, prompt: &str, completion: &str) -> Result<Encoded, EncodeError> {
        Ok(Text::encode_completion(self, prompt, completion)?)
    }

    fn encode_chat(&self, chat: &Conversation) -> Result<Encoded, EncodeError> {
        Ok(Text::encode_chat(self, chat)?)
    }

    fn encode_chat_completion(&self, prompt: &Conversation, completion: &[Message]) -> Result<Encoded, EncodeError> {
        Ok(Text::encode_chat_completion(self, prompt, completion)?)
    }

    fn mentions(&self, word: &str) -> bool {
        self.template.as_ref().is_none_or(|template| template.mentions(word))
    }

    fn fingerprint(&self) -> Option<String> {
        Some(Text::fingerprint(self))
    }
}

/// A base model with what belongs to it.
#[derive(Debug)]
pub struct Base {
    /// The weights.
    pub model: Llama,
    /// Tokenizer and template, where the directory has them.
    pub text: Option<Text>,
    /// Where it was read from.
    pub dir: PathBuf,
}

impl Base {
    /// Loads a model directory, or a hub id where the feature `hub` is compiled in. `dtype` is that of the weights in
    /// memory; `None` keeps the files'.
    ///
    /// # Errors
    /// What [`Llama::from_dir`] and [`Text::from_dir`] report.
    pub fn load(model: &str, dtype: Option<FloatDType>, device: &Device) -> Result<Self> {
        let dir = hub::resolve(model, None)?;
        let config = LlamaConfig::from_dir(&dir)?;
        let text = Text::from_dir(&dir)?;
        if let Some(text) = &text {
            text.tokenizer.check_vocabulary(config.vocab_size)?;
        }
        let model = Llama::from_dir(&dir, dtype, device)?;
        Ok(Self { model, text, dir })
    }

    /// What fills up a batch.
    pub fn pad_id(&self) -> u32 {
        let of_text = self.text.as_ref().and_then(|t| t.tokenizer.pad_token_id());
        self.model.config().pad_token_id.or(of_text).unwrap_or(0)
    }

    /// The tokens that end a text.
    pub fn eos_ids(&self) -> Vec<u32> {
        match &self.text {
            Some(text) => text.stop.ids().to_vec(),
            None => self.model.config().eos_token_ids.clone(),
        }
    }

    /// What makes examples of data files for this model, of at most `max_length` tokens each.
    pub fn preparation(&self, max_length: usize) -> Preparation<'_> {
        let encoder = self.text.as_ref().map(|text| text as &dyn TextEncoder);
        let options = EncodeOptions { max_length, vocab_size: self.model.spec().vocab_size };
        Preparation::new(encoder, options).stop(self.eos_ids())
    }

    /// The examples of a data file, in memory.
    ///
    /// # Errors
    /// What [`Preparation::sources`] reports.
    pub fn examples(&self, file: impl AsRef<Path>, max_length: usize) -> Result<(Vec<Example>, EncodeReport)> {
        let Prepared { examples, report, .. } =
            self.preparation(max_length).sources(&[file.as_ref().into()], Part::Valid)?;
        Ok((examples.to_vec()?, report))
    }
}

impl From<Dtype> for FloatDType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::BF16,
        }
    }
}
