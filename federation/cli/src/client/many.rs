//! Many submissions under way at a time.

use federation_controller::SubmitLane;
use specs::wire::client::{JobSubmit, JobSubmitted};

use super::{
    Arc, CallError, Client, Effect, Failure, Fault, FaultCode, Method, Outcome, PAUSE, PAUSE_MAX,
    StreamExt, TRY_SPAN,
};

/// Most submissions under way at a time.
const UNDER_WAY_MAX: usize = 1_024;

impl Client {
    /// Submits jobs over one lane, again and again until each is answered or for too long none is.
    /// A request takes effect once, however often it is sent. One outcome for each, in order.
    pub(crate) async fn submit_many(
        &mut self,
        requests: &[JobSubmit],
    ) -> Vec<Outcome<JobSubmitted>> {
        let mut last: Vec<Result<JobSubmitted, Fault>> = requests
            .iter()
            .map(|_| Err(Fault::new(FaultCode::Unreachable, "no controller was asked")))
            .collect();
        let mut unsure = vec![false; requests.len()];
        let mut limit = self.env.clock.now().after(self.budget);
        let mut pause = PAUSE;
        loop {
            let open: Vec<usize> =
                (0..).zip(&last).filter(|(_, it)| is_open(it)).map(|it| it.0).collect();
            if open.is_empty() || self.env.clock.now() >= limit {
                break;
            }
            let asked: Vec<_> = open.iter().map(|&nth| (nth, requests[nth].clone())).collect();
            let mut is_further = false;
            for (nth, outcome) in self.round(asked).await {
                is_further |= !is_open(&outcome);
                unsure[nth] |=
                    outcome.as_ref().is_err_and(|it| it.code == FaultCode::OutcomeUnknown);
                last[nth] = outcome;
            }
            if is_further {
                (limit, pause) = (self.env.clock.now().after(self.budget), PAUSE);
            } else {
                self.env.sleep(pause).await;
                pause = pause.times(2).min(PAUSE_MAX);
            }
        }
        let outcome = |(outcome, is_unsure): (Result<_, Fault>, bool)| {
            outcome.map_err(|fault| {
                if fault.code.is_retryable() {
                    self.gave_up(Method::JobSubmit, Effect::Changes, self.budget, fault, is_unsure)
                } else {
                    Failure::from(fault)
                }
            })
        };
        last.into_iter().zip(unsure).map(outcome).collect()
    }

    /// Submits each once to one controller.
    async fn round(
        &mut self,
        asked: Vec<(usize, JobSubmit)>,
    ) -> Vec<(usize, Result<JobSubmitted, Fault>)> {
        let env = self.env.clone();
        let opened = async {
            let connection = self.connection().await?;
            SubmitLane::open(&env, &connection).await.map_err(CallError::into_fault)
        };
        let opened = env.timeout(TRY_SPAN, opened).await.unwrap_or_else(|_| {
            Err(Fault::new(FaultCode::Unreachable, "no controller was reached in time"))
        });
        let lane = match opened {
            Ok(lane) => Arc::new(lane),
            Err(fault) => {
                self.ask_another();
                return asked.into_iter().map(|(nth, _)| (nth, Err(fault.clone()))).collect();
            }
        };
        let submit = |(nth, submit): (usize, JobSubmit)| {
            let (env, lane) = (env.clone(), lane.clone());
            async move {
                let unknown = |_| Fault::new(FaultCode::OutcomeUnknown, "no answer came in time");
                let outcome = env.timeout(TRY_SPAN, lane.submit(submit)).await;
                (nth, outcome.map_err(unknown).and_then(|it| it))
            }
        };
        let outcomes: Vec<_> = futures::stream::iter(asked)
            .map(submit)
            .buffer_unordered(UNDER_WAY_MAX)
            .collect()
            .await;
        if outcomes.iter().any(|(_, outcome)| is_open(outcome)) {
            self.ask_another();
        }
        outcomes
    }
}

/// Whether it must be asked again.
fn is_open(outcome: &Result<JobSubmitted, Fault>) -> bool {
    outcome.as_ref().is_err_and(|fault| fault.code.is_retryable())
}
