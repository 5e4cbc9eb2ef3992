//! How often the API may be asked, where somebody set that: rules by endpoint and by who asks.
//!
//! Kept here: a rule holds for each of those that ask by itself, so that one who asks too much takes
//! nothing from another; what is remembered of them has a bound; without rules nothing is held back.

mod kept;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use kept::{RateLimits, SetError};

/// Most requests at once, however many a minute there may be: what the agent answers in a second.
const BURST_MAX: NonZeroU32 = NonZeroU32::new(600).expect("600 is not zero");
/// Of so many that ask, each is remembered by itself for each rule, at 100 bytes each; further ones
/// share what one may ask, until some of the others have been quiet.
const REMEMBERED_MAX: usize = 10_000;
/// Under which all those are remembered that find no place.
const THE_OTHERS: &str = "";

/// What a rule is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[schema(as = RateLimitOverrideScope)]
pub enum Scope {
    /// A route, by its template; each of those that ask may ask it so often.
    Endpoint,
    /// One who asks, by name or by address (`ip:192.0.2.1`); he may ask so often, whatever it is.
    Identity,
}

impl Scope {
    /// Its word in the API and the store.
    pub fn word(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Identity => "identity",
        }
    }

    /// The one of this word.
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Endpoint, Self::Identity]
            .into_iter()
            .find(|scope| scope.word() == word)
    }
}

/// The rules of both scopes, as requests a minute by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By route.
    pub endpoints: BTreeMap<String, u32>,
    /// By who asks.
    pub identities: BTreeMap<String, u32>,
}

/// All rules, with what is remembered of those that ask. `C` counts time, and never steps.
#[derive(Debug)]
pub(super) struct Rules<C: Clock> {
    clock: C,
    table: RwLock<Table<C>>,
}

type Table<C> = BTreeMap<(Scope, String), Arc<Rule<C>>>;

type Limiter<C> =
    RateLimiter<Arc<str>, HashMapStateStore<Arc<str>>, C, NoOpMiddleware<<C as Clock>::Instant>>;

#[derive(Debug)]
struct Rule<C: Clock> {
    per_minute: NonZeroU32,
    limiter: Limiter<C>,
}

impl<C: Clock + Clone> Rules<C> {
    pub(super) fn new(clock: C) -> Self {
        Self {
            clock,
            table: RwLock::default(),
        }
    }

    /// From now on this rule holds. One that is set as it was goes on counting.
    pub(super) fn set(&self, scope: Scope, key: &str, per_minute: NonZeroU32) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let place = (scope, key.to_owned());
        if table
            .get(&place)
            .is_some_and(|it| it.per_minute == per_minute)
        {
            return;
        }
        let quota = Quota::per_minute(per_minute).allow_burst(per_minute.min(BURST_MAX));
        let limiter = RateLimiter::hashmap_with_clock(quota, self.clock.clone());
        let rule = Rule {
            per_minute,
            limiter,
        };
        table.insert(place, Arc::new(rule));
    }

    /// This rule does not hold any more.
    pub(super) fn remove(&self, scope: Scope, key: &str) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(&(scope, key.to_owned()));
    }

    /// Counts a request for a route by whoever has these names, the most telling first. An error is how
    /// long it would have to wait: then it is not to be answered.
    pub(super) fn check(&self, endpoint: &str, names: &[Arc<str>]) -> Result<(), Duration> {
        let others = Arc::from(THE_OTHERS);
        let who = names.first().unwrap_or(&others);
        if let Some(rule) = self.rule(Scope::Endpoint, endpoint) {
            rule.check(who, &self.clock)?;
        }
        for name in names {
            if let Some(rule) = self.rule(Scope::Identity, name) {
                rule.check(name, &self.clock)?;
            }
        }
        Ok(())
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = Snapshot::default();
        for ((scope, key), rule) in &*table {
            let of_scope = match scope {
                Scope::Endpoint => &mut snapshot.endpoints,
                Scope::Identity => &mut snapshot.identities,
            };
            of_scope.insert(key.clone(), rule.per_minute.get());
        }
        snapshot
    }

    fn rule(&self, scope: Scope, key: &str) -> Option<Arc<Rule<C>>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&(scope, key.to_owned())).cloned()
    }
}

impl<C: Clock> Rule<C> {
    fn check(&self, who: &Arc<str>, clock: &C) -> Result<(), Duration> {
        let others = Arc::from(THE_OTHERS);
        let who = if self.has_place() { who } else { &others };
        let checked = self.limiter.check_key(who);
        checked.map_err(|not_until| not_until.wait_time_from(clock.now()))
    }

    /// Whether one more can be remembered, after those were forgotten who may ask as if they never had.
    fn has_place(&self) -> bool {
        if self.limiter.len() < REMEMBERED_MAX {
            return true;
        }
        self.limiter.retain_recent();
        self.limiter.len() < REMEMBERED_MAX
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    fn rules() -> (FakeRelativeClock, Rules<FakeRelativeClock>) {
        let clock = FakeRelativeClock::default();
        let rules = Rules::new(clock.clone());
        (clock, rules)
    }

    fn n(per_minute: u32) -> NonZeroU32 {
        NonZeroU32::new(per_minute).unwrap()
    }

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn without_a_rule_nothing_is_held_back() {
        let (_, rules) = rules();
        rules.set(Scope::Endpoint, "/v1/users", n(1));
        for _ in 0..10_000 {
            rules.check("/v1/users/{id}", &names(&["a"])).unwrap();
        }
    }

    #[test]
    fn an_endpoint_answers_each_who_asks_so_often_and_says_how_long_to_wait() {
        let (clock, rules) = rules();
        rules.set(Scope::Endpoint, "/v1/users", n(30));
        let (one, other) = (names(&["a", "ip:192.0.2.1"]), names(&["b", "ip:192.0.2.1"]));
        for _ in 0..30 {
            rules.check("/v1/users", &one).unwrap();
        }
        let wait = rules.check("/v1/users", &one).unwrap_err();
        assert_eq!(wait, Duration::from_secs(2));
        rules.check("/v1/users", &other).unwrap();
        clock.advance(Duration::from_secs(2));
        rules.check("/v1/users", &one).unwrap();
        rules.check("/v1/users", &one).unwrap_err();
    }

    #[test]
    fn an_identity_is_held_to_its_rule_by_each_of_its_names_whatever_it_asks() {
        for key in ["api-key:panel", "ip:127.0.0.1"] {
            let (_, rules) = rules();
            rules.set(Scope::Identity, key, n(2));
            let panel = names(&["api-key:panel", "ip:127.0.0.1"]);
            rules.check("/v1/users", &panel).unwrap();
            rules.check("/v1/status", &panel).unwrap();
            rules.check("/v1/traffic", &panel).unwrap_err();
            rules
                .check("/v1/traffic", &names(&["other", "ip:192.0.2.1"]))
                .unwrap();
        }
    }

    #[test]
    fn a_rule_that_is_set_again_counts_on_and_one_that_is_removed_holds_no_more() {
        let (_, rules) = rules();
        let one = names(&["a"]);
        rules.set(Scope::Identity, "a", n(1));
        rules.check("/", &one).unwrap();
        rules.set(Scope::Identity, "a", n(1));
        rules.check("/", &one).unwrap_err();
        rules.set(Scope::Identity, "a", n(2));
        rules.check("/", &one).unwrap();
        assert_eq!(rules.snapshot().identities, [("a".to_owned(), 2)].into());
        rules.remove(Scope::Identity, "a");
        for _ in 0..10 {
            rules.check("/", &one).unwrap();
        }
        assert_eq!(rules.snapshot(), Snapshot::default());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_those_without_a_place_share_one() {
        let (clock, rules) = rules();
        rules.set(Scope::Endpoint, "/", n(1));
        for who in 0..REMEMBERED_MAX {
            rules.check("/", &names(&[&who.to_string()])).unwrap();
        }
        rules.check("/", &names(&["late"])).unwrap();
        rules.check("/", &names(&["later"])).unwrap_err();
        let rule = rules.rule(Scope::Endpoint, "/").unwrap();
        assert_eq!(rule.limiter.len(), REMEMBERED_MAX + 1);
        clock.advance(Duration::from_mins(2));
        rules.check("/", &names(&["later"])).unwrap();
        assert_eq!(rule.limiter.len(), 1);
    }

    proptest! {
        #[test]
        fn in_no_span_more_is_answered_than_the_burst_and_what_the_time_buys(
            per_minute in 1u32..2_000,
            pauses_ms in prop::collection::vec(0u64..3_000, 1..300),
        ) {
            let (clock, rules) = rules();
            rules.set(Scope::Identity, "a", n(per_minute));
            let (mut answered, mut passed_ms) = (0u64, 0u64);
            for pause in pauses_ms {
                clock.advance(Duration::from_millis(pause));
                passed_ms += pause;
                match rules.check("/", &names(&["a"])) {
                    Ok(()) => answered += 1,
                    Err(wait) => prop_assert!(wait <= Duration::from_mins(1)),
                }
            }
            let burst = u64::from(per_minute.min(BURST_MAX.get()));
            prop_assert!(answered <= burst + passed_ms * u64::from(per_minute) / 60_000 + 1);
        }
    }
}
