//! Xray's traffic counters of users, as they came: `user>>>EMAIL>>>traffic>>>uplink|downlink`. Xray
//! names them in exact case, in no order, and never forgets one until it ends. Pure.

use super::proto::xray::app::stats::command::Stat;

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the user.
    Up,
    /// To the user.
    Down,
}

impl Direction {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];
}

/// One counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter<'a> {
    /// The user's e-mail, in the case in which Xray has it.
    pub email: &'a str,
    /// Which way.
    pub direction: Direction,
    /// Bytes since Xray started, or since somebody reset it.
    pub bytes: u64,
}

/// The answer to one bulk read.
#[derive(Clone, Debug, Default)]
pub struct UserCounters(pub(super) Vec<Stat>);

impl UserCounters {
    /// Counters of these names and values, in this order.
    pub fn of(counters: impl IntoIterator<Item = (String, i64)>) -> Self {
        let stat = |(name, value): (String, i64)| Stat {
            name: name.into(),
            value,
        };
        Self(counters.into_iter().map(stat).collect())
    }

    /// How many counters came.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none came.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every traffic counter of a user; what else matched the query is passed over. A value below
    /// zero, which no Xray has, is none.
    pub fn iter(&self) -> impl Iterator<Item = Counter<'_>> {
        self.0.iter().filter_map(|stat| {
            let name = std::str::from_utf8(&stat.name).ok()?;
            let (email, direction) = parts(name)?;
            Some(Counter {
                email,
                direction,
                bytes: u64::try_from(stat.value).unwrap_or_default(),
            })
        })
    }
}

fn parts(name: &str) -> Option<(&str, Direction)> {
    let rest = name.strip_prefix("user>>>")?;
    if let Some(email) = rest.strip_suffix(">>>traffic>>>uplink") {
        return Some((email, Direction::Up));
    }
    let email = rest.strip_suffix(">>>traffic>>>downlink")?;
    Some((email, Direction::Down))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_traffic_counters_of_users_are_taken_whatever_stands_in_an_email() {
        let counters = UserCounters::of([
            ("user>>>A@x>>>traffic>>>uplink".to_owned(), 5),
            ("user>>>a>>>b>>>traffic>>>downlink".to_owned(), 7),
            ("user>>>a>>>online".to_owned(), 1),
            ("inbound>>>user>>>traffic>>>uplink".to_owned(), 9),
            ("user>>>gone>>>traffic>>>uplink".to_owned(), -3),
        ]);
        let read: Vec<_> = counters.iter().collect();
        let of = |email, direction, bytes| Counter {
            email,
            direction,
            bytes,
        };
        assert_eq!(
            read,
            [
                of("A@x", Direction::Up, 5),
                of("a>>>b", Direction::Down, 7),
                of("gone", Direction::Up, 0)
            ]
        );
    }
}
