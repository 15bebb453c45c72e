//! Proofs that somebody forged.

use fabric_quic::pki::{Authority, Credentials};
use specs::codec::{Blob, Message};
use specs::gpu::BurnInTier;
use specs::id::GpuIndex;
use specs::unit::{Millis, Timestamp};

use super::*;

/// A home that trusts one host.
struct World {
    env: Env,
    trust: TrustStore,
    host: Authority,
}

fn site(name: &str) -> SiteId {
    name.parse().unwrap()
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn agent(of: &str, name: &str) -> Identity {
    Identity::Agent { site: site(of), node: node(name) }
}

fn said(index: u16) -> HealthProof {
    HealthProof {
        site: site("giga"),
        node: node("g1"),
        index: GpuIndex(index),
        uuid: format!("GPU-{index}"),
        product: "NVIDIA B200".into(),
        tier: BurnInTier::T2,
        kernels: Blob(vec![1, 2]),
        passed_at: Timestamp(1_780_000_000_000),
        valid_for: Millis(604_800_000),
        agent: "0.1.0".into(),
        baseline: String::new(),
    }
}

fn signed(by: &Credentials, said: &HealthProof) -> SignedProof {
    let body = Blob(said.encode());
    let signature = Blob(by.sign(&HealthProof::signed_bytes(&body)).unwrap());
    SignedProof { body, signature, certificate: Blob(by.certificate().to_vec()) }
}

impl World {
    fn new() -> Self {
        let env = Env::system();
        let host = Authority::create(&env, &site("giga")).unwrap();
        let trust = TrustStore::new();
        trust.trust(&site("giga"), host.certificate()).unwrap();
        Self { env, trust, host }
    }

    fn agent(&self, name: &str) -> Credentials {
        self.host.credentials(&self.env, &agent("giga", name)).unwrap()
    }

    /// As shown of a GPU of g1.
    fn check(&self, proof: &SignedProof) -> Result<(), String> {
        check((&self.env, &self.trust), (&site("giga"), &node("g1")), proof)
    }

    fn refused(&self, proof: &SignedProof) -> String {
        self.check(proof).expect_err("it is forged")
    }
}

const NOT_ITS_KEY: &str = "the certificate's key did not sign this";

#[test]
fn what_the_nodes_agent_signed_holds_and_says_itself_of_which_gpu_it_is() {
    let world = World::new();
    let g1 = world.agent("g1");
    for index in 0..3 {
        let proof = signed(&g1, &said(index));
        assert_eq!(world.check(&proof), Ok(()));
        // Whoever shows it for another GPU shows the same bytes: the core reads them.
        assert_eq!(HealthProof::decode(&proof.body.0).unwrap().index, GpuIndex(index));
    }
}

#[test]
fn of_another_authority_node_or_process_it_is_refused_by_name() {
    let world = World::new();
    // An authority of the same name that nobody here trusts.
    let forged = Authority::create(&world.env, &site("giga")).unwrap();
    let by = forged.credentials(&world.env, &agent("giga", "g1")).unwrap();
    let why = world.refused(&signed(&by, &said(0)));
    assert!(why.contains("certificate"), "{why}");
    // A site that nobody here joined.
    let other = Authority::create(&world.env, &site("evil")).unwrap();
    let by = other.credentials(&world.env, &agent("evil", "g1")).unwrap();
    assert_eq!(world.refused(&signed(&by, &said(0))), "site evil is not trusted here");
    // A peer that is trusted, but for itself.
    world.trust.trust(&site("evil"), other.certificate()).unwrap();
    let why = world.refused(&signed(&by, &said(0)));
    assert_eq!(why, format!("{} signed it", agent("evil", "g1")));
    let why = world.refused(&signed(&world.agent("g2"), &said(0)));
    assert_eq!(why, format!("{} signed it", agent("giga", "g2")));
    // The host's controllers prove nothing.
    let id = specs::id::ControllerId(1);
    let controller = Identity::Controller { site: site("giga"), id };
    let by = world.host.credentials(&world.env, &controller).unwrap();
    assert_eq!(world.refused(&signed(&by, &said(0))), format!("{controller} signed it"));
}

#[test]
fn one_that_was_revoked_or_is_trusted_no_more_is_refused() {
    let world = World::new();
    let g1 = world.agent("g1");
    let proof = signed(&g1, &said(0));
    world.trust.deny(&site("giga"), &g1.serial().unwrap());
    assert_eq!(world.refused(&proof), "the certificate was revoked");
    let world = World::new();
    let proof = signed(&world.agent("g1"), &said(0));
    world.trust.distrust(&site("giga"));
    assert_eq!(world.refused(&proof), "site giga is not trusted here");
}

#[test]
fn whatever_field_of_the_statement_is_altered_the_signature_does_not_hold() {
    let world = World::new();
    let g1 = world.agent("g1");
    let sound = signed(&g1, &said(0));
    type Change = fn(&mut HealthProof);
    let alter: [(&str, Change); 11] = [
        ("site", |it| it.site = site("gigb")),
        ("node", |it| it.node = node("g2")),
        ("index", |it| it.index = GpuIndex(1)),
        ("uuid", |it| it.uuid = "GPU-1".into()),
        ("product", |it| it.product.push('X')),
        ("tier", |it| it.tier = BurnInTier::T3),
        ("kernels", |it| it.kernels.0[0] ^= 1),
        ("passed_at", |it| it.passed_at.0 += 1),
        ("valid_for", |it| it.valid_for.0 *= 2),
        ("agent", |it| it.agent = "0.1.1".into()),
        ("baseline", |it| it.baseline.push('X')),
    ];
    for (field, alter) in alter {
        let mut other = said(0);
        alter(&mut other);
        let proof = SignedProof { body: Blob(other.encode()), ..sound.clone() };
        let why = world.refused(&proof);
        assert!(why.contains(NOT_ITS_KEY), "{field}: {why}");
    }
    // And whatever byte, of whatever part.
    for at in 0..sound.body.0.len() {
        let mut proof = sound.clone();
        proof.body.0[at] ^= 1;
        assert!(world.refused(&proof).contains(NOT_ITS_KEY), "byte {at} of the body");
    }
    for at in 0..sound.signature.0.len() {
        let mut proof = sound.clone();
        proof.signature.0[at] ^= 1;
        assert!(world.refused(&proof).contains(NOT_ITS_KEY), "byte {at} of the signature");
    }
    for at in 0..sound.certificate.0.len() {
        let mut proof = sound.clone();
        proof.certificate.0[at] ^= 1;
        assert_ne!(world.refused(&proof), "", "byte {at} of the certificate");
    }
}

#[test]
fn a_signature_over_another_gpu_or_another_kind_of_statement_is_not_one_over_this() {
    let world = World::new();
    let g1 = world.agent("g1");
    let (one, other) = (signed(&g1, &said(0)), signed(&g1, &said(1)));
    let swapped = SignedProof { signature: other.signature, ..one.clone() };
    assert!(world.refused(&swapped).contains(NOT_ITS_KEY));
    // The bytes alone, without what says that they are a proof.
    let bare = Blob(g1.sign(&one.body.0).unwrap());
    assert!(world.refused(&SignedProof { signature: bare, ..one }).contains(NOT_ITS_KEY));
}

#[test]
fn what_is_empty_cut_garbage_or_very_long_is_refused_and_nothing_panics() {
    let world = World::new();
    let sound = signed(&world.agent("g1"), &said(0));
    let of = |which: usize, bytes: Vec<u8>| {
        let mut proof = sound.clone();
        [&mut proof.body, &mut proof.signature, &mut proof.certificate][which].0 = bytes;
        proof
    };
    let blob = Blob::default;
    let empty = SignedProof { body: blob(), signature: blob(), certificate: blob() };
    assert_eq!(world.refused(&empty), "the certificate cannot be read");
    for which in 0..3 {
        let whole = [&sound.body, &sound.signature, &sound.certificate][which].0.clone();
        for end in 0..whole.len() {
            world.refused(&of(which, whole[..end].to_vec()));
        }
        world.refused(&of(which, [&whole[..], &[0]].concat()));
        world.refused(&of(which, [whole, vec![7; 4 << 20]].concat()));
        for fill in [0, 0x30, 0x80, 0xff] {
            world.refused(&of(which, vec![fill; 4 << 20]));
        }
    }
}
