//! Lanes.

use bytes::Bytes;
use fabric_quic::connection::{CallError, Connection};
use fabric_quic::endpoint::Endpoint;
use fabric_quic::lane::LaneError;
use specs::fault::FaultCode;
use specs::unit::Millis;
use specs::wire::method::Method;

use crate::support::{Events, Site, agent, controller, expect_controller};

async fn member() -> (Endpoint, Endpoint, Events, Connection) {
    let berlin = Site::new("berlin");
    let (server, events) = berlin.serve(&controller("berlin", 1));
    let client = berlin.ask(&controller("berlin", 2));
    let connection = client
        .connect(server.local_address(), expect_controller("berlin"))
        .await
        .expect("a connection");
    (server, client, events, connection)
}

#[tokio::test]
async fn frames_arrive_whole_and_in_order() {
    let (_server, _client, _events, connection) = member().await;
    let (mut sender, mut receiver) =
        connection.open_lane(Method::RaftAppend).await.unwrap().split();
    let frames: Vec<Bytes> = [0usize, 1, 5, 1_000, 3_000_000, 17]
        .iter()
        .map(|len| vec![len.to_le_bytes()[0]; *len].into())
        .collect();
    let expected = frames.clone();
    let sending = tokio::spawn(async move {
        for frame in frames {
            sender.send(frame).await.unwrap();
        }
        sender.finish();
        assert_eq!(sender.send("late").await, Err(LaneError::Closed));
    });
    for frame in expected {
        assert_eq!(receiver.recv().await, Some(frame));
    }
    assert_eq!(receiver.recv().await, None);
    assert_eq!(receiver.recv().await, None);
    sending.await.unwrap();
}

#[tokio::test]
async fn cancelling_an_operation_loses_and_repeats_nothing() {
    let (_server, client, _events, connection) = member().await;
    let env = client.env().clone();
    let (sender, mut receiver) = connection.open_lane(Method::RaftAppend).await.unwrap().split();
    let sending = tokio::spawn(async move {
        for number in 0..500u32 {
            let frame = vec![number.to_be_bytes()[3]; 20_000];
            // Give up and try again until it is taken.
            loop {
                let send = sender.send(frame.clone());
                if let Ok(sent) = env.timeout(Millis(1), send).await {
                    sent.unwrap();
                    break;
                }
            }
        }
        sender
    });
    let env = client.env().clone();
    for number in 0..500u32 {
        let frame = loop {
            if let Ok(frame) = env.timeout(Millis(1), receiver.recv()).await {
                break frame.unwrap();
            }
        };
        assert_eq!(frame.len(), 20_000);
        assert!(frame.iter().all(|byte| *byte == number.to_be_bytes()[3]), "frame {number}");
    }
    drop(sending.await.unwrap());
    assert_eq!(receiver.recv().await, None);
}

#[tokio::test]
async fn a_frame_above_the_limit_is_not_sent() {
    let (_server, _client, _events, connection) = member().await;
    let lane = connection.open_lane(Method::RaftAppend).await.unwrap();
    let max = Method::RaftAppend.request_max();
    let error = lane.send(vec![0; max + 1]).await.unwrap_err();
    assert_eq!(error, LaneError::TooLarge { len: max + 1, max });
}

#[tokio::test]
async fn a_lane_that_is_not_served_or_not_allowed_does_not_open() {
    let (_server, _client, _events, connection) = member().await;
    let error = connection.open_lane(Method::RaftVote).await.unwrap_err();
    assert_eq!(error.into_fault().code, FaultCode::Unimplemented);
    let berlin = Site::new("berlin");
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let client = berlin.ask(&agent("berlin", "n01"));
    let connection =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap();
    let error = connection.open_lane(Method::RaftAppend).await.unwrap_err();
    assert!(matches!(error, CallError::Fault(fault) if fault.code == FaultCode::Forbidden));
}

#[tokio::test]
async fn a_lost_connection_ends_a_lane_in_both_directions() {
    let (_server, _client, mut events, connection) = member().await;
    let mut lane = connection.open_lane(Method::RaftAppend).await.unwrap();
    lane.send("one").await.unwrap();
    assert_eq!(lane.recv().await.unwrap(), "one");
    events.connected.recv().await.unwrap().close("a test");
    assert_eq!(lane.recv().await, None);
    connection.closed().await;
    // The queue may take what is never sent, but not for ever.
    loop {
        if lane.send("two").await.is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn a_sender_learns_that_nobody_reads_any_more() {
    let (_server, _client, _events, connection) = member().await;
    let (sender, receiver) = connection.open_lane(Method::RaftAppend).await.unwrap().split();
    // The echo cannot be sent, so the service ends and stops our direction too.
    drop(receiver);
    loop {
        if sender.send("ping").await.is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn a_sender_with_nothing_to_send_learns_that_the_lane_is_lost() {
    let (_server, client, mut events, connection) = member().await;
    let (sender, _receiver) = connection.open_lane(Method::RaftAppend).await.unwrap().split();
    events.connected.recv().await.unwrap().close("a test");
    client.env().timeout(Millis(20_000), sender.closed()).await.unwrap();
}
