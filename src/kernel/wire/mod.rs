//! What goes over the wire: the schemas of `core.yaml` under their own names. Types only; which of
//! them say what is decided where they are made.

pub mod meters;
pub mod nodes;
pub mod registrations;
pub mod requests;
pub mod special;
pub mod status;
pub mod users;
