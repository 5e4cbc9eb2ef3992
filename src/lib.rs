//! A node agent for Xray: it makes the users that a running Xray *has* equal to the users that a
//! panel *allows*. `ARCHITECTURE.md` draws the picture; the modules are listed here from the bottom
//! up, and import only downwards.

pub mod base;

pub mod config;
pub mod model;

pub mod audit;
pub mod control;
pub mod egress;
pub mod events;
pub mod hook;
pub mod host;
pub mod http;
pub mod metrics;
pub mod panel;
pub mod sockets;
pub mod store;
pub mod xray;

pub mod deliver;
pub mod registry;
pub mod sync;
pub mod traffic;

pub mod kernel;

pub mod app;
pub mod cli;
