//! State as the other side needs it: orders for nodes and hosts, reports for homes. Pure readings;
//! what only the leader remembers comes in as an argument.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use specs::id::{DataName, Epoch, GpuClass, JobId, LeaseId, Question, SiteId};
use specs::job::OnPartition;
use specs::unit::GpuCount;
use specs::version::ClusterVersion;
use specs::wire::agent::{
    Facts, Launch, LeaseOrder, NodeOrders, NodeReport, Validity, ValidityKind, Want,
};
use specs::wire::peer::{
    ClassCapacity, Demand, GrantReport, GuestReport, LoanBody, LoanOrder, PeerOrders, PeerReport,
    Slot,
};

use crate::burn_in;
use crate::exchange::proofs;
use crate::health;
use crate::node::count_gpus;
use crate::placement::pool;
use crate::placement::sites::data;
use crate::state::{Gpu, Grant, Lease, Node, State};

/// First port of the range in which a gang's tasks meet.
const MASTER_PORT_BASE: u64 = 29_500;
/// Size of that range.
const MASTER_PORTS: u64 = 10_000;

/// The answer to a node's question. `validity` says how long a guest's attempt may go on.
/// A suspected node is told only that it was heard; a node of another life is told nothing.
pub(crate) fn node_orders(
    state: &State,
    report: &NodeReport,
    validity: impl Fn(&Lease) -> Validity,
) -> Option<NodeOrders> {
    let node = state.nodes.get(&report.node).filter(|node| node.boot == report.boot)?;
    let mut orders = NodeOrders {
        node: report.node.clone(),
        boot: report.boot,
        question: report.question,
        revision: state.revision,
        lease_term: state.terms().node_lease,
        leases: Vec::new(),
        hold: node.suspicion.is_some(),
        prove: health::asks_for_proofs(state),
        withheld: health::withheld(node),
        released: health::released(node),
        permits_only: state.version >= burn_in::SINCE,
        permits: burn_in::permits_of(node),
        tell_earlier: false,
    };
    if orders.hold {
        return Some(orders);
    }
    let known: BTreeSet<LeaseId> = report.attempts.iter().map(|it| it.lease).collect();
    for lease in state.leases_of(&report.node) {
        orders.leases.push(LeaseOrder {
            lease: lease.id,
            home: lease.home.clone(),
            job: lease.job,
            epoch: lease.epoch,
            want: if lease.stop.is_some() { Want::Stop } else { Want::Run },
            validity: validity_of(state, lease, &validity),
            launch: launch(state, lease, node).filter(|_| !known.contains(&lease.id)),
        });
    }
    Some(orders)
}

fn validity_of(state: &State, lease: &Lease, guest: impl Fn(&Lease) -> Validity) -> Validity {
    let plain = |kind| Validity { kind, remaining: specs::unit::Millis::ZERO };
    match lease.spec.on_partition {
        OnPartition::Wait => plain(ValidityKind::Open),
        OnPartition::Restart if state.is_own(&lease.home) => plain(ValidityKind::NodeLease),
        OnPartition::Restart => guest(lease),
    }
}

fn launch(state: &State, lease: &Lease, node: &Node) -> Option<Launch> {
    let rank = lease.parts.iter().position(|part| part.node == node.id)?;
    let master = state.nodes.get(&lease.parts.first()?.node)?;
    Some(Launch {
        spec: lease.spec.clone(),
        array_index: lease.array_index,
        gpus: lease.parts.get(rank)?.gpus.clone(),
        node_rank: u32::try_from(rank).ok()?,
        master_address: master.address.clone(),
        master_port: u32::try_from(MASTER_PORT_BASE + lease.id.0 % MASTER_PORTS).ok()?,
        host: state.own()?.clone(),
    })
}

/// What a site has, class by class. Linear in the nodes; a leader keeps the sums.
#[must_use]
pub fn capacity(state: &State) -> Vec<ClassCapacity> {
    let mut classes: BTreeMap<GpuClass, ClassCapacity> = BTreeMap::new();
    for node in state.nodes.values().filter(|node| node.is_usable()) {
        let mut on_node: BTreeMap<&GpuClass, GpuCount> = BTreeMap::new();
        for gpu in node.gpus.iter().filter(|gpu| gpu.is_fit()) {
            let one = GpuCount(1);
            let class = classes.entry(gpu.info.class.clone()).or_insert_with(|| ClassCapacity {
                class: gpu.info.class.clone(),
                total: GpuCount::ZERO,
                free: GpuCount::ZERO,
                granted: GpuCount::ZERO,
                node_gpus_max: GpuCount::ZERO,
                nodes: 0,
                gpu_cpu_milli: 0,
                gpu_memory_mib: 0,
                proven: GpuCount::ZERO,
            });
            let (cpu_milli, memory_mib) = told_share(state.version, node);
            class.gpu_cpu_milli = class.gpu_cpu_milli.max(cpu_milli);
            class.gpu_memory_mib = class.gpu_memory_mib.max(memory_mib);
            class.total = class.total.plus(one);
            if gpu.proven.is_some() && state.version >= proofs::SINCE {
                class.proven = class.proven.plus(one);
            }
            if gpu.grant.is_some() {
                class.granted = class.granted.plus(one);
            } else if gpu.is_free() && node.alone.is_none() {
                class.free = class.free.plus(one);
            }
            let sum = on_node.entry(&gpu.info.class).or_default();
            *sum = sum.plus(one);
        }
        for (class, gpus) in on_node {
            let Some(class) = classes.get_mut(class) else { continue };
            if gpus > class.node_gpus_max {
                class.node_gpus_max = gpus;
                class.nodes = 1;
            } else if gpus == class.node_gpus_max {
                class.nodes += 1;
            }
        }
    }
    classes.into_values().collect()
}

/// Milli-CPU and MiB that a GPU of the node carries when it is granted.
pub(crate) fn told_share(version: ClusterVersion, node: &Node) -> (u32, u32) {
    if version < ClusterVersion::DEMANDS { (0, 0) } else { pool::share(node).numbers() }
}

fn grant_report(state: &State, grant: &Grant) -> GrantReport {
    let slots = grant.slots.iter().map(|slot| {
        let node = state.nodes.get(&slot.node).filter(|node| node.is_usable());
        let of_slot = |gpu: &&Gpu| slot.gpus.contains(&gpu.info.index) && gpu.is_fit();
        let which =
            proofs::told(state.version, node.into_iter().flat_map(|it| &it.gpus).filter(of_slot));
        let carried = node.map(|node| pool::carried(node, |gpu| of_slot(&gpu)));
        let (cpu_milli, memory_mib) = carried.unwrap_or_default().numbers();
        let gpus = node.map_or(0, |node| node.gpus.iter().filter(of_slot).count());
        let gpus = u32::try_from(gpus).unwrap_or(u32::MAX);
        let facts = state.nodes.get(&slot.node).filter(|_| state.version >= ClusterVersion::SITES);
        let facts = facts.map(|node| Box::new(told(&node.facts)));
        let is_told = state.version >= ClusterVersion::DEMANDS;
        let node_gpus = GpuCount(node.filter(|_| is_told).map_or(0, count_gpus));
        let (node, class, gpus) = (slot.node.clone(), slot.class.clone(), GpuCount(gpus));
        Slot { node, class, gpus, facts, cpu_milli, memory_mib, node_gpus, which }
    });
    GrantReport { grant: grant.id, slots: slots.collect(), recalled: grant.recalled }
}

/// What a home may go by of a node: of its CPU and memory, only what its slots carry.
fn told(facts: &Facts) -> Facts {
    Facts { cpu_milli: 0, memory_mib: 0, ..facts.clone() }
}

/// The data sets that lie here.
fn held_data(state: &State) -> Vec<DataName> {
    state.data_sets.iter().filter(|(_, set)| set.held).map(|(name, _)| name.clone()).collect()
}

/// At the host: all that the home should know and that is agreed.
pub(crate) fn peer_report(
    state: &State,
    home: &SiteId,
    (question, answered): (Question, Question),
    capacity: Vec<ClassCapacity>,
) -> Option<PeerReport> {
    let site = state.site.as_ref()?;
    let peer = state.peers.get(home)?;
    let guests = state.guests_of(home).map(|guest| GuestReport {
        job: guest.key.job,
        epoch: guest.key.epoch,
        phase: guest.phase,
        outcome: guest.outcome.clone(),
        started_at: guest.started_at,
        ended_at: guest.ended_at,
        nodes: guest.nodes.clone(),
    });
    let grants = state.grants.values().filter(|grant| grant.home == *home);
    Some(PeerReport {
        host: site.site.clone(),
        revision: state.revision,
        question,
        obeyed: peer.obeyed,
        answered,
        guests: guests.collect(),
        grants: grants.map(|grant| grant_report(state, grant)).collect(),
        capacity,
        country: site.country,
        signals: None,
        data: held_data(state),
        outlook: Vec::new(),
        shows: state.version >= proofs::SINCE,
        proofs: Vec::new(),
    })
}

/// At the home: the answer to a host's question.
pub(crate) fn peer_orders(
    state: &State,
    report: &PeerReport,
    demand: Vec<Demand>,
) -> Option<PeerOrders> {
    let peer = state.peers.get(&report.host)?;
    let hold = peer.suspicion.is_some();
    let mut orders = PeerOrders {
        home: state.own()?.clone(),
        question: report.question,
        revision: state.revision,
        loan_term: state.terms().loan_term,
        loans: Vec::new(),
        returned: Vec::new(),
        demand,
        hold,
        show: Vec::new(),
    };
    if hold {
        orders.demand.clear();
        return Some(orders);
    }
    let known: BTreeSet<(JobId, Epoch)> =
        report.guests.iter().map(|guest| (guest.job, guest.epoch)).collect();
    for (job, loan) in state.loans_to(&report.host) {
        let body = (!known.contains(&(job.id, job.epoch))).then(|| LoanBody {
            slots: loan.slots.clone(),
            spec: data::narrowed(state, job.spec()),
            array_index: job.array_index,
            submitter: job.submitter.clone(),
        });
        let want = if loan.stop.is_some() { Want::Stop } else { Want::Run };
        orders.loans.push(LoanOrder { job: job.id, epoch: job.epoch, want, body });
    }
    let returned = state.held_at(&report.host).filter(|(_, held)| held.returned);
    orders.returned = returned.map(|(grant, _)| grant).collect();
    Some(orders)
}
