//! Plain data that every layer speaks of, and the traits by which engines meet. No effects.

pub mod allowed;
pub mod around_removal;
pub mod batch;
pub mod credentials;
pub mod cut;
pub mod delivery;
pub mod desired;
pub mod email;
pub mod event;
pub mod health;
pub mod ids;
pub mod ports;
pub mod progress;
pub mod pushed;
pub mod report;
pub mod sign;
pub mod tally;
pub mod user_list;
