//! The values of a GGUF file's metadata, read from bytes that may say anything.

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

impl Value {
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(n) => Some(n),
            Self::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Float(x) => Some(x),
            Self::Unsigned(n) => Some(n as f64),
            Self::Signed(n) => Some(n as f64),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(flag) = self { Some(*flag) } else { None }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }
}

/// A fault and its place in the file.
pub(super) type Problem = String;

/// Bytes that are read from the front. Nothing is taken from memory for a length before that many bytes are known to be
/// there.
pub(super) struct Bytes<'a> {
    all: &'a [u8],
    pub at: usize,
}

/// How deep lists may lie in lists.
const DEPTH: usize = 4;

impl<'a> Bytes<'a> {
    pub fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    pub fn left(&self) -> usize {
        self.all.len() - self.at
    }

    pub fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], Problem> {
        let left = self.left();
        match usize::try_from(len).ok().filter(|len| *len <= left) {
            Some(len) => {
                let bytes = &self.all[self.at..self.at + len];
                self.at += len;
                Ok(bytes)
            }
            None => Err(format!("{what} at byte {} is {len} bytes long, and {left} are left", self.at)),
        }
    }

    fn number<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, what)?);
        Ok(bytes)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, Problem> {
        self.number(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &str) -> Result<u64, Problem> {
        self.number(what).map(u64::from_le_bytes)
    }

    pub fn text(&mut self, what: &str) -> Result<String, Problem> {
        let (at, len) = (self.at, self.u64(what)?);
        let bytes = self.take(len, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            // Vocabularies of old converters hold pieces of characters.
            Err(_) if what == "an entry" => Ok(String::from_utf8_lossy(bytes).into_owned()),
            Err(_) => Err(format!("{what} at byte {at} is not UTF-8")),
        }
    }

    /// A value of the type `kind`.
    pub fn value(&mut self, kind: u32, what: &str, depth: usize) -> Result<Value, Problem> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(u8::from_le_bytes(self.number(what)?))),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.number(what)?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.number(what)?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.number(what)?))),
            4 => Value::Unsigned(u64::from(self.u32(what)?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.number(what)?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.number(what)?))),
            7 => match self.number::<1>(what)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("{what} is a flag, and {other} is neither 0 nor 1")),
            },
            8 => Value::Text(self.text(what)?),
            9 => self.list(what, depth)?,
            10 => Value::Unsigned(self.u64(what)?),
            11 => Value::Signed(i64::from_le_bytes(self.number(what)?)),
            12 => Value::Float(f64::from_le_bytes(self.number(what)?)),
            _ => return Err(format!("{what} is of the unknown type {kind}")),
        })
    }

    fn list(&mut self, what: &str, depth: usize) -> Result<Value, Problem> {
        if depth >= DEPTH {
            return Err(format!("{what} has lists in lists in lists"));
        }
        let (kind, len) = (self.u32(what)?, self.u64(what)?);
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            9 => 12,
            _ => 8,
        };
        let count = usize::try_from(len).ok().filter(|len| *len <= self.left() / least);
        let Some(count) = count else {
            return Err(format!("{what} at byte {} has {len} entries, and {} bytes are left", self.at, self.left()));
        };
        let what = if kind == 8 { "an entry" } else { what };
        (0..count).map(|_| self.value(kind, what, depth + 1)).collect::<Result<_, _>>().map(Value::List)
    }
}
