//! What the service manager is told: ready, stopping, how the nodes stand, and that the agent lives.
//!
//! Invariant: a sign of life is sent only while every essential task gives its own in time, so an
//! agent that hangs as a whole, its supervisor included, is ended and started anew.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::sleep;
use tracing::{error, warn};

use super::run::HANGS_AFTER;
use super::running::Running;
use crate::base::supervise::{Heartbeat, Kind, Shutdown, Supervisor, TaskBoard};
use crate::sync::status::NodeStatus;

/// Between two looks at the tasks: a sixth of the unit's `WatchdogSec`.
const EVERY: Duration = Duration::from_secs(10);
/// Signs of life in the time that the service manager waits for one, where that is shorter.
const SIGNS: u32 = 3;
/// Characters of a status line; `systemctl status` shows little more in a line.
const LINE_MAX: usize = 200;

/// The first pass was tried. How it went is said along with it: whoever started the unit looks now.
pub(super) fn ready(running: &Running) {
    let line = line(&running.now().sync.status());
    notify(&[NotifyState::Ready, NotifyState::Status(&line)]);
}

/// The configuration was read anew. How the nodes stand is known only after the next pass.
pub(super) fn reloaded() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is being read anew; [`reloaded`] follows.
pub(super) fn reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else {
        return;
    };
    notify(&[NotifyState::Reloading, now]);
}

/// The end was asked for.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Adds the task that tells the service manager how things stand, where there is one.
pub(super) fn add(running: &Running, supervisor: &mut Supervisor) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let (running, board) = (running.clone(), supervisor.board());
    let make = move |shutdown, heartbeat| tell(running.clone(), board.clone(), shutdown, heartbeat);
    supervisor
        .tasks()
        .watched_task("service manager", Kind::Essential, HANGS_AFTER, make);
}

async fn tell(running: Running, board: TaskBoard, mut shutdown: Shutdown, heartbeat: Heartbeat) {
    let watchdog = sd_notify::watchdog_enabled();
    let every = watchdog.map_or(EVERY, |limit| EVERY.min(limit / SIGNS));
    let mut said = String::new();
    loop {
        heartbeat.beat();
        if watchdog.is_some() && lives(&board) {
            notify(&[NotifyState::Watchdog]);
        }
        let line = line(&running.now().sync.status());
        if line != said {
            notify(&[NotifyState::Status(&line)]);
            said = line;
        }
        // Both arms are cancel-safe.
        tokio::select! {
            () = shutdown.requested() => return,
            () = sleep(every) => {}
        }
    }
}

fn lives(board: &TaskBoard) -> bool {
    let late = board.overdue();
    if !late.is_empty() {
        error!(
            "no sign of life to the service manager: {} hung",
            late.join(", ")
        );
    }
    late.is_empty()
}

/// How the nodes stand, in one line.
fn line(nodes: &[NodeStatus]) -> String {
    let allowed = nodes.iter().filter_map(|node| node.allowed);
    let allowed = match allowed.reduce(|sum, more| sum + more) {
        Some(users) => format!("{users} users allowed"),
        None if nodes.iter().all(|node| !node.polled) => {
            let inbounds = nodes.iter().flat_map(|node| &node.inbounds);
            let pushed: usize = inbounds.map(|inbound| inbound.pushed).sum();
            format!("{pushed} users pushed")
        }
        None => "the panel has not said yet who is allowed".to_owned(),
    };
    let named: Vec<_> = nodes.iter().map(|node| node.node.to_string()).collect();
    let head = format!("node {}: {allowed}", named.join(", "));
    let problems: Vec<_> = nodes.iter().flat_map(NodeStatus::problems).collect();
    let whole = match problems.first() {
        None => head,
        Some(first) => format!("{head}; {} wrong: {first}", problems.len()),
    };
    // A line break would begin another message to the service manager.
    let whole = whole.replace(char::is_control, " ");
    whole.chars().take(LINE_MAX).collect()
}

/// Tells the service manager, if there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "cannot tell the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::NodeId;

    fn node(id: u64, allowed: Option<usize>, panel_error: Option<&str>) -> NodeStatus {
        NodeStatus {
            allowed,
            panel_error: panel_error.map(str::to_owned),
            ..NodeStatus::new(NodeId(id))
        }
    }

    #[test]
    fn the_line_counts_users_and_tells_the_first_problem() {
        let good = [node(1, Some(3), None), node(7, Some(4), None)];
        assert_eq!(line(&good), "node 1, 7: 7 users allowed");
        let bad = [node(1, Some(3), None), node(7, None, Some("it is away"))];
        let expected = "node 1, 7: 3 users allowed; 1 wrong: node 7: panel: it is away";
        assert_eq!(line(&bad), expected);
        let unasked = "node 1: the panel has not said yet who is allowed";
        assert_eq!(line(&[node(1, None, None)]), unasked);
        let pushed = node(1, None, None).of_panel(false);
        assert_eq!(line(&[pushed]), "node 1: 0 users pushed");
    }

    #[test]
    fn no_word_of_the_panel_becomes_a_message_of_its_own() {
        let node = node(
            1,
            None,
            Some(&format!("so\nMAINPID=1\n{}", "x".repeat(999))),
        );
        let line = line(&[node]);
        assert!(line.contains("so MAINPID=1 x"), "{line}");
        assert_eq!(line.chars().count(), LINE_MAX);
    }
}
