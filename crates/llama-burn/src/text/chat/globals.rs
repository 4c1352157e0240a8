//! Jinja's global functions `cycler`, `joiner` and `namespace`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, from_args};
use minijinja::{Error, State, Value};

use super::fault::{invalid, unsupported};

/// `cycler(...)`: its values one after the other, again and again.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Cycler {
    fn current(&self) -> Value {
        self.items.get(self.at.load(Ordering::Relaxed)).cloned().unwrap_or_default()
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        match method {
            "next" => {
                let current = self.current();
                self.at.store((self.at.load(Ordering::Relaxed) + 1) % self.items.len(), Ordering::Relaxed);
                Ok(current)
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(unsupported(format!("`.{method}()` of a cycler"))),
        }
    }
}

pub(super) fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(invalid("cycler: at least one item has to be provided".to_owned()));
    }
    Ok(Value::from_object(Cycler { items: items.to_vec(), at: AtomicUsize::new(0) }))
}

/// `joiner(separator)`: nothing at the first call, and the separator at every later one.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    used: AtomicBool,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        let used = self.used.swap(true, Ordering::Relaxed);
        Ok(if used { self.separator.clone() } else { Value::from("") })
    }
}

/// `namespace(...)` of a dict, pairs by name, or both.
pub(super) fn namespace(state: &mut State<'_, '_>, given: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for map in given.iter() {
        for key in map.try_iter()? {
            let name = key.as_str().ok_or_else(|| invalid(format!("namespace: {key} is no name")))?;
            all.insert(name.to_owned(), map.get_item(&key)?);
        }
    }
    for name in named.args() {
        all.insert(name.to_owned(), named.get(name)?);
    }
    Value::from_function(minijinja::functions::namespace).call(state, &[Value::from(all)])
}

pub(super) fn joiner(separator: Option<Value>) -> Value {
    let separator = separator.unwrap_or_else(|| Value::from(", "));
    Value::from_object(Joiner { separator, used: AtomicBool::new(false) })
}
