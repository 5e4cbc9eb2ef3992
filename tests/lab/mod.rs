//! The lab: what the integration tests, the demo and the benches share. A real Xray server, real
//! Xray clients, a scripted panel, a local origin and the agent's own program, each a value that
//! cleans up behind itself.
//!
//! It uses nothing of the library under test but the generated messages of Xray's API, so what it
//! sees is a second opinion. Waits are for a state, with a bound that is there against hanging
//! only.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    clippy::needless_pass_by_value,
    reason = "three programs include it and each uses a part of it; JSON literals go by value"
)]

pub mod agent;
pub mod answer;
pub mod calls;
pub mod client;
pub mod contract;
pub mod inbounds;
pub mod kernel_panel;
pub mod leaks;
pub mod ledger;
pub mod origin;
pub mod panel;
pub mod peers;
pub mod ports;
pub mod process;
pub mod provision;
pub mod ready;
pub mod reports;
pub mod route;
pub mod secrets;
pub mod server;
pub mod socks;
pub mod stats;
pub mod stream;
pub mod tls;
pub mod transfer;
pub mod v2ray;
pub mod wait;
pub mod xray;

pub use agent::{Agent, AgentCommand, Output};
pub use answer::Answer;
pub use client::Client;
pub use kernel_panel::KernelPanel;
pub use ledger::Report;
pub use origin::Origin;
pub use panel::Panel;
pub use peers::peers_of;
pub use ports::free_port;
pub use reports::Fault;
pub use route::{ClientProtocol, Route};
pub use secrets::uuid;
pub use server::ServerConfig;
pub use socks::Session;
pub use stream::{Pace, Stream};
pub use transfer::Transfer;
pub use wait::eventually;
pub use xray::Xray;
