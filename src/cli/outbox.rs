//! `xray-agent outbox`: who is sent events and how that goes, and what a person does about it. Of an
//! address its host is shown, of a secret nothing.

use std::io::Write;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::stream::{self, Out};
use super::table::{Column, Table, age, words};
use super::traffic::{ended, told};
use crate::app::outbox::{self as app, OutboxError, ShownEvent, ShownTarget};
use crate::config::Config;
use crate::model::delivery::TargetId;
use crate::model::event::EventId;

/// What to show or do; all targets, where nothing is said.
#[derive(Args, Debug)]
pub struct OutboxArgs {
    /// As JSON.
    #[arg(long, global = true)]
    json: bool,

    /// What to show or do.
    #[command(subcommand)]
    command: Option<OutboxCommand>,
}

/// What to show or do.
#[derive(Debug, Subcommand)]
enum OutboxCommand {
    /// List events that were given up: refused three times, or not taken within a day.
    GivenUp {
        /// Only those of this target.
        #[arg(value_parser = target_id)]
        target: Option<TargetId>,
    },
    /// Have events that were given up for a target sent again, before all that wait.
    Replay {
        /// The target's number.
        #[arg(value_parser = target_id)]
        target: TargetId,
        /// Only the event of this number.
        #[arg(value_parser = event_id)]
        event: Option<EventId>,
    },
    /// Send to a disabled target again.
    Enable {
        /// The target's number.
        #[arg(value_parser = target_id)]
        target: TargetId,
    },
}

const TARGETS: Table<8> = Table([
    Column::text("TARGET", 36),
    Column::text("OWNER", 0),
    Column::text("HOST", 0),
    Column::text("EVENTS", 0),
    Column::number("WAITING", 0),
    Column::number("DELIVERED", 0),
    Column::number("GIVEN UP", 0),
    Column::text("STATE", 0),
]);

const EVENTS: Table<6> = Table([
    Column::text("TARGET", 36),
    Column::text("EVENT", 36),
    Column::text("NAME", 0),
    Column::text("AGE", 0),
    Column::number("TRIES", 0),
    Column::text("WHY", 0),
]);

/// Carries out what was said; the exit code.
pub(super) async fn run(config: &Config, args: OutboxArgs) -> u8 {
    let done = match args.command {
        None => targets(config, args.json).await,
        Some(OutboxCommand::GivenUp { target }) => given_up(config, target, args.json).await,
        Some(OutboxCommand::Replay { target, event }) => {
            replay(config, target, event, args.json).await
        }
        Some(OutboxCommand::Enable { target }) => enable(config, target, args.json).await,
    };
    done.unwrap_or_else(|error| told(Err(error.into())))
}

async fn targets(config: &Config, json: bool) -> Result<u8, OutboxError> {
    let targets = app::targets(config).await?;
    let mut out = stream::stdout();
    if json {
        out.json(&json!({ "targets": targets }));
    } else if targets.is_empty() {
        out.line("nobody is sent events");
    } else {
        list_targets(&mut out, &targets);
    }
    Ok(ended(out))
}

fn list_targets<W: Write>(out: &mut Out<W>, targets: &[ShownTarget]) {
    let rows: Vec<_> = targets.iter().map(target_row).collect();
    let table = TARGETS.fitted(&rows);
    out.line(table.heading());
    for row in &rows {
        out.line(table.row(row));
    }
}

fn target_row(target: &ShownTarget) -> [String; 8] {
    let events = match &*target.events {
        [] => "all".to_owned(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    let state = match (&target.disabled, &target.trouble) {
        (Some(why), _) => format!("disabled: {}", words(why)),
        (None, Some(why)) => format!("failing: {}", words(why)),
        (None, None) => "ok".to_owned(),
    };
    [
        target.id.to_string(),
        target.owner.clone(),
        words(&target.host),
        events,
        target.waiting.to_string(),
        target.delivered.to_string(),
        target.given_up.to_string(),
        state,
    ]
}

async fn given_up(
    config: &Config,
    target: Option<TargetId>,
    json: bool,
) -> Result<u8, OutboxError> {
    let events = app::given_up(config, target).await?;
    let mut out = stream::stdout();
    if json {
        out.json(&json!({ "given_up": events }));
    } else if events.is_empty() {
        out.line("nothing was given up");
    } else {
        list_events(&mut out, &events, Timestamp::now());
    }
    Ok(ended(out))
}

fn list_events<W: Write>(out: &mut Out<W>, events: &[ShownEvent], now: Timestamp) {
    let row = |event: &ShownEvent| {
        [
            event.target.to_string(),
            event.event.to_string(),
            event.name.clone(),
            age(event.queued_at, now),
            event.tries.to_string(),
            words(&event.why),
        ]
    };
    let rows: Vec<_> = events.iter().map(row).collect();
    let table = EVENTS.fitted(&rows);
    out.line(table.heading());
    for row in &rows {
        out.line(table.row(row));
    }
}

async fn replay(
    config: &Config,
    target: TargetId,
    event: Option<EventId>,
    json: bool,
) -> Result<u8, OutboxError> {
    let count = app::replay(config, target, event).await?;
    let mut out = stream::stdout();
    if json {
        out.json(&json!({ "replayed": count }));
    } else {
        out.line(format_args!("{count} events wait to be sent again"));
    }
    Ok(ended(out))
}

async fn enable(config: &Config, target: TargetId, json: bool) -> Result<u8, OutboxError> {
    let was_disabled = app::enable(config, target).await?;
    let mut out = stream::stdout();
    if json {
        out.json(&json!({ "enabled": was_disabled }));
    } else if was_disabled {
        out.line("it is sent events again");
    } else {
        out.line("it was not disabled");
    }
    Ok(ended(out))
}

fn target_id(text: &str) -> Result<TargetId, String> {
    let id = Uuid::try_parse(text).map(TargetId);
    id.map_err(|_| "not the number of a target; `xray-agent outbox` lists them".to_owned())
}

fn event_id(text: &str) -> Result<EventId, String> {
    let refuse =
        || "not the number of an event; `xray-agent outbox given-up` lists them".to_owned();
    EventId::parse(text).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::delivery::Origin;

    fn target(disabled: Option<&str>, trouble: Option<&str>) -> ShownTarget {
        ShownTarget {
            id: TargetId(Uuid::nil()),
            owner: "kernel".to_owned(),
            form: "node".to_owned(),
            host: "a.example".to_owned(),
            origin: Origin::Api,
            events: vec!["node_added".to_owned(), "node_removed".to_owned()],
            created: Timestamp::UNIX_EPOCH,
            disabled: disabled.map(str::to_owned),
            trouble: trouble.map(str::to_owned),
            delivered_at: None,
            waiting: 7,
            waiting_bytes: 700,
            delivered: 5,
            failed: 3,
            given_up: 2,
            kept: 1,
        }
    }

    #[test]
    fn a_line_says_what_is_sent_and_what_is_wrong() {
        let state = |disabled, trouble| target_row(&target(disabled, trouble))[7].clone();
        assert_eq!(state(None, None), "ok");
        assert_eq!(state(None, Some("no answer")), "failing: no answer");
        assert_eq!(
            state(Some("answered 410"), Some("x")),
            "disabled: answered 410"
        );
        let [_, _, host, events, waiting, ..] = target_row(&target(None, None));
        assert_eq!(
            (&*host, &*events, &*waiting),
            ("a.example", "node_added and 1 more", "7")
        );
    }
}
