//! Why the kernel's sockets could not be read, and what mends it.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

/// The sockets were not read; nothing is known about them.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The kernel lists no TCP sockets.
    #[error(
        "this kernel does not list its TCP sockets ({0}): load its module with \
         \"modprobe tcp_diag\", or use a kernel built with CONFIG_INET_DIAG"
    )]
    Unavailable(#[source] io::Error),
    /// This process may not ask.
    #[error(
        "this process may not ask the kernel for its sockets ({0}): add AF_NETLINK to \
         RestrictAddressFamilies= of its unit, and let its container's seccomp or SELinux rules \
         allow netlink sockets"
    )]
    Forbidden(#[source] io::Error),
    /// The kernel fell silent.
    #[error("the kernel did not list its sockets within {0:?}: try again")]
    Timeout(Duration),
    /// Each of so many lists was spoiled by changes.
    #[error("the kernel's sockets changed under each of {0} readings: try again")]
    Unsettled(u32),
    /// An answer that cannot be read.
    #[error(
        "cannot read the kernel's list of sockets: {0}; please report it with the kernel's version"
    )]
    Garbled(String),
    /// Anything else: no memory, no descriptors, ….
    #[error("cannot read the kernel's sockets: {0}")]
    Io(#[source] io::Error),
}

impl SocketsError {
    /// Whether only another kernel or other rules for this process help, so that asking again is
    /// in vain.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Forbidden(_))
    }
}

impl From<io::Error> for SocketsError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            // No NETLINK_SOCK_DIAG at all; no handler of the family, or of TCP.
            Some(Errno::PROTONOSUPPORT | Errno::NOENT | Errno::OPNOTSUPP) => {
                Self::Unavailable(error)
            }
            Some(Errno::AFNOSUPPORT | Errno::ACCESS | Errno::PERM) => Self::Forbidden(error),
            _ => Self::Io(error),
        }
    }
}

impl From<Errno> for SocketsError {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_what_mends_it() {
        let table = [
            (Errno::NOENT, "modprobe tcp_diag", true),
            (Errno::PROTONOSUPPORT, "CONFIG_INET_DIAG", true),
            (Errno::AFNOSUPPORT, "RestrictAddressFamilies", true),
            (Errno::PERM, "seccomp", true),
            (Errno::NOBUFS, "No buffer space", false),
        ];
        for (errno, mend, permanent) in table {
            let error = SocketsError::from(errno);
            assert!(error.to_string().contains(mend), "{error}");
            assert_eq!(error.is_permanent(), permanent, "{error}");
        }
    }
}
