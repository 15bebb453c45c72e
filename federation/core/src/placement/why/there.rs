//! Why a job does not run at a peer that could hold it: what weighs against it, in numbers.

use alloc::string::String;

use specs::job::JobSpec;
use specs::unit::{MicroEuro, Millis};
use specs::wire::client::{SiteCost, SiteWhy};

use super::one_site;
use crate::placement::sites::outlook::{nodes_with, wait_for};
use crate::placement::sites::{Candidate, Told, Weighed};

/// Euros and cents.
fn money(sum: MicroEuro) -> String {
    let cents = sum.0.saturating_add(5_000) / 10_000;
    alloc::format!("{}.{:02} €", cents / 100, cents % 100)
}

/// A span in the two units that matter.
pub(crate) fn span(span: Millis) -> String {
    let seconds = span.0.div_ceil(1_000);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..120 => alloc::format!("{seconds} s"),
        120..7_200 => alloc::format!("{minutes} min"),
        7_200..172_800 => alloc::format!("{hours} h {} min", minutes % 60),
        _ => alloc::format!("{days} d {} h", hours % 24),
    }
}

/// As much as people say of it: `2.1 TB`.
fn bytes(count: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB")];
    let large = units.into_iter().find(|(unit, _)| count >= *unit);
    let Some((unit, name)) = large else { return alloc::format!("{count} bytes") };
    let tenths = count / (unit / 10);
    alloc::format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// Why the job is not at a site that was weighed.
pub(super) fn why(
    spec: &JobSpec,
    weighed: &Weighed,
    it: &Candidate,
    (waited, patience): (Millis, Millis),
    told: Option<&Told>,
) -> SiteWhy {
    let of = |constraint: String, change: String| one_site(&it.site, constraint, change);
    if !it.has_room {
        let (constraint, change) = no_room(spec, it, told);
        return of(constraint, change);
    }
    if waited < patience {
        let waits_for_data = it.bring > Millis::ZERO && it.bring.times(2) >= patience;
        let left = span(patience.minus(waited));
        let (patience, waited) = (span(patience), span(waited));
        if waits_for_data {
            let constraint = alloc::format!(
                "data: {} would take {}; it waits {patience} at home first, and has for {waited}",
                bytes(it.missing),
                span(it.bring)
            );
            return of(constraint, alloc::format!("{left} more, its data there, or a faster link"));
        }
        let constraint = alloc::format!(
            "{} a GPU-hour, at home {}; it waits {patience} at home first, and has for {waited}",
            money(it.rate),
            money(weighed.home)
        );
        return of(constraint, alloc::format!("{left} more, or a lower price"));
    }
    if let Some(best) = weighed.candidates.first().filter(|best| best.site != it.site) {
        let (here, there) = (money(it.total), money(best.total));
        let constraint = alloc::format!("{here} for each GPU, {} {there}", best.site);
        let less = money(it.total.minus(best.total));
        return of(constraint, alloc::format!("{less} less, or no grant from {}", best.site));
    }
    of("has room; no grant covers the job yet".into(), "its lend rules".into())
}

fn no_room(spec: &JobSpec, it: &Candidate, told: Option<&Told>) -> (String, String) {
    let (each, class) = (spec.gpus_per_node, &it.class);
    let Some(outlook) = told.and_then(|told| told.outlook_of(class)) else {
        let constraint = alloc::format!("has not {} {class} free", spec.gpus());
        return (constraint, "more free GPUs".into());
    };
    let nodes = nodes_with(outlook, each);
    let wait = match wait_for(outlook, spec.nodes) {
        Some(wait) => alloc::format!("; such jobs wait {} there", span(wait)),
        None => String::new(),
    };
    let constraint = alloc::format!(
        "{nodes} nodes with {each} free {class}, the job needs {}{wait}",
        spec.nodes
    );
    let more = spec.nodes.saturating_sub(nodes);
    (constraint, alloc::format!("{more} more nodes with {each} free {class}"))
}

/// What the site costs the job, in numbers.
pub(super) fn cost(weighed: &Weighed, it: &Candidate, patience: Millis) -> SiteCost {
    SiteCost {
        wait: it.wait,
        bring: it.bring,
        missing_bytes: it.missing,
        run: weighed.run,
        rate: it.rate,
        total: it.total,
        stale: it.stale.clone(),
        late: it.is_late,
        best: weighed.candidates.first() == Some(it),
        patience,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_people_say_them() {
        assert_eq!(money(MicroEuro(2_354_999)), "2.35 €");
        assert_eq!(money(MicroEuro(u64::MAX)), "18446744073709.55 €");
        let spans = [0, 1, 119_000, 120_000, 7_200_000, 90_000_000, 200_000_000];
        let said = spans.map(|millis| span(Millis(millis)));
        assert_eq!(said, ["0 s", "1 s", "119 s", "2 min", "2 h 0 min", "25 h 0 min", "2 d 7 h"]);
        assert_eq!(bytes(2_199_023_255_552), "2.1 TB");
        assert_eq!([bytes(999), bytes(1_500_000)], ["999 bytes", "1.5 MB"]);
    }
}
