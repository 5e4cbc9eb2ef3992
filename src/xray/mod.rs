//! The adapter to a running Xray: its gRPC calls, its accounts, its errors. It never sends what
//! `behaviour.md` shows to kill an Xray: accounts come only from an [`account::AccountSpec`] made
//! for the inbound's own protocol, and an operation is never empty.

pub mod abilities;
pub mod account;
pub mod boot;
pub mod client;
mod connect;
pub mod counters;
pub mod dialect;
pub mod error;
pub mod inbound;
mod online;
mod rules;
mod spoken;
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    reason = "generated from proto/, whose comments say what there is to say"
)]
pub mod proto {
    //! Messages and clients made from `proto/`, laid out by package.
    tonic::include_proto!("xray");
}
