//! Nodes that register themselves over the kernel's API and tell from time to time that they live
//! (`kernel.md`, Registrations of nodes). `lives` decides; nothing here calls anybody.

pub mod lives;
#[cfg(test)]
mod lives_tests;
