//! What a job asks of its nodes beyond whole GPUs.

use alloc::format;

use super::convert::{not_one_of, number, shown, span};
use super::raw::{RawHealth, RawSpec, RawTopology};
use super::{JobFileError, Path};
use crate::gpu::{BurnInTier, ProofNeed};
use crate::job::{CPU_MILLI_MAX, Needs, Together, Vicinity};
use crate::unit::Millis;

pub(super) fn needs(raw: &RawSpec) -> Result<Needs, JobFileError> {
    let placement = &raw.placement;
    Ok(Needs {
        cpu_milli: cpus(raw.resources.cpus)?,
        memory_mib: memory(raw.resources.memory.as_deref())?,
        gpu_milli: stated("spec.resources.gpus.milli", raw.resources.gpus.milli)?,
        attributes: placement.attributes.clone(),
        exclusive: placement.exclusive.unwrap_or(false),
        spread: spread(placement.fill.as_deref())?,
        together: together(&placement.topology)?,
        proof: raw.health.as_ref().map(proof).transpose()?,
    })
}

/// Zero stands for what is not said, so nobody may say it.
fn stated(path: &str, written: Option<u64>) -> Result<u32, JobFileError> {
    if written == Some(0) {
        return Err(JobFileError::new(Path::of(path), "zero is nothing to ask for")
            .with_hint("leave it out"));
    }
    number(path, written, 0)
}

fn cpus(written: Option<u64>) -> Result<u32, JobFileError> {
    let path = "spec.resources.cpus";
    let cores = stated(path, written)?;
    let max = CPU_MILLI_MAX / 1_000;
    if cores > max {
        return Err(JobFileError::new(Path::of(path), format!("{cores} is more than {max}")));
    }
    Ok(cores * 1_000)
}

fn memory(written: Option<&str>) -> Result<u32, JobFileError> {
    let path = "spec.resources.memory";
    let Some(written) = written else { return Ok(0) };
    match parse_mib(written) {
        Some(mib) => stated(path, Some(mib)),
        None => {
            let reason = format!("`{}` is not an amount of memory", shown(written));
            let hint = "write it as `512Mi`, `64Gi` or `2Ti`";
            Err(JobFileError::new(Path::of(path), reason).with_hint(hint))
        }
    }
}

pub(super) fn parse_mib(text: &str) -> Option<u64> {
    let units = [("Mi", 1), ("Gi", 1 << 10), ("Ti", 1 << 20)];
    let (digits, mib) =
        units.iter().find_map(|(unit, mib)| Some((text.strip_suffix(unit)?, *mib)))?;
    let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| is_number)?.checked_mul(mib)
}

fn spread(written: Option<&str>) -> Result<bool, JobFileError> {
    match written {
        None | Some("pack") => Ok(false),
        Some("spread") => Ok(true),
        Some(other) => Err(not_one_of("spec.placement.fill", other, &["pack", "spread"])),
    }
}

fn together(written: &RawTopology) -> Result<Option<Together>, JobFileError> {
    let levels = [
        ("sameDomain", &written.same_domain, Vicinity::Domain),
        ("sameRack", &written.same_rack, Vicinity::Rack),
        ("sameHall", &written.same_hall, Vicinity::Hall),
    ];
    let path = Path::of("spec.placement.topology");
    let mut said = levels.into_iter().filter(|(_, wish, _)| wish.is_some());
    let group_nodes = stated("spec.placement.topology.groupSize", written.group_size)?;
    let Some((name, wish, level)) = said.next() else {
        if group_nodes > 0 {
            return Err(JobFileError::new(path.key("groupSize"), "says not where a group stands")
                .with_hint("add `sameRack: require`"));
        }
        return Ok(None);
    };
    if let Some((other, _, _)) = said.next() {
        let reason = format!("`{name}` is given, too; at most one of them can be met");
        return Err(JobFileError::new(path.key(other), reason));
    }
    let at = format!("spec.placement.topology.{name}");
    let required = match wish.as_deref() {
        None | Some("require") => true,
        Some("prefer") => false,
        Some(other) => return Err(not_one_of(&at, other, &["require", "prefer"])),
    };
    Ok(Some(Together { level, required, group_nodes }))
}

fn proof(written: &RawHealth) -> Result<ProofNeed, JobFileError> {
    let (path, age) = (Path::of("spec.health"), "spec.health.maxAge");
    if written.max_age.is_none() && written.tier.is_none() {
        return Err(JobFileError::new(path, "demands nothing")
            .with_hint("add `maxAge: 24h` or `tier: t3`, or leave `health` out"));
    }
    let tier = match written.tier.as_deref() {
        None => BurnInTier::T2,
        Some(text) => match text.parse::<BurnInTier>() {
            Ok(tier) if tier.proves() => tier,
            Ok(tier) => {
                let reason = format!("{tier} proves nothing");
                return Err(JobFileError::new(path.key("tier"), reason)
                    .with_hint("write `t2` (admission) or `t3` (a soak)"));
            }
            Err(_) => return Err(not_one_of("spec.health.tier", text, &["t2", "t3"])),
        },
    };
    let age_max = span(age, written.max_age.as_deref(), Millis::ZERO)?;
    if written.max_age.is_some() && age_max == Millis::ZERO {
        return Err(JobFileError::new(Path::of(age), "no proof is that young")
            .with_hint("leave `maxAge` out for any proof that holds"));
    }
    Ok(ProofNeed { tier, age_max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_number_with_a_binary_unit() {
        let amounts = [
            ("512Mi", Some(512)),
            ("64Gi", Some(65_536)),
            ("2Ti", Some(2 << 20)),
            ("0Mi", Some(0)),
            ("64", None),
            ("Gi", None),
            ("64G", None),
            ("1.5Gi", None),
            ("+1Gi", None),
            ("99999999999999999999Ti", None),
            ("99999999999999999Ti", None),
        ];
        for (text, mib) in amounts {
            assert_eq!(parse_mib(text), mib, "{text:?}");
        }
    }
}
