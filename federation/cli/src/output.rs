//! All that is printed. Data goes to stdout, everything else to stderr.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, Color, Table};
use serde_json::{Map, Value, json};
use specs::id::Revision;
use specs::unit::{Millis, Timestamp};

use crate::args::{Format, FormatArgs};
use crate::client::Stale;
use crate::error::Failure;

/// The version of every JSON document.
const API_VERSION: &str = "spillway/v1";
/// Between two columns of a table.
const GAP: u16 = 2;

/// What is known of the terminal, found out once at the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    pub(crate) is_stdout: bool,
    pub(crate) is_stderr: bool,
    pub(crate) is_coloured: bool,
}

/// Prints in the form that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
    has_headers: bool,
    terminal: Terminal,
    now: Timestamp,
    stale: Option<Stale>,
}

/// How good something is, and so its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Plain,
    Good,
    Busy,
    Bad,
}

/// A cell of a table.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    text: String,
    mood: Mood,
}

impl Item {
    pub(crate) fn of(text: impl ToString) -> Self {
        Self { text: clean(&text.to_string()), mood: Mood::Plain }
    }

    pub(crate) fn with(mood: Mood, text: impl ToString) -> Self {
        Self { mood, ..Self::of(text) }
    }

    /// A dash for nothing.
    pub(crate) fn maybe(text: Option<impl ToString>) -> Self {
        text.map_or_else(|| Self::of("-"), Self::of)
    }
}

/// Something that a listing shows, one line each.
pub(crate) trait Listed {
    /// The `kind` of one in JSON; a listing's adds `List`.
    const KIND: &'static str;
    const HEADERS: &'static [&'static str];
    /// As many items as there are headers.
    fn row(&self, now: Timestamp) -> Vec<Item>;
    fn name(&self) -> String;
    /// An object.
    fn json(&self) -> Value;
}

impl Output {
    pub(crate) fn new(format: FormatArgs, terminal: Terminal, now: Timestamp) -> Self {
        Self { format: format.format, has_headers: !format.no_headers, terminal, now, stale: None }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn terminal(&self) -> Terminal {
        self.terminal
    }

    pub(crate) fn at(&self, now: Timestamp) -> Self {
        Self { now, ..*self }
    }

    /// Says beside the data that nobody vouched for it.
    pub(crate) fn as_of(&self, stale: Option<Stale>) -> Self {
        Self { stale, ..*self }
    }

    /// Tells people how old the data may be.
    fn note_age(&self, revision: Option<Revision>) {
        if let (Some(stale), Some(_)) = (self.stale, revision) {
            let heard = stale.heard.map_or_else(
                || "which has heard no leader since it started".to_owned(),
                |heard| format!("which heard a leader {} ago", span(heard)),
            );
            note(&format!("as of revision {}: {}, {heard}", stale.revision, stale.controller));
        }
    }

    /// The same for programs.
    fn put_age(&self, revision: Option<Revision>, body: &mut Value) {
        let (Some(revision), Some(body)) = (revision, body.as_object_mut()) else { return };
        body.insert("revision".into(), revision.0.into());
        body.insert("stale".into(), self.stale.is_some().into());
        if let Some(stale) = self.stale {
            body.insert("controller".into(), stale.controller.to_string().into());
            body.insert("age_ms".into(), stale.heard.map(|heard| heard.0).into());
        }
    }

    /// Several of a kind. `revision` numbers the state that they were read from.
    pub(crate) fn list<T: Listed>(
        &self,
        items: &[T],
        revision: Option<Revision>,
    ) -> Result<(), Failure> {
        if self.format != Format::Json {
            self.note_age(revision);
        }
        match self.format {
            Format::Table => self.table(items),
            Format::Name => {
                line(&items.iter().map(|item| item.name() + "\n").collect::<String>(), "")
            }
            Format::Json => {
                let kind = format!("{}List", T::KIND);
                let items: Vec<Value> = items.iter().map(Listed::json).collect();
                let mut body = json!({ "items": items });
                self.put_age(revision, &mut body);
                self.document(&kind, body)
            }
        }
    }

    /// One of a kind; as a table, with `details` line by line.
    pub(crate) fn one<T: Listed>(
        &self,
        item: &T,
        revision: Option<Revision>,
        details: impl FnOnce() -> Vec<(&'static str, String)>,
    ) -> Result<(), Failure> {
        if self.format != Format::Json {
            self.note_age(revision);
        }
        match self.format {
            Format::Table => pairs(&details()),
            Format::Name => line(&item.name(), "\n"),
            Format::Json => {
                let mut body = item.json();
                self.put_age(revision, &mut body);
                self.document(T::KIND, body)
            }
        }
    }

    /// A JSON document: one line if it may be followed by others, else for people to read too.
    pub(crate) fn document(&self, kind: &str, body: Value) -> Result<(), Failure> {
        line(&format!("{:#}", document(kind, body)), "\n")
    }

    /// A JSON document on one line.
    pub(crate) fn document_line(&self, kind: &str, body: Value) -> Result<(), Failure> {
        line(&document(kind, body).to_string(), "\n")
    }

    fn table<T: Listed>(&self, items: &[T]) -> Result<(), Failure> {
        line(&self.table_text(items), "")
    }

    /// A table as text, each line ended.
    pub(crate) fn table_text<T: Listed>(&self, items: &[T]) -> String {
        let rows = items.iter().map(|item| item.row(self.now));
        let mut table = bare();
        if self.has_headers {
            table.set_header(T::HEADERS.to_vec());
        }
        for row in rows {
            table.add_row(row.into_iter().map(|item| self.cell(item)).collect::<Vec<Cell>>());
        }
        self.finish(table)
    }

    fn cell(&self, item: Item) -> Cell {
        let cell = Cell::new(item.text);
        match item.mood {
            Mood::Plain => cell,
            Mood::Good => cell.fg(Color::Green),
            Mood::Busy => cell.fg(Color::Yellow),
            Mood::Bad => cell.fg(Color::Red),
        }
    }

    fn finish(&self, mut table: Table) -> String {
        if self.terminal.is_coloured {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        laid_out(table)
    }
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

fn laid_out(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn document(kind: &str, body: Value) -> Value {
    let mut whole = Map::new();
    whole.insert("apiVersion".into(), API_VERSION.into());
    whole.insert("kind".into(), kind.into());
    if let Value::Object(body) = body {
        whole.extend(body);
    }
    Value::Object(whole)
}

/// Names and values, one pair on each line.
pub(crate) fn pairs(pairs: &[(&'static str, String)]) -> Result<(), Failure> {
    let mut table = bare();
    table.force_no_tty();
    for (name, value) in pairs {
        let value = if value.is_empty() { "-" } else { value };
        table.add_row([format!("{name}:"), clean_lines(value)]);
    }
    line(&laid_out(table), "")
}

/// Data as it is.
pub(crate) fn line(text: &str, end: &str) -> Result<(), Failure> {
    bytes(format!("{text}{end}").as_bytes())
}

/// Data as it is.
pub(crate) fn bytes(data: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(data)?;
    out.flush()?;
    Ok(())
}

/// A line for people, on stderr. That it cannot be written changes nothing.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", clean_lines(text));
}

/// Text as it is, on stderr.
pub(crate) fn raw_note(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// What a command ends with, on stderr.
pub(crate) fn failure(failure: &Failure, terminal: Terminal) {
    let text = clean_lines(&failure.text());
    let text = match text.split_once(':') {
        Some((head, rest)) if terminal.is_stderr && terminal.is_coloured => {
            format!("\u{1b}[1;31m{head}\u{1b}[0m:{rest}")
        }
        Some(_) | None => text,
    };
    raw_note(&text);
}

/// Text from elsewhere may hold what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn clean_lines(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// A span in its two largest units.
pub(crate) fn span(span: Millis) -> String {
    let seconds = span.0 / 1_000;
    match seconds {
        0 if span.0 > 0 => format!("{}ms", span.0),
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// How long ago something was; a dash if it never was.
pub(crate) fn age(at: Timestamp, now: Timestamp) -> String {
    if at == Timestamp::ZERO { "-".into() } else { span(Millis(now.minus(at).0)) }
}

/// A moment for people, in UTC; empty if there was none.
pub(crate) fn moment(at: Timestamp) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(moment) if at != Timestamp::ZERO => format!("{moment:.3}"),
        Ok(_) | Err(_) => String::new(),
    }
}

/// A moment for programs, in milliseconds since 1970; null if there was none.
pub(crate) fn moment_ms(at: Timestamp) -> Value {
    if at == Timestamp::ZERO { Value::Null } else { at.0.into() }
}

/// Texts of a list, with commas between them.
pub(crate) fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Texts of a list, for JSON.
pub(crate) fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Terminal = Terminal { is_stdout: false, is_stderr: false, is_coloured: false };

    struct Pet(&'static str, u64);

    impl Listed for Pet {
        const KIND: &'static str = "Pet";
        const HEADERS: &'static [&'static str] = &["NAME", "AGE"];
        fn row(&self, now: Timestamp) -> Vec<Item> {
            vec![Item::of(self.0), Item::with(Mood::Good, age(Timestamp(self.1), now))]
        }
        fn name(&self) -> String {
            self.0.into()
        }
        fn json(&self) -> Value {
            json!({ "name": self.0 })
        }
    }

    fn table(is_coloured: bool, no_headers: bool) -> String {
        let format = FormatArgs { format: Format::Table, no_headers };
        let terminal = Terminal { is_coloured, ..PLAIN };
        let pets = [Pet("cat", 1_000), Pet("tortoise\u{1b}[2J", 0)];
        Output::new(format, terminal, Timestamp(62_000)).table_text(&pets)
    }

    #[test]
    fn a_table_has_no_borders_and_no_trailing_blanks() {
        assert_eq!(
            table(false, false),
            "NAME          AGE\ncat           1m01s\ntortoise [2J  -\n"
        );
        assert_eq!(table(false, true).lines().count(), 2);
    }

    #[test]
    fn colour_is_used_only_when_asked_for() {
        assert!(table(true, true).contains("\u{1b}["));
        assert!(!table(false, true).contains('\u{1b}'));
    }

    #[test]
    fn a_span_is_told_in_its_largest_units() {
        let spans = [(0, "0s"), (999, "999ms"), (59_999, "59s"), (61_000, "1m01s")];
        for (millis, text) in spans {
            assert_eq!(span(Millis(millis)), text);
        }
        assert_eq!(span(Millis(90_061_000)), "1d01h");
    }

    #[test]
    fn a_moment_is_told_in_utc() {
        assert_eq!(moment(Timestamp(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
        assert_eq!(moment(Timestamp(0)), "");
    }
}
