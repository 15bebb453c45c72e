//! The bytes of one value of every message, kept. A message may gain fields, never change them:
//! each line that was ever kept must still be read, and written again byte for byte.
//!
//! `UPDATE=1 cargo test -p specs --test golden` adds what is missing and changes nothing else.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use specs::codec::{DecodeError, Message};

#[path = "golden/controllers.rs"]
mod controllers;
#[path = "golden/measures.rs"]
mod measures;
#[path = "golden/signals.rs"]
mod signals;
#[path = "golden/values.rs"]
mod values;

/// The sources that define messages; what they define must be among the values.
const SOURCES: &[&str] = &[
    "fault",
    "gpu",
    "job",
    "measure",
    "quota",
    "signals",
    "site",
    "wire/agent",
    "wire/client",
    "wire/join",
    "wire/method",
    "wire/peer",
];

/// One value of a message.
pub(crate) struct Sample {
    /// The message's module and name: `agent.NodeReport`.
    name: String,
    bytes: Vec<u8>,
    /// Reads bytes as this message and writes it again.
    again: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

pub(crate) fn sample<M: Message>(value: &M) -> Sample {
    let path: Vec<&str> = std::any::type_name::<M>().rsplit("::").take(2).collect();
    Sample {
        name: format!("{}.{}", path[1], path[0]),
        bytes: value.encode(),
        again: |bytes| M::decode(bytes).map(|value| value.encode()),
    }
}

fn here(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// The kept lines, `name bytes`, the oldest of a name first.
fn kept(file: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(here("tests/golden").join(file)).unwrap_or_default();
    let line = |line: &str| {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), rest.to_owned())
    };
    text.lines().filter(|text| !text.starts_with('#')).map(line).collect()
}

fn keep(file: &str, lines: &[(String, String)]) {
    let mut text =
        String::from("# Kept by specs/tests/golden.rs. A line is added, never changed.\n");
    for (name, rest) in lines {
        text.push_str(format!("{name} {rest}").trim_end());
        text.push('\n');
    }
    fs::write(here("tests/golden").join(file), text).unwrap();
}

/// The fields of a message: key and payload.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Vec<u8>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let start = bytes;
        let len = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                start.len() - bytes.len()
            }
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).ok()?;
                let payload = bytes.get(..len)?;
                found.push((key, payload.to_vec()));
                bytes = &bytes[len..];
                continue;
            }
            _ => return None,
        };
        found.push((key, start[..len].to_vec()));
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// True if `new` says all that `old` says, in the same fields, and perhaps more.
fn extends(new: &[u8], old: &[u8]) -> bool {
    if new == old {
        return true;
    }
    let (Some(new), Some(old)) = (fields(new), fields(old)) else { return false };
    let mut rest = new.iter();
    old.iter().all(|(key, payload)| {
        rest.any(|(other, longer)| {
            other == key && (longer == payload || (key & 7 == 2 && extends(longer, payload)))
        })
    })
}

/// What the sources define: of each message the tags of its fields, and every enumeration.
fn defined() -> (BTreeMap<String, BTreeSet<u64>>, BTreeSet<String>) {
    let (mut messages, mut enumerations) = (BTreeMap::new(), BTreeSet::new());
    for source in SOURCES {
        let text = fs::read_to_string(here("src").join(format!("{source}.rs"))).unwrap();
        let module = source.rsplit('/').next().unwrap();
        let mut block = "";
        let mut open: Option<String> = None;
        for line in text.lines() {
            let code = line.trim();
            if let Some(start) =
                line.strip_prefix("crate::").or(line.strip_prefix("        crate::"))
            {
                block = start.split('!').next().unwrap();
            } else if line.starts_with('}') {
                block = "";
            }
            let name = code.strip_prefix("pub struct ").or(code.strip_prefix("pub enum "));
            let name = name.and_then(|rest| rest.split([' ', '{']).next());
            match (block, name) {
                ("enumeration", Some(name)) => drop(enumerations.insert(name.to_owned())),
                ("message", Some(name)) => {
                    let name = format!("{module}.{name}");
                    messages.insert(name.clone(), BTreeSet::new());
                    open = Some(name);
                }
                _ => {}
            }
            let tag = code.split_once(" => ").and_then(|(tag, _)| tag.parse().ok());
            if let ("message", Some(tag), Some(name)) = (block, tag, &open) {
                messages.get_mut(name).unwrap().insert(tag);
            }
        }
    }
    (messages, enumerations)
}

#[test]
fn every_message_has_a_value_with_every_field_set() {
    let (messages, _) = defined();
    assert!(messages.len() > 50, "only {} messages found", messages.len());
    let samples: BTreeMap<String, Vec<u8>> =
        values::all().into_iter().map(|sample| (sample.name, sample.bytes)).collect();
    for (name, tags) in &messages {
        let bytes = samples.get(name).unwrap_or_else(|| {
            panic!("{name} has no value in specs/tests/golden/values.rs");
        });
        let set: BTreeSet<u64> = fields(bytes).unwrap().iter().map(|(key, _)| key >> 3).collect();
        assert_eq!(&set, tags, "{name}: the value's fields (left) are not the message's (right)");
    }
    assert_eq!(samples.len(), messages.len(), "a value of no message: {:?}", samples.keys());
}

#[test]
fn every_kept_line_is_still_read_and_written_alike() {
    let mut seen = BTreeSet::new();
    for sample in values::all() {
        let (module, name) = sample.name.split_once('.').unwrap();
        let file = format!("{module}.hex");
        let mut lines = kept(&file);
        let last = lines.iter().rfind(|(kept, _)| kept == name).map(|(_, bytes)| unhex(bytes));
        for (_, bytes) in lines.iter().filter(|(kept, _)| kept == name) {
            let again = (sample.again)(&unhex(bytes)).map(|bytes| hex(&bytes));
            assert_eq!(again.as_ref(), Ok(bytes), "{}: these bytes once were one", sample.name);
        }
        if let Some(last) = &last {
            assert!(
                extends(&sample.bytes, last),
                "{}: a field that was kept has changed\n  kept {}\n  is   {}",
                sample.name,
                hex(last),
                hex(&sample.bytes)
            );
        }
        if last.as_deref() != Some(&sample.bytes) {
            assert!(
                env::var_os("UPDATE").is_some(),
                "{}: its bytes are not kept; `UPDATE=1 cargo test -p specs --test golden` adds them",
                sample.name
            );
            lines.push((name.to_owned(), hex(&sample.bytes)));
            lines.sort_by(|(left, _), (right, _)| left.cmp(right));
            keep(&file, &lines);
        }
        seen.insert(sample.name);
    }
    for source in SOURCES {
        let module = source.rsplit('/').next().unwrap();
        for (name, _) in kept(&format!("{module}.hex")) {
            let name = format!("{module}.{name}");
            assert!(seen.contains(&name), "{name} is kept and no longer exists");
        }
    }
}

#[test]
fn every_number_of_an_enumeration_keeps_its_text() {
    let enumerations = values::enumerations();
    let (_, defined) = defined();
    let names: BTreeSet<String> = enumerations.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names, defined, "left: specs/tests/golden/values.rs, right: the sources");
    let file = "enumerations.txt";
    let mut lines = kept(file);
    let mut is_longer = false;
    for (name, numbers) in enumerations {
        let all: Vec<String> =
            numbers.iter().map(|(number, text)| format!("{number}={text}")).collect();
        let all = all.join(" ");
        match lines.iter_mut().find(|(kept, _)| kept == name) {
            Some((_, kept)) if *kept == all => {}
            Some((_, kept)) => {
                let words: BTreeSet<&str> = all.split(' ').collect();
                let lost: Vec<&str> =
                    kept.split(' ').filter(|word| !words.contains(word)).collect();
                assert!(lost.is_empty(), "{name}: {lost:?} changed or went");
                *kept = all;
                is_longer = true;
            }
            None => {
                lines.push((name.to_owned(), all));
                is_longer = true;
            }
        }
    }
    if is_longer {
        assert!(env::var_os("UPDATE").is_some(), "not all numbers are kept; run it with UPDATE=1");
        keep(file, &lines);
    }
}

#[test]
fn an_added_field_extends_and_a_changed_one_does_not() {
    // 1: number, 2: text, 3: message {1: number}.
    let old = unhex("08011201611a020805");
    for (new, wanted) in [
        ("08011201611a020805", true),
        ("08011201611a0208052001", true),
        ("08011201611a0408051007", true),
        ("08021201611a020805", false),
        ("08011201621a020805", false),
        ("0801120161", false),
        ("10011a0161220208 05", false),
    ] {
        assert_eq!(extends(&unhex(&new.replace(' ', "")), &old), wanted, "{new}");
    }
}
