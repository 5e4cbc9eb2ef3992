//! The kernel's TCP sockets by netlink (`sock_diag(7)`), without any program's help: read without
//! privileges, and destroyed with `CAP_NET_ADMIN`.
//!
//! Calls block: the kernel walks its whole table of connections for each family, which takes
//! milliseconds, tens of them where there are 10 000, and never more than [`BOUND`] a family. On a
//! runtime they belong into `spawn_blocking`. They see the calling thread's network namespace.

mod cut;
mod cutter;
mod destroy;
mod dump;
mod error;
pub mod helper;
mod parse;
#[cfg(test)]
mod tests;

pub use cut::{cut, listeners, listens_on};
pub use cutter::{Direct, KernelCutter};
pub use destroy::may_cut;
pub use dump::{BOUND, dump};
pub use error::SocketsError;
pub use parse::{Family, Socket};

use crate::model::ports::PortRange;

/// How many ESTABLISHED TCP sockets have their local port within any of `ports`: connections to
/// servers that listen there, whether accepted yet or not. Their clients on this machine have other
/// local ports. Both families; a port in several ranges counts once.
pub fn established_on(ports: &[PortRange]) -> Result<usize, SocketsError> {
    let is_within = |socket: &Socket| ports.iter().any(|r| r.contains(socket.local.port()));
    let mut count = 0;
    if !ports.is_empty() {
        for family in Family::ALL {
            count += dump(family)?.iter().filter(|s| is_within(s)).count();
        }
    }
    Ok(count)
}
