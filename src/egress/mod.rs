//! The adapter by which URLs, hosts and addresses that a user set are reached, and the only one:
//! jobs, probes, callbacks, webhooks.
//!
//! Kept here: such a target is read as browsers read it, looked up once, judged by every address it
//! has, and dialled at one of those, so that neither a disguised literal nor a name that changes
//! its mind nor a redirect leads where the policy forbids. Who may reach what is decided in
//! `policy` alone.

mod address;
mod call;
mod client;
mod dial;
#[cfg(test)]
mod dial_tests;
mod error;
mod here;
mod pins;
mod policy;
#[cfg(test)]
mod policy_tests;
mod post;
mod post_for_answer;
mod proxy;
mod redirect;
mod resolve;
#[cfg(test)]
mod spelling_tests;
mod target;

pub use crate::model::allowed::Allowed;
pub use address::Kind;
pub use call::{Answer, Call, End};
pub use client::EgressClient;
pub use dial::{Checked, Gate};
pub use error::{Cause, Class, EgressError};
pub use policy::{Around, NOTHING_AROUND, Own, Policy, Refusal, Why};
pub use post::Courier;
pub use resolve::{Names, SystemNames};
pub use target::Target;
