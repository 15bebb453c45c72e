//! What runs in a process of its own for as long as an agent lives: it waits for the events that the
//! management library tells of, and writes each as a line of JSON.

use std::io::{self, Write};

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use specs::fault::{Fault, FaultCode};

/// How long the library is waited for at a time.
const WAIT_MILLIS: u32 = 1_000;

/// A line of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Told {
    Event {
        uuid: String,
        code: u32,
    },
    /// Nothing more is told, and why.
    Deaf(String),
}

/// Tells of events of the GPUs with these ids until the library cannot any more.
///
/// # Errors
/// Nobody reads.
pub fn listen(uuids: &[String], out: &mut impl Write) -> Result<(), Fault> {
    // Nobody is left to be told then.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let ended = match Nvml::init() {
        Ok(nvml) => tell(&nvml, uuids, out),
        Err(error) => Ok(error),
    };
    ended
        .and_then(|error| write(out, &Told::Deaf(error.to_string())))
        .map_err(|error| Fault::new(FaultCode::Internal, format!("cannot tell of events: {error}")))
}

/// Why it ended.
fn tell(nvml: &Nvml, uuids: &[String], out: &mut impl Write) -> io::Result<NvmlError> {
    let found = uuids.iter().filter_map(|uuid| {
        // One that is gone says nothing, and must not keep others from being heard.
        let device = nvml.device_by_uuid(uuid.as_str()).ok()?;
        let known = device.supported_event_types().ok()?;
        known.contains(EventTypes::CRITICAL_XID_ERROR).then_some((uuid, device))
    });
    let mut devices: Vec<(&String, Device)> = found.collect();
    let set = match register(nvml, &mut devices) {
        Ok(set) => set,
        Err(error) => return Ok(error),
    };
    loop {
        match set.wait(WAIT_MILLIS) {
            Ok(event) => {
                let code = match event.event_data {
                    Some(XidError::Value(code)) => u32::try_from(code).ok(),
                    Some(XidError::Unknown) | None => None,
                };
                let of = devices.iter().find(|(_, device)| is_same(device, &event.device));
                if let (Some(code), Some((uuid, _))) = (code, of) {
                    write(out, &Told::Event { uuid: (*uuid).clone(), code })?;
                }
            }
            Err(NvmlError::Timeout) => {}
            Err(error) => return Ok(error),
        }
    }
}

/// A set of events of as many devices as the library takes; the others leave the list.
fn register<'a>(
    nvml: &'a Nvml,
    devices: &mut Vec<(&String, Device<'a>)>,
) -> Result<EventSet<'a>, NvmlError> {
    'anew: loop {
        if devices.is_empty() {
            return Err(NvmlError::NotSupported);
        }
        let mut set = nvml.create_event_set()?;
        for (nth, (_, device)) in devices.iter().enumerate() {
            // A set that a device does not fit into is lost with those that it had.
            match device.register_events(EventTypes::CRITICAL_XID_ERROR, set) {
                Ok(it) => set = it,
                Err(_) => {
                    devices.remove(nth);
                    continue 'anew;
                }
            }
        }
        return Ok(set);
    }
}

/// Whether two handles are of one device. A device that has just been lost no longer says its id.
#[expect(unsafe_code, reason = "the wrapper of the library gives a handle to the careful alone")]
fn is_same(one: &Device, other: &Device) -> bool {
    // SAFETY: the handles are compared, and nothing is asked by them.
    unsafe { one.handle() == other.handle() }
}

fn write(out: &mut impl Write, told: &Told) -> io::Result<()> {
    serde_json::to_writer(&mut *out, told)?;
    writeln!(out)?;
    out.flush()
}
