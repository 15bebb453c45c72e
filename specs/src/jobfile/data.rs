//! What a job reads, and when it should have ended.

use alloc::format;
use alloc::vec::Vec;

use super::convert::{named, shown, span};
use super::needs::parse_mib;
use super::raw::{RawData, RawTime};
use super::{JobFileError, Path};
use crate::job::{DATA_MAX, DataNeed, Deadline};
use crate::unit::{Millis, Timestamp};

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

pub(super) fn data(written: &[RawData]) -> Result<Vec<DataNeed>, JobFileError> {
    let path = Path::of("spec.data");
    if written.len() > DATA_MAX {
        let reason = format!("{} entries are more than {DATA_MAX}", written.len());
        return Err(JobFileError::new(path, reason));
    }
    let one = |(nth, it): (usize, &RawData)| {
        let path = path.clone().index(nth);
        let name = named(&path.clone().key("name"), &it.name)?;
        Ok(DataNeed { name, bytes: size(path.key("size"), it.size.as_deref())? })
    };
    written.iter().enumerate().map(one).collect()
}

fn size(path: Path, written: Option<&str>) -> Result<u64, JobFileError> {
    let Some(written) = written else { return Ok(0) };
    match parse_mib(written).and_then(|mib| mib.checked_mul(MIB)) {
        Some(0) => Err(JobFileError::new(path, "zero is nothing to read")
            .with_hint("leave `size` out if its home knows it")),
        Some(bytes) => Ok(bytes),
        None => {
            let reason = format!("`{}` is not a size", shown(written));
            Err(JobFileError::new(path, reason).with_hint("write it as `800Gi` or `2Ti`"))
        }
    }
}

pub(super) fn deadline(written: &RawTime) -> Result<Option<Deadline>, JobFileError> {
    let (within, by) = ("spec.time.finishWithin", "spec.time.finishBy");
    match (written.finish_within.as_deref(), written.finish_by.as_deref()) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(JobFileError::new(Path::of(by), "`finishWithin` is given, too")
            .with_hint("leave one of them out")),
        (Some(text), None) => {
            let span = span(within, Some(text), Millis::ZERO)?;
            if span == Millis::ZERO {
                return Err(JobFileError::new(Path::of(within), "zero leaves no time to run"));
            }
            Ok(Some(Deadline { within: span, by: Timestamp(0) }))
        }
        (None, Some(text)) => match parse_time(text) {
            Some(by) => Ok(Some(Deadline { within: Millis::ZERO, by })),
            None => {
                let reason = format!("`{}` is not a time with its zone", shown(text));
                let hint = "write it as `2026-12-24T06:00:00+01:00` or with `Z`";
                Err(JobFileError::new(Path::of(by), reason).with_hint(hint))
            }
        },
    }
}

/// A time as RFC 3339 writes it, from 1970 to 9999.
fn parse_time(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|_| is_number)
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    let is_marked = marks.iter().all(|(at, mark)| bytes.get(*at) == Some(mark));
    if !is_marked || !matches!(bytes.get(10), Some(b'T' | b't')) {
        return None;
    }
    let (fraction, zone) = fraction(text.get(19..)?)?;
    let offset = offset(zone)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days(year, month, day)? * 86_400 + hour * 3_600 + minute * 60 + second;
    let millis = (seconds * 1_000).checked_add(fraction)?;
    Some(Timestamp(millis.checked_add_signed(-offset)?)).filter(|at| at.0 > 0)
}

/// Milliseconds, and what stands behind them.
fn fraction(text: &str) -> Option<(u64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    let (digits, zone) = rest.split_at(end);
    let digit = |at: usize| digits.as_bytes().get(at).map_or(0, |digit| u64::from(digit - b'0'));
    (!digits.is_empty()).then(|| (digit(0) * 100 + digit(1) * 10 + digit(2), zone))
}

/// Milliseconds by which a zone is ahead.
fn offset(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':').filter(|_| rest.len() == 5)?;
    let is_number = rest.bytes().all(|c| c.is_ascii_digit() || c == b':');
    let (hours, minutes) = (hours.parse::<i64>().ok()?, minutes.parse::<i64>().ok()?);
    (is_number && hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60_000)
}

/// Days from 1970 to a day of the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::try_from(month.checked_sub(1)?).ok()?;
    let length = *lengths.get(before)?;
    if year < 1970 || day == 0 || day > length {
        return None;
    }
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let whole = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    Some(whole + lengths.iter().take(before).sum::<u64>() + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_with_its_zone() {
        let times = [
            ("1970-01-01T00:00:00.001Z", Some(1)),
            ("2026-12-24T06:00:00+01:00", Some(1_798_088_400_000)),
            ("2026-12-24T05:00:00Z", Some(1_798_088_400_000)),
            ("2024-02-29T12:00:00.25-05:30", Some(1_709_227_800_250)),
            ("2026-02-29T12:00:00Z", None),
            ("2026-12-24T06:00:00", None),
            ("2026-12-24 06:00:00Z", None),
            ("2026-12-24", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-12-24T24:00:00Z", None),
            ("2026-12-24T06:00:00+1:00", None),
            ("2026-12-24T06:00:00.Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("", None),
            ("tomorrow", None),
        ];
        for (text, millis) in times {
            assert_eq!(parse_time(text), millis.map(Timestamp), "{text:?}");
        }
    }
}
