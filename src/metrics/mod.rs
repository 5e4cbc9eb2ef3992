//! What Prometheus is shown: the table of our metrics, one page of their values, and its text in
//! either of the two formats that are asked for.
//!
//! Kept here: a name is in the table or nowhere; its labels and their number are the table's; nothing
//! is measured here but this process itself.

pub mod families;
mod page;
pub mod process;
mod text;

pub use families::{ALL, Family, Kind, reference};
pub use page::{Page, Value};
pub use text::{Exposition, Format};
