//! Nodes: those that register themselves over the kernel's API and tell from time to time that they live
//! (`kernel.md`, Registrations of nodes), and what was last told of the managed inbounds. `lives` and
//! `inbounds` decide; nothing here calls anybody.

pub mod engine;
#[cfg(test)]
mod engine_tests;
pub mod inbounds;
pub mod lives;
#[cfg(test)]
mod lives_tests;
mod rows;
mod telling;
