//! To which site a job goes: a home with two hosts that say what they cost and hold.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod data;
mod deadline;
mod price;
#[path = "../queue/world.rs"]
#[expect(dead_code, reason = "these tests need less of it than others")]
mod world;

use federation_core::{
    AddPeer, CancelJob, Command, JobPhase, PeerRecord, Reply, SetDataSet, SetLink, SetSignals,
    SetWeights, queue_why, why,
};
use specs::codec::Blob;
use specs::id::JobId;
use specs::job::JobSpec;
use specs::signals::{DataSet, Link, Weights};
use specs::unit::{Instant, MicroEuro, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::client::{PriceSet, SignalsSet, SiteWhy};

use world::{Site, job};

/// A home that is full, and two hosts with room.
struct Federation {
    berlin: Site,
    hosts: [Site; 2],
}

impl Site {
    fn joins(&mut self, other: &str, country: &str) {
        let peer = PeerRecord {
            site: other.parse().unwrap(),
            country: country.parse().unwrap(),
            ca: Blob(vec![1]),
            addresses: vec![],
        };
        self.apply(Command::AddPeer(AddPeer { peer }));
    }

    fn says(&mut self, said: SignalsSet) -> Reply {
        let at = Timestamp(self.now);
        self.apply(Command::SetSignals(SetSignals { said, at }))
    }

    fn costs(&mut self, cents: u64) {
        let price = PriceSet { class: None, price: MicroEuro(cents * 10_000) };
        assert_eq!(self.says(SignalsSet { prices: vec![price], ..said() }), Reply::Done);
    }

    fn knows(&mut self, name: &str, set: DataSet) {
        let name = name.parse().unwrap();
        assert_eq!(self.apply(Command::SetDataSet(SetDataSet { name, set })), Reply::Done);
    }

    fn link(&mut self, peer: &str, mbit_per_second: u32) {
        let link = SetLink { peer: peer.parse().unwrap(), link: Some(Link { mbit_per_second }) };
        assert_eq!(self.apply(Command::SetLink(link)), Reply::Done);
    }

    fn weighs(&mut self, weights: Weights) {
        assert_eq!(self.apply(Command::SetWeights(SetWeights { weights })), Reply::Done);
    }

    /// The site of the job's loan; none if it has none.
    fn loaned_to(&self, id: u128) -> Option<&str> {
        match &self.state.jobs.get(&JobId(id)).unwrap().phase {
            JobPhase::Loaned(loan) => Some(loan.peer.as_str()),
            JobPhase::Queued(_) | JobPhase::Leased(_) | JobPhase::Ended(_) => None,
        }
    }

    fn why_at(&mut self, id: u128, site: &str) -> SiteWhy {
        let job = self.state.jobs.get(&JobId(id)).unwrap().clone();
        let reasons = why(&self.state, &mut self.leader, Instant(self.now), &job);
        reasons.into_iter().find(|it| it.site.as_str() == site).unwrap()
    }

    fn waits_for(&self, id: u128) -> Vec<String> {
        let job = self.state.jobs.get(&JobId(id)).unwrap();
        let reasons = queue_why(&self.state, &self.leader, Timestamp(self.now), job);
        reasons.into_iter().map(|it| it.constraint).collect()
    }
}

impl Federation {
    fn found() -> Self {
        let site = |name: &str| {
            let mut site = Site::found(name);
            site.raise_to(ClusterVersion::SITES);
            site
        };
        let mut berlin = site("berlin");
        berlin.quota("acme", None, 0, 1_000);
        berlin.node("n1", "b200", 8);
        berlin.joins("giga", "FI");
        berlin.joins("iris", "FR");
        let hosts = ["giga", "iris"].map(|name| {
            let mut host = site(name);
            host.joins("berlin", "DE");
            for nth in 0..4 {
                host.node(&format!("{name}-{nth}"), "b200", 8);
            }
            host
        });
        let mut federation = Self { berlin, hosts };
        federation.berlin.submit(1, job("acme", 1, 8));
        federation.berlin.poll();
        federation.exchange();
        federation
    }

    fn giga(&mut self) -> &mut Site {
        &mut self.hosts[0]
    }

    fn iris(&mut self) -> &mut Site {
        &mut self.hosts[1]
    }

    fn submit(&mut self, id: u128, spec: JobSpec) {
        assert!(matches!(self.berlin.submit(id, spec), Reply::Jobs { .. }));
    }

    /// Every host asks, does what follows, and tells; then the home plans.
    fn exchange(&mut self) {
        self.berlin.poll();
        for host in &mut self.hosts {
            host.ask_home(&mut self.berlin);
            host.poll();
            host.ask_home(&mut self.berlin);
        }
        self.berlin.poll();
    }

    /// Time passes in steps, at each of which all talk.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds.div_ceil(5) {
            let step = 5_000;
            self.berlin.now += step;
            for host in &mut self.hosts {
                host.now += step;
            }
            self.exchange();
        }
    }

    /// Where the job is once everybody has talked.
    fn goes_to(&mut self, id: u128) -> Option<String> {
        self.pass(5);
        self.berlin.loaned_to(id).map(str::to_owned)
    }
}

fn said() -> SignalsSet {
    SignalsSet { prices: vec![], energy: None, pue: None, carbon: None, water: None, clear: false }
}

fn held(bytes: u64) -> DataSet {
    DataSet { bytes, held: true, countries: vec![], sites: vec![] }
}
