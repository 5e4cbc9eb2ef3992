//! The log: to stderr, as text for people or one JSON object a line. What other crates trace is cut
//! at INFO whatever is asked for: their traces print what goes over the wire, which is credentials.

use std::io::IsTerminal;
use std::sync::Arc;

use tracing::Level;
use tracing::metadata::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

use crate::config::{Log, LogFormat};

/// Our own targets; only they may speak below INFO.
const OURS: [&str; 2] = ["xray_agent", "hook"];
/// Others that note their own work at INFO, which is nobody's news.
const QUIET: [&str; 1] = ["rusqlite_migration"];

/// The least that another crate may say.
fn loudest_of_others(target: &str) -> Level {
    if QUIET.contains(&target) {
        Level::WARN
    } else {
        Level::INFO
    }
}

/// Which lines are written; can change. Cheap to clone.
#[derive(Clone)]
pub struct LogFilter(Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

impl LogFilter {
    /// Writes what `log` lets through from now on; its format stays. Returns what is wrong with the
    /// filter, if something is.
    pub fn set(&self, log: &Log) -> Result<(), String> {
        (self.0)(filter(log)?)
    }
}

/// Sets the log up for the process. Returns what is wrong with the filter, if something is.
pub fn init(log: &Log) -> Result<LogFilter, String> {
    let terminal = std::io::stderr().is_terminal();
    let format = log.format.unwrap_or(if terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let (filter, handle) = reload::Layer::new(filter(log)?);
    let careful = FilterFn::new(|metadata| {
        *metadata.level() <= loudest_of_others(metadata.target())
            || OURS
                .iter()
                .any(|ours| metadata.target().split("::").next() == Some(ours))
    });
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        LogFormat::Text => layer.with_ansi(terminal).with_target(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(careful).with_filter(filter))
        .try_init()
        .map_err(|e| e.to_string())?;
    let set = move |filter| handle.reload(filter).map_err(|e| e.to_string());
    Ok(LogFilter(Arc::new(set)))
}

fn filter(log: &Log) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(&log.filter)
        .map_err(|e| format!("RUST_LOG (log.filter) {:?}: {e}", log.filter))
}
