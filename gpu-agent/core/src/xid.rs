//! Events that the driver writes to the kernel's log, and what each says of a GPU.
//!
//! Source of the numbers and of what to do about each: the maker's catalogue of Xid errors, as of
//! 2025-10 (<https://docs.nvidia.com/deploy/xid-errors/>). The classes are ours.

use alloc::string::String;

mod heard;

pub use heard::{Heard, SAME_SPAN, Source};

/// What follows from an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It follows another, or says nothing of the hardware.
    Note,
    /// A program's own doing, as a rule. Often repeated, the GPU's.
    Application,
    /// To be looked at; the GPU takes nothing new.
    Warning,
    /// The GPU must be reset when its jobs have ended.
    Drain,
    /// The GPU must be reset and proven again.
    Reset,
    /// The machine must be restarted.
    Restart,
    /// Somebody must look at the machine.
    Machine,
    /// It is beyond repair by itself.
    Replace,
}

const NOTES: &[u32] =
    &[37, 38, 43, 44, 45, 66, 67, 93, 106, 107, 121, 137, 141, 152, 153, 160, 161];
const APPLICATION: &[u32] = &[
    8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86,
    88, 89, 94, 96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 126, 127, 128, 129, 130, 131, 132,
    133, 134, 135, 139,
];
const WARNINGS: &[u32] = &[92, 157, 162, 163, 164, 165];
const DRAIN: &[u32] = &[63];
const RESTART: &[u32] = &[79, 151];
const MACHINE: &[u32] = &[54, 78];
const REPLACE: &[u32] = &[64];

/// The class of an event. One that is not known is taken for the GPU's fault: drivers bring new
/// ones for hardware more often than for programs.
#[must_use]
pub fn class(code: u32) -> Class {
    let lists = [
        (NOTES, Class::Note),
        (APPLICATION, Class::Application),
        (WARNINGS, Class::Warning),
        (DRAIN, Class::Drain),
        (RESTART, Class::Restart),
        (MACHINE, Class::Machine),
        (REPLACE, Class::Replace),
    ];
    let found = lists.iter().find(|(list, _)| list.contains(&code));
    found.map_or(Class::Reset, |(_, class)| *class)
}

/// An event of one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `0000:06:00`: domain, bus and device, in lower case.
    pub place: String,
    pub code: u32,
    /// What the driver says would help, by the management library's number.
    pub recovery: Option<u64>,
}

/// The event that says so.
const RECOVERY_CHANGED: u32 = 154;

/// The number after `to`: `GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)`.
fn recovery_of(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("recovery action changed")?;
    let (_, rest) = rest.split_once(" to 0x")?;
    let digits: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    u64::from_str_radix(&digits, 16).ok()
}

/// Reads a line such as `NVRM: Xid (PCI:0000:06:00): 79, pid=1, GPU has fallen off the bus.`
#[must_use]
pub fn parse(line: &str) -> Option<Event> {
    let (_, rest) = line.split_once("Xid (PCI:")?;
    let (place, rest) = rest.split_once("):")?;
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    let place = place.split('.').next().unwrap_or(place).to_ascii_lowercase();
    let code = digits.parse().ok()?;
    let recovery = if code == RECOVERY_CHANGED { recovery_of(rest) } else { None };
    Some(Event { place, code, recovery })
}

/// The same form of a place as the management library gives it: `00000000:06:00.0`.
#[must_use]
pub fn place_of(bus_id: &str) -> String {
    let id = bus_id.split('.').next().unwrap_or(bus_id).to_ascii_lowercase();
    let Some((domain, rest)) = id.split_once(':') else { return id };
    let short = domain.get(domain.len().saturating_sub(4)..).unwrap_or(domain);
    alloc::format!("{short}:{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_wherever_it_stands() {
        let line = "6,1,2,-;NVRM: Xid (PCI:0000:06:00): 79, pid='<unknown>', GPU has fallen";
        let event = parse(line).unwrap();
        assert_eq!((event.place.as_str(), event.code), ("0000:06:00", 79));
        assert_eq!(parse("NVRM: Xid (PCI:0000:0A:00.0): 31").unwrap().place, "0000:0a:00");
        for other in ["", "NVRM: loading", "Xid (PCI:0000:06:00)", "Xid (PCI:0000:06:00): x"] {
            assert_eq!(parse(other), None, "{other}");
        }
        let line = "NVRM: Xid (PCI:0000:06:00): 154, GPU recovery action changed from 0x0 (None) to \
                    0x2 (Node Reboot Required)";
        assert_eq!(parse(line).unwrap().recovery, Some(2));
        assert_eq!(parse("NVRM: Xid (PCI:0000:06:00): 154, pid=1").unwrap().recovery, None);
        assert_eq!(place_of("00000000:0A:00.0"), "0000:0a:00");
    }

    #[test]
    fn no_number_has_two_classes_and_an_unknown_one_is_the_gpus() {
        let lists = [NOTES, APPLICATION, WARNINGS, DRAIN, RESTART, MACHINE, REPLACE];
        let all = || lists.iter().flat_map(|list| list.iter());
        for code in all() {
            assert_eq!(all().filter(|it| *it == code).count(), 1, "{code}");
        }
        assert_eq!(class(31), Class::Application);
        assert_eq!(class(48), Class::Reset);
        assert_eq!((class(79), class(63)), (Class::Restart, Class::Drain));
        assert_eq!(class(9_999), Class::Reset);
    }
}
