//! Streams of the status and of events. Kept here: readers of one cut share what is built for it.

pub mod snapshot;
