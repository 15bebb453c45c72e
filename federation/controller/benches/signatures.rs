//! What it costs a home to check who signed the proofs of one report of a host: as many as one may
//! show, of GPUs of sixteen nodes. `cargo bench -p federation-controller --bench signatures`.
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![allow(clippy::print_stdout, reason = "a benchmark prints what it found")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::time::{Duration, Instant};

use fabric_quic::env::Env;
use fabric_quic::identity::Identity;
use fabric_quic::pki::Authority;
use fabric_quic::trust::TrustStore;
use fabric_quic::verify::signer;
use specs::codec::{Blob, Message};
use specs::gpu::{BurnInTier, HealthProof};
use specs::id::{GpuIndex, SiteId};
use specs::unit::Millis;
use specs::wire::peer::PROOFS_SHOWN_MAX;

const NODES: usize = 16;
const ROUNDS: usize = 50;

struct Proof {
    statement: Vec<u8>,
    signature: Vec<u8>,
    certificate: Vec<u8>,
}

fn main() {
    let env = Env::system();
    let site: SiteId = "giga".parse().unwrap();
    let authority = Authority::create(&env, &site).unwrap();
    let trust = TrustStore::new();
    trust.trust(&site, authority.certificate()).unwrap();
    let agents: Vec<_> = (0..NODES)
        .map(|nth| {
            let node = format!("g{nth}").parse().unwrap();
            authority.credentials(&env, &Identity::Agent { site: site.clone(), node }).unwrap()
        })
        .collect();
    let proof = |nth: usize| {
        let by = &agents[nth % NODES];
        let said = HealthProof {
            site: site.clone(),
            node: format!("g{}", nth % NODES).parse().unwrap(),
            index: GpuIndex(u16::try_from(nth / NODES).unwrap()),
            uuid: format!("GPU-{nth:032x}"),
            product: "NVIDIA B200".into(),
            tier: BurnInTier::T2,
            kernels: Blob(vec![7; 32]),
            passed_at: env.clock.wall(),
            valid_for: Millis(604_800_000),
            agent: "0.1.0".into(),
            baseline: String::new(),
        };
        let statement = HealthProof::signed_bytes(&Blob(said.encode()));
        let signature = by.sign(&statement).unwrap();
        Proof { statement, signature, certificate: by.certificate().to_vec() }
    };
    let proofs: Vec<Proof> = (0..PROOFS_SHOWN_MAX).map(proof).collect();
    let mut took: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            for it in &proofs {
                let now = env.clock.wall();
                let by =
                    signer(&env.crypto, &trust, now, &it.certificate, &it.statement, &it.signature);
                assert!(matches!(by, Ok(Identity::Agent { .. })));
            }
            begun.elapsed()
        })
        .collect();
    took.sort();
    let each = took[ROUNDS / 2] / u32::try_from(proofs.len()).unwrap();
    println!(
        "{} proofs: median {:?}, most {:?}; one: {each:?}",
        proofs.len(),
        took[ROUNDS / 2],
        took[ROUNDS - 1]
    );
}
