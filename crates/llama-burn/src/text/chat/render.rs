//! One rendering of a conversation, and where in it each message and each generation block lies.
//!
//! Templates walk through the messages with a loop. The list that they get notes how much text there is whenever a loop
//! comes to a message: so the places of all turns are known from one rendering, whatever the template does otherwise.

use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr};
use minijinja::{Error, State, Template, Value};

/// The name under which templates see the function that stands for `{% generation %}`.
pub(super) const GENERATION: &str = "__generation";
/// The name of the function that stands for `loop.nextitem`: it takes the loop, and looks at the next message without going on
/// to it.
pub(super) const NEXT: &str = "__next";
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
    /// Whether a loop went on to its next message before it was done with the present one.
    pub looked_ahead: bool,
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
    context: impl Fn(Value, [(&'static str, Value); 2]) -> Value,
) -> Result<Rendered, Error> {
    let run = |marked: bool| -> Result<(String, Arc<Notes>), Error> {
        let notes = Arc::new(Notes { marked, ..Notes::default() });
        let list = Messages { items: messages.to_vec(), notes: Arc::clone(&notes) };
        let functions = [
            (GENERATION, Value::from_object(Generation(Arc::clone(&notes)))),
            (NEXT, Value::from_object(Next { items: messages.to_vec(), notes: Arc::clone(&notes) })),
        ];
        let context = context(Value::from_object(list), functions);
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
    Ok(Rendered { text, generation, loops, looked_ahead: notes.looked_ahead.load(Ordering::Relaxed) })
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
    /// How many messages each loop that is going on has come to, the innermost last.
    open: Mutex<Vec<Arc<AtomicUsize>>>,
    looked_ahead: AtomicBool,
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
        let at = Arc::new(AtomicUsize::new(0));
        lock(&self.notes.open).push(Arc::clone(&at));
        Enumerator::Iter(Box::new(Steps { messages: Arc::clone(self), at, walk: Walk::default() }))
    }
}

/// A loop over messages.
struct Steps {
    messages: Arc<Messages>,
    /// The next message.
    at: Arc<AtomicUsize>,
    walk: Walk,
}

impl Iterator for Steps {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let at = self.at.load(Ordering::Relaxed);
        let item = self.messages.items.get(at).cloned()?;
        self.walk.starts.push((at, self.messages.notes.written()));
        self.at.store(at + 1, Ordering::Relaxed);
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.messages.items.len() - self.at.load(Ordering::Relaxed);
        (left, Some(left))
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.walk.end = self.messages.notes.written();
        lock(&self.messages.notes.open).retain(|at| !Arc::ptr_eq(at, &self.at));
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

/// `loop.nextitem`: a loop that looks at its next item has come to it. Of a loop over the messages the next one is known without
/// that.
struct Next {
    items: Vec<Value>,
    notes: Arc<Notes>,
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("next")
    }
}

impl Object for Next {
    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let (walk,): (Value,) = minijinja::value::from_args(args)?;
        let number = |name: &str| walk.get_attr(name).ok().and_then(|value| value.as_usize());
        let innermost = lock(&self.notes.open).last().map(|at| at.load(Ordering::Relaxed));
        // Messages that a slice leaves out at the beginning are missing from the loop's length and from its count alike.
        if let (Some(at), Some(index), Some(length)) = (innermost, number("index"), number("length"))
            && at.checked_sub(index) == self.items.len().checked_sub(length)
        {
            return Ok(self.items.get(at).cloned().unwrap_or_default());
        }
        if innermost.is_some() {
            self.notes.looked_ahead.store(true, Ordering::Relaxed);
        }
        walk.get_attr("nextitem")
    }
}
