//! The running agent: the only place that wires everything. It builds, runs until a signal, and
//! stops in order; `--once` is the same with one pass in between.

mod agent_store;
mod control;
mod cutting;
pub mod doctor;
mod http;
mod kernel;
mod kick_helper;
mod ledger;
mod logging;
mod metrics;
mod oneshot;
pub mod outbox;
mod register;
mod reload;
mod run;
mod running;
mod service_manager;
mod serving;
mod signals;
mod state_lock;
pub mod status;
pub mod traffic;
pub mod users;
mod watching;
mod wiring;

pub use kick_helper::{KickHelperError, kick_helper};
pub use logging::{LogFilter, init as init_logging};
pub use oneshot::{ApplyError, Preview, apply, preview};
pub use register::{RegisterError, register};
pub use reload::{ConfigurationStatus, Origin, Reloaded, Stamp};
pub use run::{Outcome, RunError, Style, run};
pub use state_lock::{Beside, ask_the_running_agent, metrics_of, reload};
