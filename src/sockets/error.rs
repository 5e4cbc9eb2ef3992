//! Why the kernel's sockets could not be read or destroyed, and what mends it.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

/// The sockets were not read, and nothing is known about them; or not, or not all of them, destroyed.
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
    /// This process may not destroy sockets; only to read them needs no privilege.
    #[error(
        "this process may not cut connections: it has no CAP_NET_ADMIN over the network namespace \
         it is in (a unit needs AmbientCapabilities=CAP_NET_ADMIN, the same in \
         CapabilityBoundingSet=, and PrivateUsers=no)"
    )]
    NotAllowed,
    /// The kernel destroys no TCP sockets.
    #[error(
        "this kernel cuts no connections: it was built without CONFIG_INET_DIAG_DESTROY; use \
         another kernel, or let open sessions run on with XRAY_KICK=off"
    )]
    CannotDestroy,
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
        matches!(
            self,
            Self::Unavailable(_) | Self::Forbidden(_) | Self::NotAllowed | Self::CannotDestroy
        )
    }

    /// What the kernel's refusal to destroy a socket that is there means.
    pub(super) fn of_destroying(errno: Errno) -> Self {
        match errno {
            Errno::PERM => Self::NotAllowed,
            Errno::OPNOTSUPP => Self::CannotDestroy,
            _ => errno.into(),
        }
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

    #[test]
    fn a_refusal_to_destroy_names_what_mends_it() {
        let table = [
            (Errno::PERM, "CAP_NET_ADMIN", true),
            (Errno::OPNOTSUPP, "CONFIG_INET_DIAG_DESTROY", true),
            (Errno::NOENT, "modprobe tcp_diag", true),
            (Errno::NOMEM, "Cannot allocate memory", false),
        ];
        for (errno, mend, permanent) in table {
            let error = SocketsError::of_destroying(errno);
            assert!(error.to_string().contains(mend), "{error}");
            assert_eq!(error.is_permanent(), permanent, "{error}");
        }
    }
}
