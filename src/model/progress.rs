//! How far a long pass has come, for whoever shows it.

/// Told by a sync that applies many changes. Calls are cheap and must not block.
pub trait Progress: Send + Sync {
    /// `total` more changes are about to be made on this inbound.
    fn begin(&self, inbound: &str, total: usize);
    /// One of them is done.
    fn step(&self);
    /// No more of them are to come.
    fn end(&self);
}

/// Shows nothing.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _inbound: &str, _total: usize) {}
    fn step(&self) {}
    fn end(&self) {}
}
