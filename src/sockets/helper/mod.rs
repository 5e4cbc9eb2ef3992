//! Cutting on another's behalf: an unprivileged agent asks a program that may cut and does nothing
//! else, over a unix socket. One line of JSON asks, one line of JSON answers, and the conversation
//! is over.
//!
//! Invariant: what is not exactly such a line is refused, and cuts nothing.

mod client;
#[cfg(test)]
mod fuzz;
mod server;

use serde::{Deserialize, Serialize};

use crate::model::cut::{Cut, Obstacle, Sockets};
use crate::model::ports::PortRange;

pub(super) use client::{cut, obstacle};
pub use server::{Allowed, Server};

/// Longest line in bytes, its end included; for questions and answers.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Most addresses in one question: so many of the longest fit into a line, and their counts, too.
const ADDRESSES_MAX: usize = 1_000;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Question {
    /// Destroy these.
    Cut(Cut),
    /// Why connections to servers on these ports cannot be cut.
    Obstacle {
        /// The ports.
        ports: Vec<PortRange>,
    },
}

impl Question {
    fn ports(&self) -> &[PortRange] {
        match self {
            Self::Cut(cut) => &cut.ports,
            Self::Obstacle { ports } => ports,
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Answer {
    /// To `Cut`: done.
    Destroyed(Sockets),
    /// To `Obstacle`: what there is of it.
    Obstacle(Option<Obstacle>),
    /// Nothing, or not everything, was done.
    Refused(Obstacle),
}

/// A line as it goes over the socket.
fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message)
        .expect("invariant: plain data with texts as keys can be written as JSON");
    line.push(b'\n');
    line
}

/// The first port of `wanted` that is in none of `allowed`.
fn outside(wanted: &[PortRange], allowed: &[PortRange]) -> Option<u16> {
    wanted.iter().find_map(|range| {
        let mut port = range.from;
        loop {
            let around = allowed.iter().filter(|range| range.contains(port));
            let Some(reach) = around.map(|range| range.to).max() else {
                return Some(port);
            };
            if reach >= range.to {
                return None;
            }
            port = reach + 1;
        }
    })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = PortRange> {
        (0u16..60, 0u16..60).prop_map(|(a, b)| PortRange {
            from: a.min(b),
            to: a.max(b),
        })
    }

    #[test]
    fn a_question_of_the_most_and_longest_addresses_fits_into_a_line_and_so_does_its_answer() {
        let address = |n: usize| IpAddr::V6(Ipv6Addr::from(u128::MAX - n as u128));
        let cut = Cut {
            ports: vec![PortRange::single(u16::MAX); 64],
            addresses: (0..ADDRESSES_MAX).map(address).collect(),
        };
        let counts = cut.addresses.iter().map(|a| (*a, 1_000_000)).collect();
        assert!(line(&Question::Cut(cut)).len() <= LINE_BYTES_MAX);
        assert!(line(&Answer::Destroyed(counts)).len() <= LINE_BYTES_MAX);
    }

    #[test]
    fn the_wire_is_as_it_was_agreed_on() {
        let question = Question::Cut(Cut {
            ports: vec![PortRange::single(443)],
            addresses: ["192.0.2.1".parse().unwrap()].into(),
        });
        let written = r#"{"cut":{"ports":[[443,443]],"addresses":["192.0.2.1"]}}"#;
        assert_eq!(line(&question), [written.as_bytes(), b"\n"].concat());
        let ports = r#"{"obstacle":{"ports":[[1,2]]}}"#;
        assert!(serde_json::from_str::<Question>(ports).is_ok());
        let answer = Answer::Destroyed([("::1".parse().unwrap(), 2)].into());
        assert_eq!(line(&answer), b"{\"destroyed\":{\"::1\":2}}\n");
    }

    #[test]
    fn what_the_protocol_does_not_know_is_no_question() {
        for wrong in [
            r#"{"cut":{"ports":[[1,2]],"addresses":[],"all":true}}"#,
            r#"{"obstacle":{"ports":[],"also":1}}"#,
            r#"{"cut":{"addresses":[]}}"#,
            r#"{"cut":{"ports":[[2,1]],"addresses":[]}}"#,
            r#"{"cut":{"ports":[[1,70000]],"addresses":[]}}"#,
            r#"{"cut":{"ports":[],"addresses":["192.0.2.0/24"]}}"#,
            r#"{"cut":{"ports":[],"addresses":[]},"obstacle":{"ports":[]}}"#,
            r#""cut""#,
            "{}",
        ] {
            assert!(serde_json::from_str::<Question>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn the_port_that_is_told_is_the_first_wanted_one_that_no_range_allows(
            wanted in prop::collection::vec(range(), 0..4),
            allowed in prop::collection::vec(range(), 0..5),
        ) {
            let mut each = wanted.iter().flat_map(|range| range.from..=range.to);
            let first = each.find(|port| !allowed.iter().any(|range| range.contains(*port)));
            prop_assert_eq!(outside(&wanted, &allowed), first);
        }
    }
}
