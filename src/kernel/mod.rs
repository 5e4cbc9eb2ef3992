//! The kernel control plane (`/v1/*`): what other programs ask of this node, and what it tells them.

pub mod callbacks;
pub mod panel;
