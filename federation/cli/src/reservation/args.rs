//! The words of `federation reservation`.

use clap::{Args, Subcommand};
use specs::id::{AccountId, GpuClass, NodeId, ReservationName};
use specs::unit::{GpuCount, Millis, Timestamp};

use crate::args::{FormatArgs, parse_gpus, parse_span};

#[derive(Debug, Subcommand)]
pub(crate) enum ReservationCommand {
    /// List the reservations: whose, which GPUs, when, and how much of it is used
    #[command(visible_alias = "list")]
    Ls(FormatArgs),
    /// Show a reservation, its nodes and the jobs of others that still run there
    Show {
        name: ReservationName,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Reserve GPUs, or nodes by their names, for an account and all below it
    Create(CreateArgs),
    /// End a reservation, or take it back before it begins; what runs there runs on
    #[command(visible_alias = "rm")]
    Delete { name: ReservationName },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What to call it
    pub(crate) name: ReservationName,
    /// Whose jobs may use it: `acme`, or `acme/vision/ada`
    #[arg(long)]
    pub(crate) account: AccountId,
    /// So many GPUs or more: whole nodes that together have them are chosen
    #[arg(long, value_parser = parse_gpus, value_name = "GPUS", required_unless_present = "node")]
    pub(crate) gpus: Option<GpuCount>,
    /// The class of GPUs that is meant [default: any]
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<GpuClass>,
    /// This node; may be repeated
    #[arg(long, value_name = "NODE", conflicts_with = "gpus")]
    pub(crate) node: Vec<NodeId>,
    /// `now`, a span from now as `2h`, or a time as `2026-12-01T08:00:00Z`
    #[arg(long, default_value = "now", value_parser = parse_moment, value_name = "WHEN")]
    pub(crate) start: Moment,
    /// When it ends, likewise
    #[arg(long, value_parser = parse_moment, value_name = "WHEN", conflicts_with = "duration")]
    pub(crate) end: Option<Moment>,
    /// How long it lasts
    #[arg(long, value_parser = parse_span, value_name = "SPAN", required_unless_present = "end")]
    pub(crate) duration: Option<Millis>,
    /// Let jobs run on that may not be over when it begins; nothing is ever stopped for it
    #[arg(long)]
    pub(crate) beside_jobs: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// A moment as people say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    In(Millis),
    At(Timestamp),
}

impl Moment {
    pub(crate) fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::In(span) => Timestamp(now.0.saturating_add(span.0)),
            Self::At(at) => at,
        }
    }
}

fn parse_moment(text: &str) -> Result<Moment, String> {
    if text == "now" {
        return Ok(Moment::In(Millis::ZERO));
    }
    if let Ok(span) = parse_span(text.strip_prefix('+').unwrap_or(text)) {
        return Ok(Moment::In(span));
    }
    let wrong = || "write it as `now`, `2h` or `2026-12-01T08:00:00Z`".to_owned();
    let moment: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(moment.as_millisecond()).map(|at| Moment::At(Timestamp(at))).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        assert_eq!(parse_moment("now"), Ok(Moment::In(Millis(0))));
        assert_eq!(parse_moment("+2h"), Ok(Moment::In(Millis(7_200_000))));
        assert_eq!(parse_moment("90m"), Ok(Moment::In(Millis(5_400_000))));
        let at = Timestamp(1_796_112_000_000);
        assert_eq!(parse_moment("2026-12-01T08:00:00Z"), Ok(Moment::At(at)));
        assert_eq!(parse_moment("2026-12-01T09:00:00+01:00"), Ok(Moment::At(at)));
        for wrong in ["", "tomorrow", "2026-12-01", "1950-01-01T00:00:00Z"] {
            assert!(parse_moment(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(Moment::In(Millis(5)).from(Timestamp(7)), Timestamp(12));
    }
}
