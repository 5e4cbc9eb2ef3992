//! Ranges of TCP or UDP ports, as Xray's inbounds have them. Plain data.
//!
//! Invariant: a range made by [`PortRange::new`] is never turned round.

use serde::{Deserialize, Serialize};

/// Ports from one to another, both included. Written as `[from, to]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u16, u16)", into = "(u16, u16)")]
pub struct PortRange {
    /// The lowest.
    pub from: u16,
    /// The highest.
    pub to: u16,
}

impl TryFrom<(u16, u16)> for PortRange {
    type Error = &'static str;

    fn try_from((from, to): (u16, u16)) -> Result<Self, Self::Error> {
        Self::new(from.into(), to.into()).ok_or("a range of ports is turned round")
    }
}

impl From<PortRange> for (u16, u16) {
    fn from(range: PortRange) -> Self {
        (range.from, range.to)
    }
}

impl PortRange {
    /// The range between numbers from outside; none when they are turned round or are no ports.
    pub fn new(from: u32, to: u32) -> Option<Self> {
        let (from, to) = (u16::try_from(from).ok()?, u16::try_from(to).ok()?);
        (from <= to).then_some(Self { from, to })
    }

    /// One port.
    pub fn single(port: u16) -> Self {
        Self {
            from: port,
            to: port,
        }
    }

    /// Whether `port` lies within.
    pub fn contains(&self, port: u16) -> bool {
        (self.from..=self.to).contains(&port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_both_its_ends_and_nothing_outside() {
        let range = PortRange::new(443, 445).unwrap();
        let inside: Vec<u16> = (440..450).filter(|port| range.contains(*port)).collect();
        assert_eq!(inside, [443, 444, 445]);
        let all = PortRange::new(0, 65_535).unwrap();
        assert!(all.contains(0) && all.contains(65_535));
        assert_eq!(PortRange::new(80, 80), Some(PortRange::single(80)));
    }

    #[test]
    fn what_is_turned_round_or_too_high_is_no_range() {
        for (from, to) in [(2, 1), (1, 65_536), (65_536, 65_537), (u32::MAX, u32::MAX)] {
            assert_eq!(PortRange::new(from, to), None, "{from}-{to}");
        }
    }
}
