//! Asks a site's controllers. Any of them will do: each is tried in turn until one answers or the
//! time is up, and a request that is repeated keeps its id, so that it takes effect once.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::connection::{CallError, CallOptions, Connection};
use fabric_quic::endpoint::{Endpoint, EndpointConfig};
use fabric_quic::env::Env;
use fabric_quic::pki::Credentials;
use fabric_quic::service::NoService;
use fabric_quic::trust::TrustStore;
use fabric_quic::verify::Expect;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use specs::codec::{Blob, Message};
use specs::fault::{Fault, FaultCode};
use specs::id::{CallId, ControllerId, Revision, SiteId};
use specs::unit::Millis;
use specs::wire::client::{StaleAnswer, StaleRead, may_be_stale};
use specs::wire::method::Method;

use crate::error::{Failure, Outcome, chain};

mod many;

/// How long one controller may take to answer before another is asked.
const TRY_SPAN: Millis = Millis(5_000);
/// How much later each further controller is dialed, so that one that is down costs little.
const STAGGER: Millis = Millis(300);
/// The first wait after a round without an answer; it doubles up to the longest.
const PAUSE: Millis = Millis(50);
const PAUSE_MAX: Millis = Millis(1_000);
/// How long the last packet may take to leave.
const CLOSE_SPAN: Millis = Millis(5);

/// Whom to ask, as whom.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) servers: Vec<String>,
    pub(crate) credentials: Credentials,
    /// How long to try.
    pub(crate) budget: Millis,
    /// Take what whichever controller is asked holds, however old.
    pub(crate) is_stale: bool,
}

/// What is said beside an answer that no leader vouched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stale {
    pub(crate) controller: ControllerId,
    pub(crate) revision: Revision,
    /// Since the controller heard a leader; none if it has not since it started.
    pub(crate) heard: Option<Millis>,
}

/// What a repetition would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Reads,
    Changes,
}

/// One question.
struct Ask {
    method: Method,
    body: Bytes,
    call: CallId,
    effect: Effect,
    /// How long the other side may hold the answer back.
    wait: Millis,
    /// How long one try may take, beyond that.
    span: Millis,
}

/// A user's connection to a site.
pub(crate) struct Client {
    env: Env,
    site: SiteId,
    budget: Millis,
    /// The one to try first is in front.
    servers: VecDeque<String>,
    live: Option<Connection>,
    is_stale: bool,
    /// Of the last answer, if nobody vouched for it.
    stale: Option<Stale>,
    v4: Endpoint,
    /// None on a machine without IPv6.
    v6: Option<Endpoint>,
}

impl Client {
    pub(crate) fn new(env: &Env, target: Target) -> Outcome<Self> {
        let Target { servers, credentials, budget, is_stale } = target;
        let internal = |message: String| Failure::new(FaultCode::Internal, message);
        let site = credentials.identity().site().cloned();
        let site = site.ok_or_else(|| internal("the certificate names no site".into()))?;
        let trust = Arc::new(TrustStore::new());
        trust
            .trust(&site, credentials.ca())
            .map_err(|error| Failure::new(FaultCode::Forbidden, chain(&error)))?;
        let bind = |listen: SocketAddr| {
            let credentials = Some(credentials.clone());
            let config = EndpointConfig { listen, credentials, trust: trust.clone() };
            Endpoint::bind(env, config, Arc::new(NoService))
        };
        let v4 = bind((Ipv4Addr::UNSPECIFIED, 0).into()).map_err(|it| internal(chain(&it)))?;
        let v6 = bind((Ipv6Addr::UNSPECIFIED, 0).into()).ok();
        let (env, servers) = (env.clone(), servers.into());
        Ok(Self { env, site, budget, servers, live: None, is_stale, stale: None, v4, v6 })
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) fn site(&self) -> &SiteId {
        &self.site
    }

    /// Asks for something that changes nothing.
    pub(crate) async fn read<A: Message>(
        &mut self,
        method: Method,
        question: &impl Message,
    ) -> Outcome<A> {
        if !self.is_stale {
            return self.poll(method, question, Millis::ZERO).await;
        }
        let body = Blob(question.encode());
        let answer: StaleAnswer =
            self.poll(Method::StaleRead, &StaleRead { method, body }, Millis::ZERO).await?;
        let StaleAnswer { body, revision, controller, heard } = answer;
        self.stale = Some(Stale { controller, revision, heard });
        A::decode(&body.0).map_err(|error| {
            let message = format!("the answer to {method} cannot be read: {error}");
            Failure::new(FaultCode::VersionMismatch, message)
        })
    }

    /// Asks one controller, once, whatever it thinks of the others.
    pub(crate) async fn ask_at<A: Message>(
        &self,
        server: &str,
        method: Method,
        question: &impl Message,
        span: Millis,
    ) -> Outcome<A> {
        let asking = async {
            let connection = self.dial_one(server).await?;
            let options = CallOptions { deadline: Some(span), ..CallOptions::default() };
            let answer =
                connection.call_with(method, Bytes::from(question.encode()), options).await;
            connection.close("done");
            answer.map_err(CallError::into_fault)
        };
        let answer = self.env.timeout(span, asking).await.map_err(|_| {
            let message = format!("{server} did not answer in {} ms", span.0);
            Failure::new(FaultCode::Timeout, message)
        })??;
        A::decode(&answer).map_err(|error| {
            let message = format!("the answer of {server} to {method} cannot be read: {error}");
            Failure::new(FaultCode::VersionMismatch, message)
        })
    }

    /// From here on, takes what whichever controller is asked holds.
    pub(crate) fn accept_stale(&mut self) {
        self.is_stale = true;
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// As [`Client::read`], of a controller that may wait for something to tell.
    pub(crate) async fn poll<A: Message>(
        &mut self,
        method: Method,
        question: &impl Message,
        wait: Millis,
    ) -> Outcome<A> {
        self.ask(method, question, Effect::Reads, wait, TRY_SPAN).await
    }

    /// Asks for a change. Repeating it must do no harm.
    pub(crate) async fn change<A: Message>(
        &mut self,
        method: Method,
        question: &impl Message,
    ) -> Outcome<A> {
        if self.is_stale {
            let failure = Failure::usage(format!("{method} changes something"));
            return Err(failure.with_hint("--stale is for listings: leave it out here"));
        }
        // What takes longer by itself, as asking another site, must not be given up too soon.
        let span = if method.deadline() > Millis(10_000) { method.deadline() } else { TRY_SPAN };
        self.ask(method, question, Effect::Changes, Millis::ZERO, span).await
    }

    /// Lets the controllers know that this client is gone. Says so if nobody vouched for the last
    /// answer.
    pub(crate) async fn close(self) -> Option<Stale> {
        self.v4.close("done");
        if let Some(v6) = &self.v6 {
            v6.close("done");
        }
        self.env.sleep(CLOSE_SPAN).await;
        self.stale
    }

    async fn ask<A: Message>(
        &mut self,
        method: Method,
        question: &impl Message,
        effect: Effect,
        wait: Millis,
        span: Millis,
    ) -> Outcome<A> {
        let call = CallId(self.env.random_u128());
        let body = Bytes::from(question.encode());
        let ask = Ask { method, body, call, effect, wait, span };
        let named = |failure: Failure| failure.with_request(call.to_string());
        let answer = self.persist(&ask).await.map_err(named)?;
        A::decode(&answer).map_err(|error| {
            let message = format!("the answer to {method} cannot be read: {error}");
            named(Failure::new(FaultCode::VersionMismatch, message))
        })
    }

    /// Tries until there is an answer, a refusal, or no time.
    async fn persist(&mut self, ask: &Ask) -> Outcome<Bytes> {
        let begun = self.env.clock.now();
        let limit = begun.after(self.budget.plus(ask.wait));
        let mut is_unsure = false;
        let mut pause = PAUSE;
        let mut told = None;
        loop {
            let left = limit.since(self.env.clock.now());
            let fault = match self.attempt(ask, left).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            // That one more controller did not answer says less than what one answered.
            let silence = [FaultCode::Unreachable, FaultCode::Timeout, FaultCode::OutcomeUnknown];
            if !silence.contains(&fault.code) {
                told = Some(fault.clone());
            }
            is_unsure |= fault.code == FaultCode::OutcomeUnknown;
            if !fault.code.is_retryable() {
                return Err(fault.into());
            }
            let jittered = Millis(pause.0 / 2 + self.env.random_u64() % pause.0);
            if self.env.clock.now().after(jittered) >= limit {
                let (method, effect, spent) = (ask.method, ask.effect, self.budget.plus(ask.wait));
                return Err(self.gave_up(method, effect, spent, told.unwrap_or(fault), is_unsure));
            }
            self.env.sleep(jittered).await;
            pause = pause.times(2).min(PAUSE_MAX);
        }
    }

    /// Asks one controller once.
    async fn attempt(&mut self, ask: &Ask, left: Millis) -> Result<Bytes, Fault> {
        let dialed = self.env.clone().timeout(left, self.connection()).await;
        let connection = dialed.unwrap_or_else(|_| {
            Err(Fault::new(FaultCode::Unreachable, "no controller was reached in time"))
        })?;
        let deadline = Some(left.min(ask.wait.plus(ask.span)));
        let options = CallOptions { deadline, call: Some(ask.call), on_behalf: None };
        let answer = connection.call_with(ask.method, ask.body.clone(), options).await;
        answer.map_err(|error| {
            let is_over = match &error {
                // The only controller there is knows best when it will know more.
                CallError::Fault(fault) => fault.code.is_retryable() && self.servers.len() > 1,
                CallError::Unreachable(_) | CallError::Unknown(_) => true,
            };
            if is_over {
                self.ask_another();
            }
            error.into_fault()
        })
    }

    fn ask_another(&mut self) {
        if let Some(connection) = self.live.take() {
            connection.close("asking another");
        }
        self.servers.rotate_left(1);
    }

    async fn connection(&mut self) -> Result<Connection, Fault> {
        if let Some(live) = self.live.as_ref().filter(|live| !live.is_closed()) {
            return Ok(live.clone());
        }
        let (server, connection) = self.dial().await?;
        while self.servers.front().is_some_and(|first| *first != server) {
            self.servers.rotate_left(1);
        }
        self.live = Some(connection.clone());
        Ok(connection)
    }

    /// Dials all controllers, one a little after the other; the first that answers is it.
    async fn dial(&self) -> Result<(String, Connection), Fault> {
        let dial = |(nth, server): (u64, &String)| {
            let (server, wait) = (server.clone(), STAGGER.times(nth));
            async move {
                self.env.sleep(wait).await;
                let outcome = self.dial_one(&server).await;
                outcome.map(|connection| (server, connection))
            }
        };
        let mut dials: FuturesUnordered<_> = (0..).zip(&self.servers).map(dial).collect();
        let mut last = Fault::new(FaultCode::Unreachable, "there is no controller to ask");
        while let Some(outcome) = dials.next().await {
            match outcome {
                Ok(found) => return Ok(found),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn dial_one(&self, server: &str) -> Result<Connection, Fault> {
        let resolved = self.env.sockets.resolve(server).await;
        let addresses = resolved.map_err(|error| {
            let message = format!("cannot find the address of {server}: {error}");
            Fault::new(FaultCode::Unreachable, message)
        })?;
        let mut last = Fault::new(FaultCode::Unreachable, format!("{server} has no address"));
        for address in addresses {
            let endpoint = if address.is_ipv6() { self.v6.as_ref() } else { Some(&self.v4) };
            let Some(endpoint) = endpoint else { continue };
            let expect = Expect::Controller { site: self.site.clone() };
            match endpoint.connect(address, expect).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error.into_fault(address),
            }
        }
        Err(last)
    }

    fn gave_up(
        &self,
        method: Method,
        effect: Effect,
        spent: Millis,
        last: Fault,
        is_unsure: bool,
    ) -> Failure {
        let site = &self.site;
        if is_unsure && effect == Effect::Changes {
            let message = format!("no controller of {site} confirmed {method}: {}", last.message);
            return Failure::new(FaultCode::OutcomeUnknown, message)
                .with_hint("it may have taken effect; look before you repeat it");
        }
        let is_unknown = last.code == FaultCode::OutcomeUnknown;
        let code = if is_unknown { FaultCode::Timeout } else { last.code };
        let spent = spent.0.div_ceil(1_000);
        let message = format!("no answer from {site} in {spent} s: {}", last.message);
        let servers = Vec::from(self.servers.clone()).join(", ");
        let asked = format!("asked: {servers}");
        let hint = match effect {
            _ if !last.hint.is_empty() && !last.hint.starts_with("leader=") => last.hint,
            Effect::Reads if may_be_stale(method) => {
                format!("what any controller knew last: add --stale; {asked}")
            }
            Effect::Reads | Effect::Changes => asked,
        };
        Failure::new(code, message).with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use fabric_quic::env::BoxFuture;
    use fabric_quic::identity::Identity;
    use fabric_quic::pki::Authority;
    use fabric_quic::service::{Request, Service};
    use specs::id::{ControllerId, NodeId, UserId};
    use specs::wire::client::{Empty, NodeDrain};

    use super::*;

    /// A controller that answers as it was told to, and from then on as at last.
    struct Scripted {
        answers: Mutex<VecDeque<Result<Bytes, FaultCode>>>,
        calls: Mutex<Vec<CallId>>,
    }

    impl Service for Scripted {
        fn call(&self, request: Request) -> BoxFuture<'_, Result<Bytes, Fault>> {
            self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(request.call);
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let answer =
                if answers.len() > 1 { answers.pop_front() } else { answers[0].clone().into() };
            let answer =
                answer.expect("there is always one").map_err(|code| Fault::new(code, "so"));
            Box::pin(std::future::ready(answer))
        }
    }

    /// A site with controllers that run within the test.
    struct Site {
        env: Env,
        authority: Authority,
        name: SiteId,
        running: Vec<(Endpoint, Arc<Scripted>)>,
    }

    impl Site {
        fn new() -> Self {
            let env = Env::system();
            let name = SiteId::new("berlin").unwrap();
            let authority = Authority::create(&env, &name).unwrap();
            Self { env, authority, name, running: Vec::new() }
        }

        /// One more controller; returns where it listens.
        fn run(&mut self, answers: Vec<Result<Bytes, FaultCode>>) -> String {
            let id = ControllerId(u64::try_from(self.running.len()).unwrap() + 1);
            let own = Identity::Controller { site: self.name.clone(), id };
            let credentials = self.authority.credentials(&self.env, &own).unwrap();
            let trust = Arc::new(TrustStore::new());
            trust.trust(&self.name, self.authority.certificate()).unwrap();
            let answers = Mutex::new(answers.into());
            let service = Arc::new(Scripted { answers, calls: Mutex::default() });
            let listen = (Ipv4Addr::LOCALHOST, 0).into();
            let config = EndpointConfig { listen, credentials: Some(credentials), trust };
            let endpoint = Endpoint::bind(&self.env, config, service.clone()).unwrap();
            let address = endpoint.local_address().to_string();
            self.running.push((endpoint, service));
            address
        }

        fn calls(&self, nth: usize) -> Vec<CallId> {
            self.running[nth].1.calls.lock().unwrap().clone()
        }

        fn client(&self, servers: Vec<String>, budget: Millis) -> Client {
            let user = UserId::new("admin").unwrap();
            let user = Identity::User { site: self.name.clone(), user };
            let credentials = self.authority.credentials(&self.env, &user).unwrap();
            Client::new(&self.env, Target { servers, credentials, budget, is_stale: false })
                .unwrap()
        }
    }

    fn drain() -> NodeDrain {
        NodeDrain { node: NodeId::new("n1").unwrap(), drain: true }
    }

    const LONG: Millis = Millis(20_000);
    const SHORT: Millis = Millis(400);

    #[tokio::test]
    async fn a_request_that_is_repeated_keeps_its_id() {
        let mut site = Site::new();
        let first = site.run(vec![Err(FaultCode::NotLeader)]);
        let second = site.run(vec![Err(FaultCode::Busy), Ok(Bytes::new())]);
        let mut client = site.client(vec![first, second], LONG);
        let Empty {} = client.change(Method::NodeDrain, &drain()).await.unwrap();
        let calls = [site.calls(0), site.calls(1)].concat();
        assert!(calls.len() >= 3, "{calls:?}");
        assert!(calls.iter().all(|call| *call == calls[0]), "{calls:?}");
    }

    #[tokio::test]
    async fn a_change_that_nobody_confirms_is_of_unknown_outcome() {
        let mut site = Site::new();
        let server = site.run(vec![Err(FaultCode::OutcomeUnknown), Err(FaultCode::NotLeader)]);
        let mut client = site.client(vec![server], SHORT);
        let outcome: Outcome<Empty> = client.change(Method::NodeDrain, &drain()).await;
        assert_eq!(outcome.unwrap_err().exit_code(), 8);
    }

    #[tokio::test]
    async fn a_question_that_nobody_answers_may_be_asked_again() {
        let mut site = Site::new();
        let server = site.run(vec![Err(FaultCode::OutcomeUnknown)]);
        let mut client = site.client(vec![server], SHORT);
        let outcome: Outcome<Empty> = client.read(Method::NodeList, &Empty {}).await;
        assert_eq!(outcome.unwrap_err().exit_code(), 7);
    }

    #[tokio::test]
    async fn a_refusal_is_final() {
        let mut site = Site::new();
        let server = site.run(vec![Err(FaultCode::Forbidden), Ok(Bytes::new())]);
        let mut client = site.client(vec![server], LONG);
        let outcome: Outcome<Empty> = client.change(Method::NodeDrain, &drain()).await;
        assert_eq!(outcome.unwrap_err().exit_code(), 4);
        assert_eq!(site.calls(0).len(), 1);
    }

    #[tokio::test]
    async fn a_controller_that_is_down_is_passed_over() {
        let mut site = Site::new();
        let up = site.run(vec![Ok(Bytes::new())]);
        let silent = site.env.sockets.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let down = silent.local_addr().unwrap().to_string();
        let mut client = site.client(vec![down, up], LONG);
        let Empty {} = client.read(Method::NodeList, &Empty {}).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_controller_answered_outweighs_the_silence_of_another() {
        let mut site = Site::new();
        let unled = site.run(vec![Err(FaultCode::NotLeader)]);
        let lost = site.run(vec![Err(FaultCode::OutcomeUnknown)]);
        let mut client = site.client(vec![unled, lost], SHORT);
        let outcome: Outcome<Empty> = client.read(Method::NodeList, &Empty {}).await;
        let failure = outcome.unwrap_err();
        assert!(!site.calls(0).is_empty() && !site.calls(1).is_empty());
        assert_eq!(failure.code(), Some(FaultCode::NotLeader), "{failure:?}");
    }

    #[tokio::test]
    async fn a_controller_of_another_authority_is_not_trusted() {
        let mut other = Site::new();
        let server = other.run(vec![Ok(Bytes::new())]);
        let mut client = Site::new().client(vec![server], LONG);
        let outcome: Outcome<Empty> = client.read(Method::NodeList, &Empty {}).await;
        assert_eq!(outcome.unwrap_err().exit_code(), 4);
        assert!(other.calls(0).is_empty());
    }
}
