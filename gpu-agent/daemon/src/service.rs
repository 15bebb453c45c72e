//! What controllers may ask of an agent.

use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::env::BoxFuture;
use fabric_quic::service::{Request, Service};
use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::wire::agent::{NodeLogs, Nudge};
use specs::wire::method::Method;
use tokio::sync::Notify;

use crate::logs::Logs;

pub(crate) struct AgentService {
    /// Makes the agent ask at once.
    pub(crate) wake: Arc<Notify>,
    pub(crate) logs: Logs,
}

impl Service for AgentService {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Bytes, Fault>> {
        Box::pin(async move {
            if request.method == Method::NodeNudge {
                self.wake.notify_one();
                return Ok(Nudge {}.encode().into());
            }
            if request.method == Method::NodeLogs {
                let asked = NodeLogs::decode(&request.body).map_err(|error| {
                    let message = format!("the request makes no sense: {error}");
                    Fault::new(FaultCode::InvalidArgument, message)
                })?;
                let chunk = self.logs.read(&asked, request.deadline).await?;
                return Ok(chunk.encode().into());
            }
            let message = format!("an agent does not serve {}", request.method);
            Err(Fault::new(FaultCode::Unimplemented, message))
        })
    }
}
