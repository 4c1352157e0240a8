//! Headers of the assistant's turns that no generation prompt gives: of templates without `add_generation_prompt`.

use super::ChatTemplate;
use crate::text::message::{Conversation, Message};

/// The words of an assistant that find out what the template writes before them.
const SAID: &str = "Understood, thanks.";

impl ChatTemplate {
    /// The header that a template without `add_generation_prompt` writes before the words of an assistant that goes on with `before`; `None`
    /// where that is white space or the beginning of a text alone, and where the template refuses such a conversation.
    pub(in crate::text) fn header_without_prompt(&self, before: &Conversation) -> Option<String> {
        // One with it may leave it out, where an answer of a tool lies within the assistant's turn.
        if self.mentions("add_generation_prompt") {
            return None;
        }
        let mut whole = before.clone();
        whole.messages.push(Message::new("assistant", SAID));
        let at = before.messages.len();
        let rendered = self.rendered(&whole, false).ok()?;
        let places = rendered.places(at + 1, |message| message == at);
        let start = match places.and_then(|places| places.get(at).cloned().flatten()) {
            Some(place) => place.start,
            None => {
                let alone = self.render(before, false).ok()?;
                rendered.text.starts_with(&alone).then_some(alone.len())?
            }
        };
        let (header, _) = rendered.text.get(start..)?.rsplit_once(SAID)?;
        let bos = self.environment.render_str("{{ bos_token }}", ()).unwrap_or_default();
        let header = header.strip_prefix(bos.as_str()).unwrap_or(header);
        (!header.trim().is_empty()).then(|| header.to_owned())
    }
}
