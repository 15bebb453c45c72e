//! Job files as text: YAML and TOML, with errors that point at a line and a column.

extern crate std;

use alloc::borrow::{Cow, ToOwned};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{MessageFormatter, Spanned};
use toml::de::{DeTable, DeValue};

use super::raw::RawJobFile;
use super::tree::{Key, Kind, Position, Tree};
use super::{JobFileError, Path, Place};
use crate::job::JobSpec;

/// Longest text of a job file, in bytes.
pub const FILE_BYTES_MAX: usize = 512 << 10;
/// Deepest nesting of a job file.
const DEPTH_MAX: usize = 32;
/// Most values of a job file, aliases written out.
const VALUES_MAX: usize = 50_000;

/// How a job file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON too, since it is YAML.
    Yaml,
    Toml,
}

impl Format {
    /// TOML for a name that ends so, YAML for all others.
    #[must_use]
    pub fn of(file_name: &str) -> Self {
        let extension = file_name.rsplit_once('.').map(|(_, extension)| extension);
        if extension.is_some_and(|end| end.eq_ignore_ascii_case("toml")) {
            Self::Toml
        } else {
            Self::Yaml
        }
    }
}

/// Reads a job. `file_name` only appears in errors.
///
/// # Errors
/// Text that is too long, breaks the format, or does not describe a job.
pub fn read(text: &str, format: Format, file_name: &str) -> Result<JobSpec, JobFileError> {
    read_as(text, format, file_name, |raw: RawJobFile| JobSpec::try_from(raw))
}

/// Reads a file that is written like a job's: first as `R`, then what `meant` makes of it, whose
/// errors name fields. `file_name` only appears in errors.
///
/// # Errors
/// Text that is too long, breaks the format, or has no such form; or what `meant` says.
pub fn read_as<R: DeserializeOwned, T>(
    text: &str,
    format: Format,
    file_name: &str,
    meant: impl FnOnce(R) -> Result<T, JobFileError>,
) -> Result<T, JobFileError> {
    let placed = |error: JobFileError, at: Position| error.with_place(place(text, file_name, at));
    if text.len() > FILE_BYTES_MAX {
        let reason =
            format!("such a file is at most {FILE_BYTES_MAX} bytes, this is {}", text.len());
        return Err(JobFileError::new(Path::default(), reason));
    }
    let tree = match format {
        Format::Yaml => yaml(text),
        Format::Toml => toml(text),
    };
    let tree = tree.map_err(|(reason, at)| {
        placed(JobFileError::new(Path::default(), reason), at.unwrap_or(Position::START))
    })?;
    let raw = R::deserialize(tree.clone()).map_err(|error| {
        let details = error.into_details();
        let error = JobFileError::new(details.path, details.reason).with_hint(details.hint);
        placed(error, details.at.unwrap_or(Position::START))
    })?;
    meant(raw).map_err(|error| {
        let at = tree.find(error.path());
        placed(error, at)
    })
}

/// The JSON Schema of a job file, for editors. The copy in `specs/schemas/job.json` is this.
#[must_use]
pub fn schema() -> String {
    let mut schema = schemars::schema_for!(RawJobFile).to_value();
    // Another crate's features decide whether objects keep their order; the text may not.
    schema.sort_all_objects();
    format!("{schema:#}\n")
}

fn place(text: &str, file_name: &str, at: Position) -> Place {
    let source_line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default().to_owned();
    Place { file_name: file_name.to_owned(), line: at.line, column: at.column, source_line }
}

type Unreadable = (String, Option<Position>);

fn yaml(text: &str) -> Result<Tree, Unreadable> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: VALUES_MAX },
    };
    let tree: Spanned<YamlNode> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let error = error.without_snippet();
            let reason = serde_saphyr::DefaultMessageFormatter.format_message(error);
            let reason: String =
                reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            (reason, error.location().map(position))
        })?;
    Ok(tree.into())
}

fn position(location: serde_saphyr::Location) -> Position {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
    Position { line: number(location.line()), column: number(location.column()) }
}

/// What stands at one place of a YAML text.
struct YamlNode(Kind);

impl From<Spanned<YamlNode>> for Tree {
    fn from(node: Spanned<YamlNode>) -> Self {
        Self { at: position(node.referenced), kind: node.value.0 }
    }
}

impl<'de> Deserialize<'de> for YamlNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor).map(Self)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(u64::try_from(value).map_or(Kind::Signed(value), Kind::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Kind, E> {
        Ok(Kind::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Spanned<YamlNode>>()? {
            items.push(item.into());
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Spanned<YamlNode>>()? {
            let key = Key { at: position(key.referenced), name: key.value };
            entries.push((key, value.into()));
        }
        Ok(Kind::Map(entries))
    }
}

fn toml(text: &str) -> Result<Tree, Unreadable> {
    let lines = Lines::new(text);
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map(|span| lines.position(span.start));
        (error.message().to_string(), at)
    })?;
    Ok(Tree { at: Position::START, kind: toml_table(&lines, table.into_inner()) })
}

fn toml_table(lines: &Lines<'_>, table: DeTable<'_>) -> Kind {
    let entry = |(key, value): (toml::Spanned<Cow<'_, str>>, toml::Spanned<DeValue<'_>>)| {
        let at = lines.position(key.span().start);
        (Key { at, name: key.into_inner().into_owned() }, toml_value(lines, value))
    };
    Kind::Map(table.into_iter().map(entry).collect())
}

fn toml_value(lines: &Lines<'_>, value: toml::Spanned<DeValue<'_>>) -> Tree {
    let at = lines.position(value.span().start);
    let kind = match value.into_inner() {
        DeValue::String(value) => Kind::Text(value.into_owned()),
        DeValue::Integer(value) => {
            let (digits, radix) = (value.as_str(), value.radix());
            u64::from_str_radix(digits, radix)
                .map(Kind::Unsigned)
                .or_else(|_| i64::from_str_radix(digits, radix).map(Kind::Signed))
                .unwrap_or(Kind::Float(f64::INFINITY))
        }
        DeValue::Float(value) => Kind::Float(value.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Kind::Bool(value),
        DeValue::Datetime(value) => Kind::Text(value.to_string()),
        DeValue::Array(values) => {
            Kind::List(values.into_iter().map(|value| toml_value(lines, value)).collect())
        }
        DeValue::Table(table) => toml_table(lines, table),
    };
    Tree { at, kind }
}

/// Where the lines of a text begin.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let after = text.match_indices('\n').map(|(newline, _)| newline + 1);
        Self { text, starts: core::iter::once(0).chain(after).collect() }
    }

    fn position(&self, offset: usize) -> Position {
        let line = self.starts.partition_point(|&start| start <= offset);
        let start = self.starts[line - 1];
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Position { line, column }
    }
}
