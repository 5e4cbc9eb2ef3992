//! What happens around the removal of users, for whoever counts their last bytes.

use futures_util::future::BoxFuture;

use super::ids::UserId;

/// Told by whoever removes users from an Xray.
pub trait AroundRemoval: Send + Sync {
    /// Users of `xray` are about to be removed. Comes back when they may be, which is soon whatever
    /// happens.
    fn before<'a>(&'a self, xray: &'a str) -> BoxFuture<'a, ()>;

    /// These users of `xray` were removed. Does not wait.
    fn after(&self, xray: &str, users: &[UserId]);
}

/// Where nobody counts.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl AroundRemoval for Nobody {
    fn before<'a>(&'a self, _xray: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    fn after(&self, _xray: &str, _users: &[UserId]) {}
}
