//! Tables from files: CSV, plain or gzip, columns by name in any order.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use csv::{ErrorKind, StringRecord};
use flate2::bufread::MultiGzDecoder;

/// Longest span or count that a trace may hold: beyond it a sum could overflow.
const NUMBER_MAX: u64 = 1 << 40;

/// Why a file cannot be used. Each names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: the file is empty; a header row with the columns' names was expected", path.display())]
    Empty { path: PathBuf },
    #[error("{}:{line}: there are no rows below the header", path.display())]
    NoRows { path: PathBuf, line: u64 },
    #[error("{}:1: column `{column}` is missing; there are: {has}", path.display())]
    MissingColumn { path: PathBuf, column: &'static str, has: String },
    #[error("{}:1: column `{column}` is there twice", path.display())]
    RepeatedColumn { path: PathBuf, column: String },
    #[error("{}:{line}: column `{column}`: {reason}", path.display())]
    Value { path: PathBuf, line: u64, column: &'static str, reason: String },
    #[error("{}:{line}: {reason}", path.display())]
    Row { path: PathBuf, line: u64, reason: String },
    #[error("{}:{line}: the gzip data is cut off or damaged: {reason}; copy the file again", path.display())]
    Gzip { path: PathBuf, line: u64, reason: String },
}

impl ReadError {
    /// True if the file could not be opened or read at all, so that nothing is wrong with its
    /// content.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Told how many bytes of how many were read.
pub trait Progress {
    fn read(&mut self, bytes: u64, of: u64);
    fn step(&mut self, what: &str, done: u64, of: u64);
}

/// Tells nobody.
#[derive(Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn read(&mut self, _: u64, _: u64) {}
    fn step(&mut self, _: &str, _: u64, _: u64) {}
}

/// A table that is read row by row.
pub(crate) struct Table<'a> {
    path: PathBuf,
    is_gzip: bool,
    bytes: u64,
    headers: Vec<String>,
    reader: csv::Reader<Box<dyn Read>>,
    record: StringRecord,
    line: u64,
    progress: &'a mut dyn Progress,
}

impl<'a> Table<'a> {
    pub(crate) fn open(path: &Path, progress: &'a mut dyn Progress) -> Result<Self, ReadError> {
        let fault = |source| ReadError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(fault)?;
        let bytes = file.metadata().map_err(fault)?.len();
        let mut buffered = BufReader::new(file);
        let head = buffered.fill_buf().map_err(fault)?;
        let is_gzip = head.starts_with(&[0x1f, 0x8b]);
        if head.is_empty() {
            return Err(ReadError::Empty { path: path.to_owned() });
        }
        let data: Box<dyn Read> =
            if is_gzip { Box::new(MultiGzDecoder::new(buffered)) } else { Box::new(buffered) };
        let reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(data);
        let mut table = Self {
            path: path.to_owned(),
            is_gzip,
            bytes,
            headers: Vec::new(),
            reader,
            record: StringRecord::new(),
            line: 1,
            progress,
        };
        table.read_headers()?;
        Ok(table)
    }

    fn read_headers(&mut self) -> Result<(), ReadError> {
        let headers = self.reader.headers().cloned().map_err(|error| self.csv_fault(&error))?;
        let named = |name: &str| name.trim_start_matches('\u{feff}').to_owned();
        self.headers = headers.iter().map(named).collect();
        if self.headers.iter().all(String::is_empty) {
            return Err(ReadError::Empty { path: self.path.clone() });
        }
        for (nth, column) in self.headers.iter().enumerate() {
            if !column.is_empty() && self.headers[..nth].contains(column) {
                let (path, column) = (self.path.clone(), column.clone());
                return Err(ReadError::RepeatedColumn { path, column });
            }
        }
        Ok(())
    }

    pub(crate) fn column(&self, name: &'static str) -> Option<Column> {
        self.headers.iter().position(|header| header == name).map(|at| Column { name, at })
    }

    pub(crate) fn needed(&self, name: &'static str) -> Result<Column, ReadError> {
        self.column(name).ok_or_else(|| ReadError::MissingColumn {
            path: self.path.clone(),
            column: name,
            has: self.headers.join(", "),
        })
    }

    /// Goes to the next row; false after the last.
    pub(crate) fn advance(&mut self) -> Result<bool, ReadError> {
        let read = self.reader.read_record(&mut self.record);
        let is_row = read.map_err(|error| self.csv_fault(&error))?;
        self.line = self.record.position().map_or(self.line, csv::Position::line);
        // No value has lines; a quote that is not closed would swallow all rows below it.
        if is_row && self.record.as_slice().contains('\n') {
            return Err(self.row_fault("a value has several lines; a quote is not closed"));
        }
        if is_row && self.line.is_multiple_of(8_192) {
            let at = self.reader.position().byte();
            // How far a gzip file is cannot be asked for; such tables shrink about eightfold.
            let at = if self.is_gzip { at / 8 } else { at };
            self.progress.read(at.min(self.bytes), self.bytes);
        }
        Ok(is_row)
    }

    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    pub(crate) fn no_rows(&self) -> ReadError {
        ReadError::NoRows { path: self.path.clone(), line: 1 }
    }

    /// The text in that column, empty if the column is not there.
    pub(crate) fn text(&self, column: Option<Column>) -> &str {
        column.and_then(|column| self.record.get(column.at)).unwrap_or_default()
    }

    /// The whole number in that column; a fraction is cut off, as in seconds with decimals.
    pub(crate) fn number(&self, column: Column) -> Result<u64, ReadError> {
        let text = self.text(Some(column));
        let fault = |reason: String| ReadError::Value {
            path: self.path.clone(),
            line: self.line,
            column: column.name,
            reason,
        };
        if text.is_empty() {
            return Err(fault("the value is empty; a number was expected".to_owned()));
        }
        if text.strip_prefix('-').is_some_and(|rest| rest.parse::<f64>().is_ok()) {
            return Err(fault(format!("`{text}` is negative")));
        }
        let whole = match text.split_once('.') {
            Some((whole, part)) if part.bytes().all(|byte| byte.is_ascii_digit()) => whole,
            Some(_) | None => text,
        };
        let number = whole.parse().map_err(|_| fault(format!("`{text}` is not a number")))?;
        if number > NUMBER_MAX {
            return Err(fault(format!("{number} is more than {NUMBER_MAX}")));
        }
        Ok(number)
    }

    /// The number in that column, with decimals and of either sign.
    pub(crate) fn decimal(&self, column: Column) -> Result<f64, ReadError> {
        let text = self.text(Some(column));
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        number.ok_or_else(|| ReadError::Value {
            path: self.path.clone(),
            line: self.line,
            column: column.name,
            reason: format!("`{text}` is not a number"),
        })
    }

    /// As [`Table::number`], for a column that may be absent or empty.
    pub(crate) fn maybe_number(&self, column: Option<Column>) -> Result<Option<u64>, ReadError> {
        match column {
            Some(column) if !self.text(Some(column)).is_empty() => self.number(column).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// As [`Table::number`], for what must be between two bounds.
    pub(crate) fn bounded(&self, column: Column, min: u32, max: u32) -> Result<u32, ReadError> {
        let number = self.number(column)?;
        let fits = u32::try_from(number).ok().filter(|number| (min..=max).contains(number));
        fits.ok_or_else(|| ReadError::Value {
            path: self.path.clone(),
            line: self.line,
            column: column.name,
            reason: format!("{number} is not between {min} and {max}"),
        })
    }

    pub(crate) fn row_fault(&self, reason: impl Into<String>) -> ReadError {
        ReadError::Row { path: self.path.clone(), line: self.line, reason: reason.into() }
    }

    fn csv_fault(&self, error: &csv::Error) -> ReadError {
        let path = self.path.clone();
        let line = error.position().map_or(self.line, csv::Position::line);
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is the crate's, and open")]
        match error.kind() {
            ErrorKind::Io(source) if self.is_gzip => {
                ReadError::Gzip { path, line: self.line, reason: source.to_string() }
            }
            ErrorKind::Io(source) => {
                ReadError::Io { path, source: io::Error::new(source.kind(), source.to_string()) }
            }
            ErrorKind::UnequalLengths { expected_len, len, .. } => {
                let reason = format!("{len} values, but the header names {expected_len} columns");
                ReadError::Row { path, line, reason }
            }
            ErrorKind::Utf8 { err, .. } => {
                ReadError::Row { path, line, reason: format!("not UTF-8: {err}") }
            }
            _ => ReadError::Row { path, line, reason: error.to_string() },
        }
    }
}

/// Where a column is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    name: &'static str,
    at: usize,
}
