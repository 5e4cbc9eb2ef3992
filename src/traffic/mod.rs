//! Every byte once to each panel that wants it: counters are read into a ledger, and the ledger's reports
//! are carried to the panels. Pure files decide (`forms`, `identity`, `delta`, `account`, `classify`,
//! `classify_batch`, `pace`, `receivers`, `records`, `switches`); the ledger keeps what was decided, and the loops carry it out.

pub mod account;
pub mod baselines;
pub mod classify;
pub mod classify_batch;
mod collector;
pub mod connections;
pub mod delta;
pub mod engine;
pub mod forms;
pub mod identity;
mod kernel;
pub mod kernel_sink;
pub mod ledger;
mod link;
pub mod pace;
pub mod receivers;
pub mod records;
mod reporter;
#[cfg(test)]
mod reporter_tests;
pub mod sink;
pub mod status;
pub mod switches;

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod history_world;
