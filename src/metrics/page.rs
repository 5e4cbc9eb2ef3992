//! One page: the values of all metrics at one moment, by family. Values that were added twice for the
//! same labels are a fault of the caller; the later one is shown, for a repeated series spoils a page.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::families::{Family, Kind};
use crate::model::tally::Distribution;

/// A value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or a gauge.
    Whole(u64),
    /// Of a gauge.
    Signed(i64),
    /// Of a counter or a gauge.
    Real(f64),
    /// Of a histogram.
    Spread(Distribution),
}

/// The values of one moment.
#[derive(Debug, Default)]
pub struct Page(BTreeMap<&'static str, BTreeMap<Vec<String>, Value>>);

impl Page {
    /// Adds a value; `labels` are those of the family, in its order.
    pub fn add(&mut self, family: &'static Family, labels: &[&str], value: impl Into<Value>) {
        let value = value.into();
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        debug_assert_eq!(
            family.kind == Kind::Histogram,
            matches!(value, Value::Spread(_)),
            "{}",
            family.name
        );
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        self.0.entry(family.name).or_default().insert(labels, value);
    }

    /// Adds a moment in seconds since 1970; 0 for none.
    pub fn add_time(&mut self, family: &'static Family, labels: &[&str], at: Option<Timestamp>) {
        let seconds = at.map_or(0.0, |at| at.as_duration().as_secs_f64());
        self.add(family, labels, seconds);
    }

    /// The values of a family, by their labels.
    pub(super) fn of(&self, family: &Family) -> impl Iterator<Item = (&Vec<String>, &Value)> {
        self.0.get(family.name).into_iter().flatten()
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Signed(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<Distribution> for Value {
    fn from(value: Distribution) -> Self {
        Self::Spread(value)
    }
}
