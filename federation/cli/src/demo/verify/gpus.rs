//! What is to hold of the demo's GPUs: the sick one was found before anything could run on it, all
//! others are proven, and the home went by proofs that it had verified itself.

use std::collections::BTreeSet;

use specs::gpu::{BurnInEnd, BurnInTier, GpuState};

use super::super::gpus::{SeenGpu, SickGpu, Standing};
use super::{Check, Seen, check, stamps};

/// GPUs that a check names.
const NAMED_MAX: usize = 4;

fn find<'a>(sick: &SickGpu, gpus: &'a [SeenGpu]) -> Option<&'a SeenGpu> {
    gpus.iter().find(|gpu| sick.is(gpu))
}

/// Its admission found the sick GPU, and it stayed out of service.
pub(super) fn sick_is_out(seen: &Seen) -> Check {
    const NAME: &str = "the sick GPU was found";
    let Some(sick) = &seen.sick else {
        return check(NAME, &["no GPU was made sick".into()], String::new());
    };
    let (before, after) = (find(sick, &seen.admitted), find(sick, &seen.gpus));
    let (Some(before), Some(after)) = (before, after) else {
        let fault = format!("{} does not know GPU {} of {}", sick.site, sick.index, sick.node);
        return check(NAME, &[fault], String::new());
    };
    let mut faults = Vec::new();
    for (gpu, when) in [(before, "before any job ran"), (after, "at the end")] {
        if gpu.view.state != Some(GpuState::Quarantined) || gpu.view.proof.is_some() {
            faults.push(format!("{} was {} {when}", gpu.name(), gpu.state()));
        }
    }
    let admission = before.view.last.as_ref();
    let is_found =
        admission.is_some_and(|it| (it.tier, it.end) == (BurnInTier::T2, BurnInEnd::Fault));
    if !is_found {
        let end = admission.map_or_else(|| "never ended".into(), |it| it.end.to_string());
        faults.push(format!("the admission of {}: {end}", before.name()));
    }
    let why = &before.view.why;
    let good = format!("{} of {}, by its admission: {why}", before.name(), sick.site);
    check(NAME, &faults, good)
}

/// All others have passed their burn-in, and did not turn bad since.
pub(super) fn others_are_proven(seen: &Seen) -> Check {
    let is_sick = |gpu: &SeenGpu| seen.sick.as_ref().is_some_and(|sick| sick.is(gpu));
    let others = seen.gpus.iter().filter(|gpu| !is_sick(gpu));
    let (proven, not): (Vec<_>, Vec<_>) =
        others.partition(|gpu| gpu.standing() == Standing::Proven);
    let named = not.iter().take(NAMED_MAX);
    let mut faults: Vec<String> =
        named.map(|gpu| format!("{} of {} is {}", gpu.name(), gpu.site, gpu.state())).collect();
    if not.len() > NAMED_MAX {
        faults.push(format!("and {} more are not proven", not.len() - NAMED_MAX));
    }
    if seen.gpus.len() != seen.gpus_expected {
        faults.push(format!("{} of {} GPUs are known", seen.gpus.len(), seen.gpus_expected));
    }
    let good = format!("{} GPUs, each by a burn-in of its own", proven.len());
    check("all other GPUs are proven", &faults, good)
}

/// By the tasks' own stamps.
pub(super) fn ran_on_proven(seen: &Seen) -> Check {
    let mut used = BTreeSet::new();
    for stamp in stamps(&seen.witness) {
        used.extend(stamp.gpus.iter().map(|gpu| (stamp.site.clone(), stamp.node.clone(), *gpu)));
    }
    let is_proven = |(site, node, index): &(String, String, u32)| {
        let is_it = |gpu: &&SeenGpu| {
            let view = &gpu.view;
            (gpu.site, view.node.as_str(), u32::from(view.index.0)) == (site, node, *index)
        };
        // Whatever its agent says of the sick one.
        let is_sick = |gpu: &SeenGpu| seen.sick.as_ref().is_some_and(|sick| sick.is(gpu));
        let found = seen.admitted.iter().find(is_it);
        found.is_some_and(|gpu| gpu.standing() == Standing::Proven && !is_sick(gpu))
    };
    let wrong = used.iter().filter(|gpu| !is_proven(gpu));
    let faults: Vec<String> = wrong
        .map(|(site, node, gpu)| format!("a job ran on {node}/{gpu} of {site}, sick or not proven"))
        .collect();
    let good = format!("{} GPUs were used, all proven before; none was the sick one", used.len());
    check("jobs ran on proven GPUs alone", &faults, good)
}

/// Of no grant more was drawn than the home had verified proofs of.
pub(super) fn verified_at_home(seen: &Seen) -> Check {
    let mut faults = Vec::new();
    for (grant, it) in &seen.grants {
        if it.drawn > it.verified {
            let (drawn, verified) = (it.drawn, it.verified);
            faults.push(format!("grant {grant}: {drawn} GPUs drawn, {verified} verified"));
        }
    }
    if seen.gpus_verified == 0 {
        faults.push(format!("{} verified no proof of {}", seen.home, seen.host));
    }
    let good = format!("signed proofs of {} GPUs of {}", seen.gpus_verified, seen.host);
    check("the home verified what it borrowed", &faults, good)
}

#[cfg(test)]
mod tests {
    use specs::gpu::BurnInResult;
    use specs::id::GrantId;
    use specs::wire::client::GpuView;

    use super::super::Drawn;
    use super::super::tests::{broken, good, gpu};
    use super::*;

    fn edit(seen: &mut Seen, is_meant: impl Fn(&SeenGpu) -> bool, change: impl Fn(&mut GpuView)) {
        let both = seen.admitted.iter_mut().chain(&mut seen.gpus);
        both.filter(|gpu| is_meant(gpu)).for_each(|gpu| change(&mut gpu.view));
    }

    #[test]
    fn a_sick_gpu_that_passes_is_told() {
        let mut seen = good();
        let sick = seen.sick.clone().unwrap();
        let sound = gpu("x", "x", 0).view;
        edit(
            &mut seen,
            |gpu| sick.is(gpu),
            |view| {
                view.state = sound.state;
                view.proof.clone_from(&sound.proof);
                view.last.clone_from(&sound.last);
            },
        );
        assert_eq!(broken(&seen), ["the sick GPU was found"]);
        let mut seen = good();
        // Found, but not by the admission.
        edit(
            &mut seen,
            |gpu| sick.is(gpu),
            |view| {
                let last = view.last.take().unwrap();
                view.last = Some(BurnInResult { tier: BurnInTier::T1, ..last });
            },
        );
        assert_eq!(broken(&seen), ["the sick GPU was found"]);
        seen.gpus.retain(|gpu| !sick.is(gpu));
        assert_eq!(broken(&seen), ["the sick GPU was found", "all other GPUs are proven"]);
    }

    #[test]
    fn another_that_is_out_of_service_is_told() {
        let mut seen = good();
        let name = seen.gpus[0].name();
        edit(&mut seen, |gpu| gpu.name() == name, |view| view.withheld = Some("slow".into()));
        let wrong = ["all other GPUs are proven", "jobs ran on proven GPUs alone"];
        assert_eq!(broken(&seen), wrong);
    }

    #[test]
    fn a_job_on_the_sick_gpu_is_told_whatever_its_agent_says() {
        let mut seen = good();
        let sick = seen.sick.clone().unwrap();
        edit(
            &mut seen,
            |gpu| sick.is(gpu),
            |view| *view = gpu(sick.site, sick.node.as_str(), sick.index.0).view,
        );
        let line = seen.witness.lines().next().unwrap();
        let mut stamp: Vec<String> = line.split(' ').map(str::to_owned).collect();
        for word in &mut stamp {
            let name = word.split('=').next().unwrap_or_default().to_owned();
            match name.as_str() {
                "site" => *word = format!("site={}", sick.site),
                "node" => *word = format!("node={}", sick.node),
                "gpus" => *word = format!("gpus={}", sick.index),
                _ => {}
            }
        }
        seen.witness += &format!("{}\n", stamp.join(" "));
        assert!(broken(&seen).contains(&"jobs ran on proven GPUs alone"));
    }

    #[test]
    fn what_was_drawn_without_a_verified_proof_is_told() {
        let mut seen = good();
        seen.grants.insert(GrantId(7), Drawn { drawn: 8, verified: 7 });
        assert_eq!(broken(&seen), ["the home verified what it borrowed"]);
        let mut seen = good();
        seen.gpus_verified = 0;
        assert_eq!(broken(&seen), ["the home verified what it borrowed"]);
    }
}
