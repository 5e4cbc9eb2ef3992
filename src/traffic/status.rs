//! What is shown of traffic: plain data, made by the loops.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ledger::Collected;

/// Reading the counters of one Xray.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct XrayTraffic {
    /// The Xray's name.
    pub xray: String,
    /// When counters were last taken into the ledger.
    pub collected_at: Option<Timestamp>,
    /// Why they were not the last time it was tried.
    pub error: Option<String>,
    /// Bytes of users that were counted since the start, from them.
    pub up: u64,
    /// Bytes of users that were counted since the start, to them.
    pub down: u64,
    /// Counters that are ours.
    pub ours: usize,
    /// Counters of others; they are billed to nobody.
    pub foreign: usize,
    /// Bytes of others since Xray started, both ways.
    pub foreign_bytes: u64,
    /// Bytes, both ways, that this run of Xray had counted before the ledger knew it; billed to nobody.
    pub adopted_bytes: u64,
    /// How often somebody else had reset a counter.
    pub resets: u64,
    /// Whether two Xrays answer at this address in turn.
    pub shared_address: bool,
    /// What Xray's configuration lacks so that it counts, if it does not count.
    pub not_counting: Option<String>,
}

impl XrayTraffic {
    /// Takes in what one read came to.
    pub fn took_in(&mut self, collected: &Collected, at: Timestamp) {
        self.collected_at = Some(at);
        self.error = None;
        self.up = self.up.saturating_add(collected.new.up);
        self.down = self.down.saturating_add(collected.new.down);
        self.ours = collected.ours;
        self.foreign = collected.foreign;
        self.foreign_bytes = collected.foreign_bytes;
        self.adopted_bytes = collected.adopted.total();
        self.resets += collected.resets as u64;
        self.shared_address |= collected.alternates;
    }
}

/// Carrying reports to one sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// The sink's name.
    pub sink: String,
    /// Where it is.
    pub address: String,
    /// Reports under way.
    pub under_way: usize,
    /// Most reports under way at once, as things are.
    pub at_once: usize,
    /// Whether it has shown that it drops repeats.
    pub dedupes: bool,
    /// Users, each in one inbound, of whom it cannot be told: their bytes wait.
    #[serde(default)]
    pub untold: usize,
    /// Those bytes, both ways.
    #[serde(default)]
    pub untold_bytes: u64,
    /// When it last took a report.
    pub settled_at: Option<Timestamp>,
    /// Why the last report that failed did.
    pub error: Option<String>,
    /// Whether that is a fault of the configuration: waiting does not help.
    pub fault: bool,
    /// When reports go again, while it is left alone.
    pub resumes_at: Option<Timestamp>,
}

/// How traffic stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Every Xray.
    pub xrays: Vec<XrayTraffic>,
    /// Every sink.
    pub sinks: Vec<SinkStatus>,
    /// Why the ledger cannot be used, if it cannot.
    pub ledger_error: Option<String>,
}

impl TrafficStatus {
    /// Everything that is wrong, one line each.
    pub fn problems(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .ledger_error
            .iter()
            .map(|e| format!("ledger: {e}"))
            .collect();
        for xray in &self.xrays {
            let of_xray = xray.error.iter().chain(&xray.not_counting);
            all.extend(of_xray.map(|why| format!("traffic of {}: {why}", xray.xray)));
        }
        for sink in &self.sinks {
            all.extend(sink.error.iter().map(|why| format!("{}: {why}", sink.sink)));
        }
        all
    }
}
