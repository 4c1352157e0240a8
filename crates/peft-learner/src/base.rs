//! A model folder with what belongs to it: weights, tokenizer, chat template.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
pub use llama_burn::Text;
use llama_burn::{CausalModel, Conversation, Encoded, Llama, LoadOptions, Message, hub};

use crate::data::{
    EncodeError, EncodeOptions, EncodeReport, Example, IGNORE_INDEX, Part, Preparation, Prepared, TextEncoder,
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

    fn encode_whole_chat(&self, chat: &Conversation) -> Result<Encoded, EncodeError> {
        // Without a template: the error that says so.
        let Some(template) = &self.template else { return Ok(Text::encode_chat(self, chat)?) };
        let ids = self.tokenizer.encode(&template.render(chat, false)?, false)?;
        let bos = self.tokenizer.bos_token_id();
        let doubled_bos = bos.is_some() && ids.first().copied() == bos && ids.get(1).copied() == bos;
        Ok(Encoded { targets: vec![true; ids.len()], ids, border_moved: false, doubled_bos })
    }

    fn encode_chat_completion(&self, prompt: &Conversation, completion: &[Message]) -> Result<Encoded, EncodeError> {
        Ok(Text::encode_chat_completion(self, prompt, completion)?)
    }

    fn encode_segment(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        Ok(self.tokenizer.encode(text, false)?)
    }

    fn mentions(&self, word: &str) -> bool {
        self.template.as_ref().is_none_or(|template| template.mentions(word))
    }

    fn fingerprint(&self) -> Option<String> {
        Some(Text::fingerprint(self))
    }

    fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }
}

impl From<Encoded> for Example {
    fn from(Encoded { ids, targets, .. }: Encoded) -> Self {
        let learned = |at: usize| targets.get(at) == Some(&true);
        let label = |(at, &id): (usize, &u32)| if learned(at) { id as i32 } else { IGNORE_INDEX };
        Self { labels: ids.iter().enumerate().map(label).collect(), input_ids: ids }
    }
}

/// A base model with what belongs to it.
#[derive(Debug)]
pub struct Base {
    /// The weights.
    pub model: Llama,
    /// Tokenizer and template, where the directory has them.
    pub text: Option<Text>,
    /// The directory that it was read from.
    pub dir: PathBuf,
    /// Notes for the user about how the weights were read.
    pub warnings: Vec<String>,
}

impl Base {
    /// Loads a model directory, or a hub id where the feature `hub` is compiled in. `options` may be the dtype of the
    /// weights in memory alone; `None` keeps the files'.
    ///
    /// # Errors
    /// The errors of [`Llama::load`] and [`Text::from_dir`].
    pub fn load(model: &str, options: impl Into<LoadOptions>, device: &Device) -> Result<Self> {
        let dir = hub::resolve(model, None)?;
        // Before the weights: a tokenizer that is broken is known at once.
        let text = Text::from_dir(&dir)?;
        let (model, warnings) = Llama::load(&dir, &options.into(), device)?;
        Ok(Self { model, text, dir, warnings })
    }

    /// Puts the tokenizer and the chat template of an adapter's folder in the place of the base's, where it has its own, and says
    /// which of its files count.
    ///
    /// # Errors
    /// [`LlamaError`](llama_burn::LlamaError) for files that are there but broken.
    pub fn take_text_from_adapter(&mut self, adapter: impl AsRef<Path>) -> Result<Vec<&'static str>> {
        match &mut self.text {
            Some(text) => Ok(text.take_from_adapter(&self.dir, adapter)?),
            None => {
                self.text = Text::from_dir(&adapter)?;
                Ok(if self.text.is_some() { Text::own_files(&self.dir, adapter)? } else { Vec::new() })
            }
        }
    }

    /// A warning about a tokenizer with tokens that the model, as it is now, has no embedding for.
    pub fn beyond_vocabulary(&self) -> Option<String> {
        self.text.as_ref()?.tokenizer.beyond(self.model.spec().vocab_size)
    }

    /// The token that fills up a batch: the pad token where the model has an embedding for it. Nothing is learned of it or
    /// sees it.
    pub fn pad_id(&self) -> u32 {
        let of_text = self.text.as_ref().and_then(|t| t.tokenizer.pad_token_id());
        let known = |id: &u32| (*id as usize) < self.model.spec().vocab_size;
        self.model.config().pad_token_id.filter(known).or(of_text.filter(known)).unwrap_or(0)
    }

    /// The tokens that end a text.
    pub fn eos_ids(&self) -> Vec<u32> {
        match &self.text {
            Some(text) => text.stop.ids().to_vec(),
            None => self.model.config().eos_token_ids.clone(),
        }
    }

    /// The settings that make examples of data files for this model, of at most `max_length` tokens each.
    pub fn preparation(&self, max_length: usize) -> Preparation<'_> {
        let encoder = self.text.as_ref().map(|text| text as &dyn TextEncoder);
        let options = EncodeOptions { max_length, vocab_size: self.model.spec().vocab_size };
        Preparation::new(encoder, options).stop(self.eos_ids())
    }

    /// The examples of a data file, in memory.
    ///
    /// # Errors
    /// The errors of [`Preparation::sources`].
    pub fn examples(&self, file: impl AsRef<Path>, max_length: usize) -> Result<(Vec<Example>, EncodeReport)> {
        let Prepared { examples, report, .. } =
            self.preparation(max_length).sources(&[file.as_ref().into()], Part::Valid)?;
        Ok((examples.to_vec()?, report))
    }
}
