//! Every metric with its name, kind, labels and meaning: one table, of which the page, the reference
//! in `docs/metrics.md` and the tests are made. Base units only: seconds and bytes.

use std::fmt::Write as _;

/// What all names begin with.
pub const PREFIX: &str = "xray_agent";

/// What kind of value a metric has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the agent's start unless its meaning says otherwise.
    Counter,
    /// As it is now.
    Gauge,
    /// How long something took, each time.
    Histogram,
}

/// A metric: one value for each set of values of its labels.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Without the prefix, and without the `_total` of a counter.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
    /// What it tells, in one line.
    pub help: &'static str,
}

impl Family {
    /// As one asks Prometheus for it.
    pub fn full_name(&self) -> String {
        let total = if self.kind == Kind::Counter {
            "_total"
        } else {
            ""
        };
        format!("{PREFIX}_{}{total}", self.name)
    }
}

impl Kind {
    /// Its name in the exposition.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

const NONE: &[&str] = &[];
const NODE: &[&str] = &["node"];
const INBOUND: &[&str] = &["node", "xray", "inbound"];
const RESULT: &[&str] = &["node", "xray", "inbound", "result"];
const XRAY: &[&str] = &["xray"];
const OWNER: &[&str] = &["xray", "owner"];
const CALL: &[&str] = &["xray", "method", "code"];
const PANEL_CALL: &[&str] = &["call", "code"];
const SINK: &[&str] = &["sink"];
const AT_SINK: &[&str] = &["node", "sink"];
const BYTES: &[&str] = &["node", "sink", "direction"];
const STATE: &[&str] = &["node", "sink", "state"];
const STATE_BYTES: &[&str] = &["node", "sink", "state", "direction"];
const XRAY_BYTES: &[&str] = &["xray", "direction"];
const USER_BYTES: &[&str] = &["node", "user", "direction"];
const STORE: &[&str] = &["store"];
const TASK: &[&str] = &["task"];
const BUILD: &[&str] = &["version", "mode"];

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal $labels:ident $help:literal)*) => {
        $(
            #[doc = $help]
            pub static $id: Family = Family {
                name: $name,
                kind: Kind::$kind,
                labels: $labels,
                help: $help,
            };
        )*
        /// All of them, in the order of the page.
        pub static ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    BUILD_INFO: Gauge "build_info" BUILD
        "Always 1; the version that runs, and what it does with users."
    NODE_ALLOWED: Gauge "node_allowed_users" NODE
        "Users that the panel allows, by its last good answer."
    NODE_MALFORMED: Gauge "node_malformed_users" NODE
        "Entries of that answer that are no UUID and were passed over."
    NODE_HELD: Gauge "node_held_removals" NODE
        "Users whose removal from the node's files waits for further polls."
    NODE_FILES_UP: Gauge "node_files_up" NODE
        "1 when the node's files could be written, else 0."
    PANEL_UP: Gauge "panel_up" NODE
        "1 when the last poll of the node got a good answer, else 0."
    PANEL_ANSWERED: Gauge "panel_last_success_timestamp_seconds" NODE
        "When the last good answer to a poll came; 0 before the first."
    PANEL_REQUESTS: Counter "panel_requests" PANEL_CALL
        "Requests to the panel by their HTTP status; code none: no answer."
    XRAY_UP: Gauge "xray_up" XRAY
        "1 when Xray answered the last pass over each of its inbounds, else 0."
    XRAY_CALLS: Counter "xray_calls" CALL
        "Calls to Xray's API by method and by gRPC status."
    DESIRED: Gauge "desired_users" INBOUND
        "Users who should be live in the inbound."
    LIVE: Gauge "live_users" INBOUND
        "Users of ours who are live in the inbound."
    FOREIGN: Gauge "foreign_users" INBOUND
        "Users in the inbound who are not ours."
    DRIFT: Gauge "drift_users" INBOUND
        "Desired minus live users; 0 when all is well."
    HELD: Gauge "held_removals" INBOUND
        "Users whose removal waits for further polls."
    CONFLICTS: Gauge "conflicting_users" INBOUND
        "Allowed users who were not added, for another one has their secret."
    FAILED: Gauge "failed_users" INBOUND
        "Users for whom a call of the last pass failed."
    UNKNOWN_SOURCES: Gauge "unknown_sources" INBOUND
        "Sources of allowed users that cannot be read; while there is one, nobody is removed."
    SYNCS: Counter "syncs" RESULT
        "Passes over the inbound by result: ok, held (removals wait) or failed."
    SYNC_DURATION: Histogram "sync_duration_seconds" INBOUND
        "How long a pass over the inbound took."
    SYNC_SUCCESS: Gauge "sync_last_success_timestamp_seconds" INBOUND
        "When a pass last left nothing to do; 0 before the first."
    ADDED: Counter "added_users" INBOUND
        "Users added to the inbound."
    REMOVED: Counter "removed_users" INBOUND
        "Users removed from the inbound."
    KICK_ENABLED: Gauge "kick_enabled" INBOUND
        "1 when open sessions of removed users are to be cut, else 0."
    KICK_OBSTRUCTED: Gauge "kick_obstructed" INBOUND
        "1 when it is known beforehand that they cannot be cut, or not all, else 0."
    KICKED: Counter "kicked_users" INBOUND
        "Removed users whose open sessions were cut."
    KICKED_SOCKETS: Counter "kicked_sockets" INBOUND
        "Sockets destroyed for that."
    NOT_KICKED: Counter "not_kicked_users" INBOUND
        "Removed users who may be connected still."
    BLOCKED: Gauge "blocked_users" INBOUND
        "Users of the inbound's Xray whose new streams are blocked."
    KICK_DELAY: Histogram "kick_delay_seconds" INBOUND
        "From the panel's answer until the sessions of those who left by it were cut."
    HOOK_RUNS: Counter "hook_runs" NODE
        "Runs of the node's hook."
    HOOK_FAILURES: Counter "hook_failures" NODE
        "Runs of it that failed."
    HOOK_SUCCESS: Gauge "hook_last_success_timestamp_seconds" NODE
        "When it last succeeded; 0 before the first time."
    COLLECT_UP: Gauge "traffic_collect_up" XRAY
        "1 when the last read of the Xray's counters went into the ledger, else 0."
    COLLECT_SUCCESS: Gauge "traffic_collect_last_success_timestamp_seconds" XRAY
        "When its counters last went into the ledger; 0 before the first time."
    COUNTING: Gauge "traffic_counting" XRAY
        "0 when the Xray is seen not to count its users, for its configuration lacks something, else 1."
    SHARED_ADDRESS: Gauge "traffic_shared_address" XRAY
        "1 when two Xrays answer at the address in turn, else 0."
    XRAY_TRAFFIC: Counter "traffic_collected_bytes" XRAY_BYTES
        "Bytes of users that were counted from the Xray."
    COUNTERS: Gauge "traffic_counters" OWNER
        "Counters of users in the Xray, ours and foreign ones."
    FOREIGN_BYTES: Gauge "traffic_foreign_bytes" XRAY
        "Bytes of foreign users since the Xray started; billed to nobody."
    ADOPTED: Gauge "traffic_adopted_bytes" XRAY
        "Bytes that this run of the Xray had counted before the ledger knew it; billed to nobody."
    RESETS: Counter "traffic_resets" XRAY
        "How often somebody else had reset one of the Xray's counters."
    TRAFFIC: Counter "traffic_bytes" BYTES
        "Bytes that were counted for the node, since the ledger began."
    SETTLED_BYTES: Counter "traffic_settled_bytes" BYTES
        "Bytes that the sink has taken, since the ledger began."
    SETTLED_REPORTS: Counter "reports_settled" AT_SINK
        "Reports that the sink has taken, since the ledger began."
    REPORTS: Gauge "reports" STATE
        "Reports that are not settled, by state; open: users with bytes in no report yet."
    REPORT_BYTES: Gauge "report_bytes" STATE_BYTES
        "Their bytes."
    OLDEST: Gauge "reports_oldest_age_seconds" AT_SINK
        "Age of the oldest bytes that the sink has neither taken nor refused; 0 when there are none."
    SINK_UP: Gauge "sink_up" SINK
        "1 unless the last report to the sink failed."
    SINK_UNDER_WAY: Gauge "sink_reports_under_way" SINK
        "Reports under way to the sink now."
    SINK_DEDUPES: Gauge "sink_dedupes" SINK
        "1 when the sink has shown that it drops repeats, else 0."
    SINK_UNTOLD: Gauge "sink_untold_bytes" SINK
        "Bytes that the sink cannot be told of, for its panel has no number of their user or inbound."
    SINK_SETTLED: Gauge "sink_last_success_timestamp_seconds" SINK
        "When the sink last took a report; 0 before the first."
    USER_TRAFFIC: Counter "user_traffic_bytes" USER_BYTES
        "Bytes of a user since the agent's start, by the first 8 characters of the UUID; \
         only with metrics.per_user or metrics.top."
    STORE_UP: Gauge "store_up" STORE
        "1 when the store's last work succeeded, else 0."
    STORE_SIZE: Gauge "store_size_bytes" STORE
        "Its files on the disk."
    STORE_COMMIT: Histogram "store_commit_duration_seconds" STORE
        "How long a transaction took, from its begin to the disk."
    LEDGER_READ: Gauge "ledger_read_timestamp_seconds" NONE
        "When the sums by node, report and user were read from the ledger; 0 before the first time."
    CONFIG_GOOD: Gauge "config_last_reload_successful" NONE
        "1 unless the configuration was refused when it was last read."
    CONFIG_LOADED: Gauge "config_last_reload_success_timestamp_seconds" NONE
        "When the configuration was last taken in, as Unix time."
    CONFIG_BEHIND: Gauge "config_restart_needed" NONE
        "1 where something of the configuration takes effect at the next start only."
    TASK_UP: Gauge "task_up" TASK
        "1 while the task runs, 0 in a pause before it is started again."
    TASK_RESTARTS: Counter "task_restarts" TASK
        "How often the task was started again."
    PROCESS_CPU: Counter "process_cpu_seconds" NONE
        "Time on processors, of users and kernel, since the process started."
    PROCESS_RSS: Gauge "process_resident_memory_bytes" NONE
        "Resident memory."
    PROCESS_FDS: Gauge "process_open_fds" NONE
        "Open file descriptors."
    PROCESS_THREADS: Gauge "process_threads" NONE
        "Threads."
    PROCESS_START: Gauge "process_start_time_seconds" NONE
        "When the process started."
}

/// The reference of all metrics, as Markdown.
pub fn reference() -> String {
    let mut text = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for family in ALL {
        let labels: Vec<_> = family.labels.iter().map(|l| format!("`{l}`")).collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            family.full_name(),
            family.kind.name(),
            labels.join(", "),
            family.help
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Holds `docs/metrics.md` to the table; with `UPDATE_DOCS=1` it writes it instead.
    #[test]
    fn metrics_reference() {
        crate::base::generated::hold("metrics.md", "metrics", &reference());
    }

    #[test]
    fn names_are_unique_words_and_tell_their_unit() {
        let names: BTreeSet<_> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(family.name.chars().all(is_word), "{}", family.name);
            assert!(!family.name.ends_with("_total"), "{}", family.name);
            assert!(!family.help.contains(['\n', '\\', '|']), "{}", family.name);
            if family.kind == Kind::Histogram {
                assert!(family.name.ends_with("_seconds"), "{}", family.name);
            }
        }
    }
}
