//! What a run came across. A mark that stays at zero over many seeds is a blind spot of the world.

macro_rules! marks {
    ($( $(#[$meta:meta])* $name:ident = $text:literal, )*) => {
        /// Something that should happen sometimes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark { $( $(#[$meta])* $name, )* }

        impl Mark {
            /// Every mark, in the order of declaration.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// Its key in a summary.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }
        }
    };
}

marks! {
    Entries = "log_entries",
    Elections = "elections",
    ProposalsVanished = "proposals_vanished",
    ProposalsToNobody = "proposals_to_nobody",
    DeposedWithQuestions = "leader_deposed_with_questions_in_flight",
    ConfirmationRefused = "confirmation_refused",
    ControllersCrashed = "controllers_crashed",
    SitesDark = "sites_dark",
    SnapshotsRestored = "snapshots_restored",
    MachinesSuspended = "machines_suspended",
    AgentsPaused = "agents_paused",
    AgentsCrashed = "agents_crashed",
    NodesRebooted = "nodes_rebooted",
    BurnIns = "burn_ins",
    GpusQuarantined = "gpus_quarantined",
    GpusSpared = "gpus_spared_by_the_breaker",
    BurnInsWanted = "burn_ins_wanted",
    BurnInsInterrupted = "burn_ins_interrupted",
    RetestsPermitted = "retests_permitted",
    PermitsEnded = "permits_ended_with_their_node",
    InventoryShrunk = "inventory_shrunk",
    CutsNode = "cuts_node",
    CutsSite = "cuts_site",
    CutsOneWay = "cuts_one_way",
    CutWhileHandingOff = "cut_while_handing_off",
    JobsAcknowledged = "jobs_acknowledged",
    SubmitsRepeated = "submits_repeated",
    JobsFinished = "jobs_finished",
    JobsCancelled = "jobs_cancelled",
    JobsLost = "jobs_lost",
    JobsRefused = "jobs_refused",
    JobsArchived = "jobs_archived",
    ProcessesStarted = "processes_started",
    GuestsStarted = "guests_started",
    NeedyGuestsStarted = "guests_started_that_ask_for_more_than_gpus",
    BesideGuestsStarted = "guests_started_that_ask_for_cpu_or_memory",
    LoneGuestsStarted = "guests_started_alone_on_their_nodes",
    GangsStarted = "gang_parts_started",
    AttemptsRepeated = "attempts_after_the_first",
    Fenced = "fenced_by_deadline",
    LoanExpiredRunning = "loan_expired_while_running",
    FencedByAgentlessSupervisor = "fenced_while_agent_paused",
    OrphansEnded = "orphans_ended",
    NodesSuspected = "nodes_suspected",
    NodesRestored = "nodes_restored",
    NodesReleased = "nodes_released",
    PeersSuspected = "peers_suspected",
    PeersRestored = "peers_restored",
    PeersReleased = "peers_released",
    ReleasesHeld = "releases_held",
    PlansDropped = "assignments_dropped",
    GrantsMade = "grants_made",
    GrantsRecalled = "grants_recalled",
    GrantsReturned = "grants_returned",
    GrantsExpired = "grants_expired",
    LoansDrawn = "loans_drawn",
    GuestsRefused = "guests_refused",
    GuestsForgotten = "guests_forgotten",
    LateResultsKept = "late_results_kept",
    ResultsAcrossLives = "results_across_agent_lives",
    FinishedDuringCut = "finished_while_suspected",
    WaitedOut = "wait_jobs_ran_while_suspected",
    CancelsWhileRunning = "cancels_while_running",
    Drains = "drains",
    QuotasSet = "quotas_set",
    SignalsSet = "signals_set",
    DataRead = "processes_started_that_read_data",
    QuotaBinds = "waiting_jobs_bound_by_quota",
    NodesKept = "plans_with_nodes_kept",
    Preemptions = "rooms_made_by_preemption",
    JobsPreempted = "jobs_preempted",
    Reclaims = "jobs_preempted_by_equals_for_a_guarantee",
    PreemptedForGood = "jobs_preempted_as_often_as_may_be",
    StalePreemptions = "preemptions_refused_by_the_log",
    StartedBeside = "jobs_started_on_kept_nodes",
    ReservationsMade = "reservations_made",
    StartedOnReserved = "jobs_started_on_reserved_nodes",
    DemandingStarted = "parts_started_that_demand_proofs",
    DemandingGuestsStarted = "guests_started_that_demand_proofs",
    ProofsVerified = "proofs_of_peers_verified",
    ProofsRefused = "proofs_of_peers_refused",
}

/// How often each mark was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    counts: Vec<u64>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { counts: vec![0; Mark::ALL.len()] }
    }
}

impl Coverage {
    pub(crate) fn mark(&mut self, mark: Mark) {
        self.add(mark, 1);
    }

    pub(crate) fn add(&mut self, mark: Mark, count: u64) {
        if let Some(at) = Mark::ALL.iter().position(|it| *it == mark) {
            self.counts[at] += count;
        }
    }

    pub(crate) fn count(&self, mark: Mark) -> u64 {
        Mark::ALL.iter().position(|it| *it == mark).map_or(0, |at| self.counts[at])
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// Every mark and its count.
    pub fn iter(&self) -> impl Iterator<Item = (Mark, u64)> {
        Mark::ALL.iter().copied().zip(self.counts.iter().copied())
    }
}
