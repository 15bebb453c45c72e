//! Calls.

use std::sync::Arc;

use bytes::Bytes;
use fabric_core::frame::{FrameHead, FrameKind, Hello, RequestHeader, decode_fault, encode_frame};
use fabric_quic::connection::{CallError, CallOptions, Connection};
use fabric_quic::endpoint::Endpoint;
use fabric_quic::service::NoService;
use specs::fault::FaultCode;
use specs::id::{CallId, UserId};
use specs::unit::Millis;
use specs::wire::method::Method;

use crate::forge::Stranger;
use crate::support::{
    Events, Site, TestService, agent, assert_reason, controller, expect_controller, user,
};

/// A controller that serves, and someone of its site who is connected to it.
struct Pair {
    _server: Endpoint,
    client: Endpoint,
    events: Events,
    connection: Connection,
}

async fn pair(client: &fabric_core::identity::Identity) -> Pair {
    let berlin = Site::new("berlin");
    let (server, events) = berlin.serve(&controller("berlin", 1));
    let client = berlin.ask(client);
    let connection = client
        .connect(server.local_address(), expect_controller("berlin"))
        .await
        .expect("a connection");
    Pair { _server: server, client, events, connection }
}

fn code(error: CallError) -> FaultCode {
    match error {
        CallError::Fault(fault) => fault.code,
        other => panic!("not a fault: {other:?}"),
    }
}

#[tokio::test]
async fn either_end_calls_the_other_over_one_connection() {
    let berlin = Site::new("berlin");
    let (server, mut events) = berlin.serve(&controller("berlin", 1));
    let (service, _agent_events) = TestService::new();
    let client = berlin.bind(Some(berlin.credentials(&agent("berlin", "n01"))), Arc::new(service));
    let connection =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap();
    let answer = connection.call(Method::NodeReport, "report", None).await.unwrap();
    assert_eq!(&*answer, b"report");
    let back = events.connected.recv().await.unwrap();
    let answer = back.call(Method::NodeNudge, "nudge", None).await.unwrap();
    assert_eq!(&*answer, b"nudge");
    // Directions keep their rights: an agent is not asked what only controllers serve.
    let fault = back.call(Method::NodeReport, "", None).await.unwrap_err();
    assert_eq!(code(fault), FaultCode::Forbidden);
}

#[tokio::test]
async fn many_calls_share_a_connection_beyond_its_limit_of_streams() {
    let pair = pair(&user("berlin", "admin")).await;
    let calls = (0..300u32).map(|number| {
        let connection = pair.connection.clone();
        tokio::spawn(async move {
            let body = number.to_string();
            let answer = connection.call(Method::JobSubmit, body.clone(), None).await.unwrap();
            assert_eq!(&*answer, body.as_bytes());
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn the_largest_request_passes_and_a_larger_one_is_not_sent() {
    let pair = pair(&user("berlin", "admin")).await;
    let max = Method::JobSubmit.request_max();
    let body = Bytes::from(vec![7; max]);
    let answer = pair.connection.call(Method::JobSubmit, body.clone(), None).await.unwrap();
    assert_eq!(answer, body);
    let error = pair.connection.call(Method::JobSubmit, vec![7; max + 1], None).await.unwrap_err();
    assert_eq!(code(error), FaultCode::InvalidArgument);
    // Nor is it tried.
    pair.connection.close("a test");
    let error = pair.connection.call(Method::JobSubmit, vec![7; max + 1], None).await.unwrap_err();
    assert_eq!(code(error), FaultCode::InvalidArgument);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_a_fault() {
    let pair = pair(&user("berlin", "admin")).await;
    let error = pair.connection.call(Method::JobLogs, "", None).await.unwrap_err();
    assert_eq!(code(error), FaultCode::Internal);
}

#[tokio::test]
async fn a_fault_of_the_service_arrives_as_it_is() {
    let pair = pair(&user("berlin", "admin")).await;
    let error = pair.connection.call(Method::JobShow, "", None).await.unwrap_err();
    assert_eq!(error.clone().into_fault().message, "no such job");
    assert_eq!(code(error), FaultCode::NotFound);
}

#[tokio::test]
async fn a_method_of_another_plane_is_forbidden() {
    let pair = pair(&agent("berlin", "n01")).await;
    for method in [Method::JobSubmit, Method::RaftVote, Method::PeerReport, Method::NodeNudge] {
        let error = pair.connection.call(method, "", None).await.unwrap_err();
        assert_eq!(code(error), FaultCode::Forbidden, "{method}");
    }
}

#[tokio::test]
async fn a_large_request_that_is_forbidden_is_answered_all_the_same() {
    let pair = pair(&agent("berlin", "n01")).await;
    let body = vec![0; Method::RaftAppend.request_max()];
    let error = pair.connection.call(Method::RaftAppend, body, None).await.unwrap_err();
    assert_eq!(code(error), FaultCode::Forbidden);
}

#[tokio::test]
async fn a_controller_may_speak_for_a_user_and_a_user_for_nobody() {
    let options =
        || CallOptions { on_behalf: Some(UserId::new("ada").unwrap()), ..CallOptions::default() };
    let of_controller = pair(&controller("berlin", 2)).await;
    let answer = of_controller.connection.call_with(Method::JobList, "", options()).await.unwrap();
    assert_eq!(&*answer, b"spiffe://berlin/controller/2 for ada");
    let of_user = pair(&user("berlin", "admin")).await;
    let error = of_user.connection.call_with(Method::JobList, "", options()).await.unwrap_err();
    assert_eq!(code(error), FaultCode::Forbidden);
    let answer = of_user.connection.call(Method::JobList, "", None).await.unwrap();
    assert_eq!(&*answer, b"spiffe://berlin/user/admin for nobody");
}

#[tokio::test]
async fn a_deadline_ends_a_call_on_both_sides() {
    let mut pair = pair(&user("berlin", "admin")).await;
    let error = pair.connection.call(Method::JobWait, "", Some(Millis(50))).await.unwrap_err();
    match error {
        // Either side's clock may strike first; both say that the outcome is open.
        CallError::Unknown(_) => {}
        CallError::Fault(fault) => assert_eq!(fault.code, FaultCode::Timeout),
        CallError::Unreachable(reason) => panic!("it was delivered: {reason}"),
    }
    assert_eq!(pair.events.dropped.recv().await, Some(Method::JobWait));
    // The connection is as good as before.
    pair.connection.call(Method::JobSubmit, "", None).await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_given_up_is_dropped_at_the_other_side() {
    let mut pair = pair(&user("berlin", "admin")).await;
    let connection = pair.connection.clone();
    let call = tokio::spawn(async move { connection.call(Method::JobWait, "", None).await });
    assert_eq!(pair.events.began.recv().await, Some(Method::JobWait));
    call.abort();
    // Long before the deadline would do it.
    let dropped = pair.client.env().timeout(Millis(20_000), pair.events.dropped.recv()).await;
    assert_eq!(dropped, Ok(Some(Method::JobWait)));
}

#[tokio::test]
async fn a_call_in_flight_on_a_lost_connection_is_unknown_and_a_later_one_unreachable() {
    let mut pair = pair(&user("berlin", "admin")).await;
    let connection = pair.connection.clone();
    let call = tokio::spawn(async move { connection.call(Method::JobWait, "", None).await });
    assert_eq!(pair.events.began.recv().await, Some(Method::JobWait));
    pair.events.connected.recv().await.unwrap().close("a test");
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(&error, CallError::Unknown(_)), "{error}");
    assert_reason(&error.to_string(), "a test");
    assert_eq!(error.into_fault().code, FaultCode::OutcomeUnknown);

    let error = pair.connection.call(Method::JobSubmit, "", None).await.unwrap_err();
    assert!(matches!(&error, CallError::Unreachable(_)), "{error}");
    assert_eq!(error.into_fault().code, FaultCode::Unreachable);
    assert!(pair.connection.is_closed());
    let seen = pair.events.disconnected.recv().await.unwrap();
    assert!(seen.is_closed());
}

#[tokio::test]
async fn a_call_that_waits_for_a_stream_until_its_deadline_was_not_delivered() {
    let mut pair = pair(&user("berlin", "admin")).await;
    let mut holders = Vec::new();
    // The opening took one stream, and quinn gives back a few at a time.
    for _ in 1..fabric_quic::settings::REQUESTS_MAX {
        let connection = pair.connection.clone();
        holders.push(tokio::spawn(async move {
            let _ = connection.call(Method::JobWait, "", None).await;
        }));
        pair.events.began.recv().await.unwrap();
    }
    let error = pair.connection.call(Method::JobSubmit, "", Some(Millis(50))).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(_)), "{error}");
    for holder in holders {
        holder.abort();
    }
}

#[tokio::test]
async fn one_who_serves_nothing_says_so() {
    let berlin = Site::new("berlin");
    let server =
        berlin.bind(Some(berlin.credentials(&controller("berlin", 1))), Arc::new(NoService));
    let client = berlin.ask(&user("berlin", "admin"));
    let connection =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap();
    let error = connection.call(Method::JobSubmit, "", None).await.unwrap_err();
    assert_eq!(code(error), FaultCode::Unimplemented);
}

/// Someone who speaks the protocol by hand, greeted by a controller.
async fn by_hand() -> (Endpoint, Events, Stranger) {
    let berlin = Site::new("berlin");
    let (server, events) = berlin.serve(&controller("berlin", 1));
    let stranger = Stranger::dial(server.local_address(), b"spillway/1", None).await.unwrap();
    let hello = encode_frame(FrameKind::Hello, &Hello::of("stranger"));
    stranger.exchange(&hello).await.unwrap();
    (server, events, stranger)
}

fn request(method: u32) -> Vec<u8> {
    let header = RequestHeader {
        method,
        call: CallId(1),
        deadline: Millis(0),
        on_behalf: None,
        lane: false,
    };
    encode_frame(FrameKind::Request, &header)
}

fn head(kind: FrameKind, len: usize) -> [u8; 5] {
    FrameHead { kind, len }.encode().unwrap()
}

#[tokio::test]
async fn a_method_of_a_later_version_is_unimplemented() {
    let (_server, _events, stranger) = by_hand().await;
    let (answer, content) = stranger.exchange(&request(60_000)).await.unwrap();
    assert_eq!(answer.kind, FrameKind::Fault);
    assert_eq!(decode_fault(&content).code, FaultCode::Unimplemented);
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_before_it_is_read() {
    let (_server, _events, stranger) = by_hand().await;
    let mut bytes = request(Method::JoinRedeem.number());
    bytes.extend(head(FrameKind::Body, Method::JoinRedeem.request_max() + 1));
    let (answer, content) = stranger.exchange(&bytes).await.unwrap();
    assert_eq!(answer.kind, FrameKind::Fault);
    assert_eq!(decode_fault(&content).code, FaultCode::InvalidArgument);
}

#[tokio::test]
async fn a_request_that_was_cut_never_reaches_the_service() {
    let (_server, mut events, stranger) = by_hand().await;
    let mut bytes = request(Method::JoinRedeem.number());
    bytes.extend(head(FrameKind::Body, 10));
    bytes.extend(b"only5");
    stranger.exchange(&bytes).await.unwrap_err();
    assert!(events.began.try_recv().is_err());
    // And the connection serves on.
    let mut bytes = request(Method::JoinRedeem.number());
    bytes.extend(head(FrameKind::Body, 2));
    bytes.extend(b"ok");
    let (answer, content) = stranger.exchange(&bytes).await.unwrap();
    assert_eq!((answer.kind, &*content), (FrameKind::Answer, b"ok".as_slice()));
}

#[tokio::test]
async fn nonsense_on_a_stream_harms_nobody_else() {
    let (_server, _events, stranger) = by_hand().await;
    for nonsense in [&b""[..], b"\0", b"\xff\xff\xff\xff\xff\xff", b"\x03\0\0\0\x02\xff\xff"] {
        let _ = stranger.exchange(nonsense).await;
    }
    let mut bytes = request(Method::EnrolRedeem.number());
    bytes.extend(head(FrameKind::Body, 0));
    let (answer, _) = stranger.exchange(&bytes).await.unwrap();
    assert_eq!(answer.kind, FrameKind::Answer);
}
