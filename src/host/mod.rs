//! The host that the agent is on: its network interfaces, and the geo data files of its Xray.
//!
//! Kept here: looking changes nothing, and a host that does not tell is no failure of the agent.

pub mod geo;
mod geo_file;
pub mod interfaces;
