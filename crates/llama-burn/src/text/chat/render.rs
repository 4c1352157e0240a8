//! One rendering of a conversation, and where in it each message and each generation block lies.
//!
//! Templates walk through the messages with a loop. The list that they get notes how much text there is whenever a loop
//! comes to a message: so the places of all turns are known from one rendering, whatever the template does otherwise.

use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr};
use minijinja::{Error, State, Template, Value};

/// The name under which templates see the function that stands for `{% generation %}`.
pub(super) const GENERATION: &str = "__generation";
/// Characters that Unicode keeps out of texts, put round generation blocks that are not written straight to the output.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// A conversation as text.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    /// The text.
    pub text: String,
    /// The spans that `{% generation %}` marks, in bytes and in order.
    pub generation: Vec<Range<usize>>,
    /// The loops over messages that wrote text: where each message begins, and where the loop ends.
    loops: Vec<Walk>,
}

impl Rendered {
    /// Where the text of each message lies, by the last loop that writes any of the messages `wanted`; `None` where no
    /// loop does (a template that collects its text before it writes it).
    pub fn places(&self, messages: usize, wanted: impl Fn(usize) -> bool) -> Option<Vec<Option<Range<usize>>>> {
        let places = |walk: &Walk| {
            let mut places = vec![None; messages];
            let ends = walk.starts.iter().skip(1).map(|(_, start)| *start).chain([walk.end]);
            for ((message, start), end) in walk.starts.iter().zip(ends) {
                places[*message] = Some(*start..end);
            }
            places
        };
        let written = |place: &Option<Range<usize>>| place.as_ref().is_some_and(|place| !place.is_empty());
        let mut found = self.loops.iter().rev().map(places);
        found.find(|places| places.iter().enumerate().any(|(at, place)| wanted(at) && written(place)))
    }

    /// Where the last loop over messages ends, in bytes.
    pub fn end_of_loop(&self) -> Option<usize> {
        self.loops.last().map(|walk| walk.end)
    }
}

/// Renders `template`. `context` makes its variables of the list of messages.
pub(super) fn render(
    template: &Template<'_, '_>,
    messages: &[Value],
    context: impl Fn(Value, Value) -> Value,
) -> Result<Rendered, Error> {
    let run = |marked: bool| -> Result<(String, Arc<Notes>), Error> {
        let notes = Arc::new(Notes { marked, ..Notes::default() });
        let list = Messages { items: messages.to_vec(), notes: Arc::clone(&notes) };
        let context = context(Value::from_object(list), Value::from_object(Generation(Arc::clone(&notes))));
        let mut text = Vec::new();
        template.render_captured_to(context, Counted { text: &mut text, notes: &notes })?;
        let text = String::from_utf8(text).map_err(|error| {
            Error::new(minijinja::ErrorKind::InvalidOperation, format!("the text is not UTF-8: {error}"))
        })?;
        Ok((text, notes))
    };
    let (text, notes) = run(false)?;
    let loops = std::mem::take(&mut *lock(&notes.walks));
    let blocks = std::mem::take(&mut *lock(&notes.blocks));
    let there =
        |(place, said): &(usize, String)| text.get(*place..).is_some_and(|rest| rest.starts_with(said.as_str()));
    let generation = if blocks.iter().all(there) {
        blocks.into_iter().map(|(start, said)| start..start + said.len()).collect()
    } else {
        // Inside a macro or a `set` block: what is written comes to its place later.
        marked(&run(true)?.0, &text)?
    };
    Ok(Rendered { text, generation, loops })
}

/// The places that marks in `marked` enclose, as places in `text`.
fn marked(marked: &str, text: &str) -> Result<Vec<Range<usize>>, Error> {
    let (mut plain, mut open, mut places) = (String::with_capacity(text.len()), Vec::new(), Vec::new());
    for character in marked.chars() {
        match character {
            OPEN => open.push(plain.len()),
            CLOSE => places.extend(open.pop().map(|start| start..plain.len())),
            other => plain.push(other),
        }
    }
    if plain == text && open.is_empty() {
        return Ok(places);
    }
    let message =
        "cannot tell where the text of its {% generation %} blocks comes to lie; write them outside of macros";
    Err(Error::new(minijinja::ErrorKind::InvalidOperation, message))
}

/// Notes that are taken while a template renders.
#[derive(Debug, Default)]
struct Notes {
    /// Bytes written so far.
    written: AtomicUsize,
    /// Whether generation blocks are marked in the text itself.
    marked: bool,
    walks: Mutex<Vec<Walk>>,
    /// Where a generation block begins, and its text.
    blocks: Mutex<Vec<(usize, String)>>,
}

impl Notes {
    fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }
}

/// One loop over messages: which it came to and how much was written then, and how much at its end.
#[derive(Debug, Default)]
struct Walk {
    starts: Vec<(usize, usize)>,
    end: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The output, whose length is counted.
struct Counted<'a> {
    text: &'a mut Vec<u8>,
    notes: &'a Notes,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(bytes);
        self.notes.written.store(self.text.len(), Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `messages` of a template.
#[derive(Debug)]
struct Messages {
    items: Vec<Value>,
    notes: Arc<Notes>,
}

impl Object for Messages {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Iter(Box::new(Steps { messages: Arc::clone(self), at: 0, walk: Walk::default() }))
    }
}

/// A loop over messages.
struct Steps {
    messages: Arc<Messages>,
    at: usize,
    walk: Walk,
}

impl Iterator for Steps {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let item = self.messages.items.get(self.at).cloned()?;
        self.walk.starts.push((self.at, self.messages.notes.written()));
        self.at += 1;
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.messages.items.len() - self.at;
        (left, Some(left))
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.walk.end = self.messages.notes.written();
        // Loops that only look (for the last question, for a system message) write nothing.
        if self.walk.starts.first().is_some_and(|(_, start)| *start < self.walk.end) {
            lock(&self.messages.notes.walks).push(std::mem::take(&mut self.walk));
        }
    }
}

/// `{% generation %}`: a call block whose contents are noted.
struct Generation(Arc<Notes>);

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("generation")
    }
}

impl Object for Generation {
    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let (options,): (Kwargs,) = minijinja::value::from_args(args)?;
        let caller: Value = options.get("caller")?;
        let start = self.0.written();
        let said = caller.call(state, &[])?;
        if self.0.marked {
            return Ok(Value::from(format!("{OPEN}{said}{CLOSE}")));
        }
        lock(&self.0.blocks).push((start, said.to_string()));
        Ok(said)
    }
}
