//! The running agent: the only place that wires everything. It builds, runs until a signal, and
//! stops in order; `--once` is the same with one pass in between.

mod cutting;
mod http;
mod kick_helper;
mod logging;
mod metrics;
mod oneshot;
mod run;
mod service_manager;
mod signals;
mod state_lock;
pub mod traffic;
pub mod users;

pub use kick_helper::{KickHelperError, kick_helper};
pub use logging::init as init_logging;
pub use metrics::Meter;
pub use oneshot::{ApplyError, Preview, apply, preview};
pub use run::{Outcome, RunError, Style, run};
pub use state_lock::{Beside, ask_the_running_agent, metrics_of, status_of};
