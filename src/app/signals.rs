//! Signals: TERM and INT end the agent, USR1 asks for a pass, HUP for the configuration to be read
//! anew.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the agent heeds, from now on.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    usr1: Signal,
    hup: Signal,
}

/// What was asked for.
pub(super) enum Asked {
    /// To end.
    Stop,
    /// To poll and reconcile now.
    Sync,
    /// To read the configuration anew.
    Reload,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            usr1: signal(SignalKind::user_defined1())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one. Cancel-safe: a signal that nobody waited for is kept.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.term.recv() => Asked::Stop,
            _ = self.int.recv() => Asked::Stop,
            _ = self.usr1.recv() => Asked::Sync,
            _ = self.hup.recv() => Asked::Reload,
        }
    }
}
