//! What every subcommand is given: the environment, the global options, the terminal.

use std::path::PathBuf;

use fabric_quic::env::Env;
use specs::fault::FaultCode;
use specs::unit::Millis;

use crate::args::{FormatArgs, Global};
use crate::client::Client;
use crate::context::{self, Config};
use crate::error::{EXIT_INTERRUPTED, Failure, Outcome};
use crate::output::{Output, Terminal, note};

/// Everything that comes from the process's surroundings.
pub(crate) struct App {
    env: Env,
    global: Global,
    terminal: Terminal,
    config_home: Option<PathBuf>,
    home: Option<PathBuf>,
}

impl App {
    pub(crate) fn new(
        env: Env,
        global: Global,
        terminal: Terminal,
        config_home: Option<PathBuf>,
        home: Option<PathBuf>,
    ) -> Self {
        Self { env, global, terminal, config_home, home }
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) fn global(&self) -> &Global {
        &self.global
    }

    pub(crate) fn terminal(&self) -> Terminal {
        self.terminal
    }

    pub(crate) fn config_path(&self) -> Outcome<PathBuf> {
        context::path(self.global.config.as_deref(), self.config_home.clone(), self.home.clone())
    }

    /// A client of the site that the options and the configuration name.
    pub(crate) fn client(&self) -> Outcome<Client> {
        let config = Config::load(&self.config_path()?)?;
        Client::new(&self.env, context::target(&self.env, &config, &self.global)?)
    }

    /// As [`App::client`], for a question that says by itself whether its answer may be old.
    pub(crate) fn unstale_client(&self) -> Outcome<Client> {
        let config = Config::load(&self.config_path()?)?;
        let mut target = context::target(&self.env, &config, &self.global)?;
        target.is_stale = false;
        Client::new(&self.env, target)
    }

    /// As [`App::client`], for a question that has another answer if this takes too long.
    pub(crate) fn hasty_client(&self, most: Millis) -> Outcome<Client> {
        let config = Config::load(&self.config_path()?)?;
        let mut target = context::target(&self.env, &config, &self.global)?;
        target.budget = target.budget.min(most);
        Client::new(&self.env, target)
    }

    /// As [`App::client`], for a command whose `--timeout` means something else.
    pub(crate) fn patient_client(&self) -> Outcome<Client> {
        let config = Config::load(&self.config_path()?)?;
        let mut target = context::target(&self.env, &config, &self.global)?;
        target.budget = context::BUDGET;
        Client::new(&self.env, target)
    }

    pub(crate) fn output(&self, format: FormatArgs) -> Output {
        Output::new(format, self.terminal, self.env.clock.wall())
    }

    /// How long to wait, if the user said so.
    pub(crate) fn timeout(&self) -> Option<Millis> {
        self.global.timeout
    }
}

/// Runs until done or Ctrl-C; then says what to do and ends.
pub(crate) async fn unless_interrupted<T>(
    work: impl Future<Output = Outcome<T>>,
    advice: impl FnOnce() -> String,
) -> Outcome<T> {
    tokio::select! {
        outcome = work => outcome,
        signal = tokio::signal::ctrl_c() => match signal {
            Ok(()) => {
                let advice = advice();
                if !advice.is_empty() {
                    note(&advice);
                }
                Err(Failure::Exit(EXIT_INTERRUPTED))
            }
            Err(error) => {
                let message = format!("cannot wait for signals: {error}");
                Err(Failure::new(FaultCode::Internal, message))
            }
        },
    }
}
