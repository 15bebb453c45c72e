//! A file's values with their positions, and serde over them: an error knows its path and its
//! place, whatever the text's format was.

use alloc::borrow::{Cow, ToOwned};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};

use super::convert::closest;
use super::{Path, Step};

/// A line and a column, both from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Position {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) at: Position,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(Key, Tree)>),
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) at: Position,
    pub(super) name: String,
}

impl Tree {
    /// The position of what a path names, or of the nearest thing around it that exists.
    pub(super) fn find(&self, path: &Path) -> Position {
        let mut here = self;
        let mut at = Position::START;
        for step in path.steps() {
            let next = match (step, &here.kind) {
                (Step::Key(name), Kind::Map(entries)) => entries
                    .iter()
                    .find(|(key, _)| key.name == *name)
                    .map(|(key, value)| (value.shown_at(key), value)),
                (Step::Index(index), Kind::List(list)) => list.get(*index).map(|v| (v.at, v)),
                _ => None,
            };
            let Some((next_at, next)) = next else { break };
            (at, here) = (next_at, next);
        }
        at
    }

    /// A mapping or a list is shown at its name, since its first entry may be far below.
    fn shown_at(&self, key: &Key) -> Position {
        match self.kind {
            Kind::List(_) | Kind::Map(_) | Kind::Null => key.at,
            Kind::Bool(_)
            | Kind::Unsigned(_)
            | Kind::Signed(_)
            | Kind::Float(_)
            | Kind::Text(_) => self.at,
        }
    }
}

/// Why the values do not have the form asked for.
#[derive(Debug)]
pub(super) struct TreeError(Box<Details>);

#[derive(Debug)]
pub(super) struct Details {
    pub(super) path: Path,
    pub(super) at: Option<Position>,
    pub(super) reason: String,
    pub(super) hint: String,
}

impl TreeError {
    fn new(reason: String, hint: String) -> Self {
        Self(Box::new(Details { path: Path::default(), at: None, reason, hint }))
    }

    pub(super) fn into_details(self) -> Details {
        *self.0
    }

    fn under(mut self, step: Step, at: Position) -> Self {
        self.0.path.prepend(step);
        self.0.at.get_or_insert(at);
        self
    }
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.reason)
    }
}

impl core::error::Error for TreeError {}

impl de::Error for TreeError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::new(reason.to_string(), String::new())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let wanted = wanted(expected);
        let is_scalar = matches!(
            found,
            Unexpected::Unsigned(_)
                | Unexpected::Signed(_)
                | Unexpected::Float(_)
                | Unexpected::Bool(_)
        );
        let hint = if is_scalar && wanted.contains("text") { "put it in quotes" } else { "" };
        Self::new(format!("expected {wanted}, found {}", seen(found)), hint.to_owned())
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        let mut error = Self::new("is missing".to_owned(), String::new());
        error.0.path = Path::default().key(field);
        error
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        let hint = match closest(field, known.iter().copied()) {
            Some(close) => format!("did you mean `{close}`? Known here: {}", known.join(", ")),
            None => format!("known here: {}", known.join(", ")),
        };
        Self::new("is not a known field".to_owned(), hint)
    }
}

/// What serde expects, in the words of the file's author.
fn wanted(expected: &dyn Expected) -> Cow<'static, str> {
    let text = expected.to_string();
    match text.as_str() {
        "u64" | "u32" => "a whole number, zero or more".into(),
        "a string" => "a text".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        "a map" => "a mapping".into(),
        _ if text.starts_with("struct ") => "a mapping".into(),
        _ => text.into(),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is serde's")]
fn seen(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Unit => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a mapping".to_owned(),
        Unexpected::Str(text) => {
            let short: String = text.chars().take(40).flat_map(char::escape_debug).collect();
            format!("the text `{short}`")
        }
        other => other.to_string(),
    }
}

impl<'de> Deserializer<'de> for Tree {
    type Error = TreeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(value),
            Kind::Unsigned(value) => visitor.visit_u64(value),
            Kind::Signed(value) => visitor.visit_i64(value),
            Kind::Float(value) => visitor.visit_f64(value),
            Kind::Text(text) => visitor.visit_string(text),
            Kind::List(list) => visitor.visit_seq(Items(list.into_iter().enumerate())),
            Kind::Map(entries) => {
                visitor.visit_map(Entries { rest: entries.into_iter(), value: None })
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        if matches!(self.kind, Kind::Null) {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    /// A name with nothing behind it is an empty mapping.
    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        if matches!(self.kind, Kind::Null) {
            self.kind = Kind::Map(vec![]);
        }
        if matches!(self.kind, Kind::List(_)) {
            return Err(de::Error::invalid_type(Unexpected::Seq, &visitor));
        }
        self.deserialize_any(visitor)
    }

    /// As a struct.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_struct("", &[], visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct enum identifier ignored_any
    }
}

struct Items(core::iter::Enumerate<vec::IntoIter<Tree>>);

impl<'de> SeqAccess<'de> for Items {
    type Error = TreeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, TreeError> {
        let Some((index, item)) = self.0.next() else { return Ok(None) };
        let at = item.at;
        seed.deserialize(item).map(Some).map_err(|error| error.under(Step::Index(index), at))
    }
}

struct Entries {
    rest: vec::IntoIter<(Key, Tree)>,
    value: Option<(Key, Tree)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = TreeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, TreeError> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        let name: StrDeserializer<'_, TreeError> = key.name.as_str().into_deserializer();
        let found = seed.deserialize(name);
        let found = found.map_err(|error| error.under(Step::Key(key.name.clone()), key.at))?;
        self.value = Some((key, value));
        Ok(Some(found))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TreeError> {
        let (key, value) = self.value.take().expect("serde asks for a value after its key");
        let at = value.shown_at(&key);
        seed.deserialize(value).map_err(|error| error.under(Step::Key(key.name), at))
    }
}
