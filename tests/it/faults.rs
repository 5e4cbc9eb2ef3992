//! Faults of an Xray that the real one cannot be made to show.
