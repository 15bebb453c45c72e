//! The start of an agent: from a directory and a token to one that runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use fabric_quic::endpoint::{Endpoint, EndpointConfig};
use fabric_quic::env::Env;
use fabric_quic::pki::Credentials;
use fabric_quic::token::Token;
use fabric_quic::trust::TrustStore;
use specs::fault::{Fault, FaultCode};

use crate::agent::Agent;
use crate::config::{Config, Declared, check_declared};
use crate::engine::SelfLauncher;
use crate::facts::{Attribute, Topology};
use crate::health::HealthOptions;
use crate::life::Home;
use crate::service::AgentService;
use crate::{enrol, inventory};

/// How an agent is started.
#[derive(Debug, Clone)]
pub struct Options {
    pub directory: PathBuf,
    /// Needed until the directory is enrolled.
    pub token: Option<Token>,
    /// Empty to keep what was declared before.
    pub declared: Vec<Declared>,
    /// None to keep what was said before, or the host's name.
    pub address: Option<String>,
    /// None to keep what was said before.
    pub topology: Option<Topology>,
    /// Empty to keep what was said before.
    pub attributes: Vec<Attribute>,
    pub metrics: SocketAddr,
    pub listen: SocketAddr,
    pub health: HealthOptions,
}

/// Runs an agent until `shutdown` ends. Its attempts end with it.
///
/// # Errors
/// It cannot enrol, its directory is not usable, or a later life of the same agent is known.
pub async fn run(
    env: Env,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Fault> {
    check_declared(&options.declared).map_err(|why| Fault::new(FaultCode::InvalidArgument, why))?;
    let home = Home::take(&options.directory)?;
    let config = configure(&env, &home, &options).await?;
    let boot = home.next_boot()?;
    home.end_orphans(&env).await?;
    let launcher = Arc::new(SelfLauncher { directory: home.path.clone() });
    let (mut agent, endpoint) = Agent::new(&env, &home, config, boot, &options, launcher).await?;
    let ended = agent.live(shutdown).await;
    endpoint.shutdown("the agent ends").await;
    ended
}

async fn configure(env: &Env, home: &Home, options: &Options) -> Result<Config, Fault> {
    let mut config = match (Config::load(&home.path)?, &options.token) {
        (Some(config), None) => config,
        (Some(config), Some(token)) => {
            enrol::check_same(&config, token)?;
            tracing::info!("the directory is enrolled already; the token is not used");
            config
        }
        (None, Some(token)) => {
            // Found before the token is spent.
            inventory::find(&options.declared)?;
            let address = options.address.clone().unwrap_or_else(host_name);
            enrol::enrol(env, home, token, address, options.declared.clone()).await?
        }
        (None, None) => {
            let message = format!("{} is not enrolled", home.path.display());
            return Err(Fault::new(FaultCode::InvalidArgument, message).with_hint(
                "give a token from `federation node enroll NODE`, in SPILLWAY_ENROL_TOKEN or \
                 with --token-file",
            ));
        }
    };
    let before = config.clone();
    if !options.declared.is_empty() {
        config.declared.clone_from(&options.declared);
    }
    if let Some(address) = &options.address {
        config.address.clone_from(address);
    }
    if let Some(topology) = &options.topology {
        config.topology.clone_from(topology);
    }
    if !options.attributes.is_empty() {
        config.attributes.clone_from(&options.attributes);
    }
    if config != before {
        config.save(&home.path)?;
    }
    Ok(config)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The endpoint of an enrolled agent, which trusts its site alone.
pub(crate) fn bind(
    env: &Env,
    config: &Config,
    credentials: &Credentials,
    listen: SocketAddr,
    service: AgentService,
) -> Result<Endpoint, Fault> {
    let trust = TrustStore::new();
    trust.trust(&config.site, credentials.ca()).map_err(|refusal| {
        let message = format!("the site's authority cannot be trusted: {refusal}");
        Fault::new(FaultCode::Internal, message)
    })?;
    let endpoint =
        EndpointConfig { listen, credentials: Some(credentials.clone()), trust: Arc::new(trust) };
    Endpoint::bind(env, endpoint, Arc::new(service)).map_err(|error| {
        Fault::new(FaultCode::Conflict, error.to_string())
            .with_hint("--listen 0.0.0.0:0 takes any free port")
    })
}
