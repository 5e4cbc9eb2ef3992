//! The hook: the operator's own command (`APPLY_CMD`), run after a node's list of UUIDs changed.
//!
//! Kept here: a hook cannot outlive its limit, block the agent, flood the log, have anything
//! injected into it, or inherit our secrets (promise X1). It works on processes of our own user, so
//! it protects from accidents and from hostile *values*, not from a hostile hook.
//!
//! **This process starts no children but hooks.** What a hook leaves behind becomes our child (we
//! are its subreaper) and is told from other children by `strays`; a test that runs hooks and
//! other programs in one process must not give those a process group of their own.

mod environment;
mod error;
mod output;
mod process;
mod run;
mod strays;
pub mod template;
#[cfg(test)]
mod tests;
mod wording;

pub use error::{HookError, Said};
pub use run::{HookCall, HookDone, HookRunner};
