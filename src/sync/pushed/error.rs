//! Why a push is refused. Nothing of it was done then, unless it says otherwise.

use crate::base::files::FileError;
use crate::model::desired::InboundKey;
use crate::model::pushed::PushedId;

/// Why a push is refused.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// There is such a user already.
    #[error("there is a user {0} already")]
    Exists(PushedId),
    /// There is no such user.
    #[error("there is no pushed user {0}")]
    Unknown(PushedId),
    /// No inbound that is meant could let him in.
    #[error("user {id:?} cannot be let in: {why}", id = id.0)]
    NoCredential {
        /// Who.
        id: PushedId,
        /// Why not.
        why: &'static str,
    },
    /// One push names him twice.
    #[error("user {0} is named twice")]
    Duplicate(PushedId),
    /// An import would take away more users than anybody means to.
    #[error("{removed} of {of} pushed users would be removed")]
    TooManyRemoved {
        /// How many.
        removed: usize,
        /// Of how many.
        of: usize,
    },
    /// The inbound is not one of ours.
    #[error("inbound {0} is not managed")]
    Unmanaged(InboundKey),
    /// The set's file cannot be read: only a push of the whole set mends that.
    #[error("the pushed users cannot be read ({0}); a push of all of them mends it")]
    Unreadable(String),
    /// It could not be written down.
    #[error(transparent)]
    File(#[from] FileError),
}
