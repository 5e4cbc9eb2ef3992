//! What becomes of an event after it was sent: delivered, sent again and when, or given up.
//!
//! Follows `contracts/kernel.md`: 2xx is an ack; 408, 429, 5xx and a failed transport are tried again
//! for 24 h; what else is refused is given up after 3 tries; 410 disables the target. Redirects are
//! not followed; one is tried again like a failed transport, for the target itself refused nothing.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::delivery::{Fate, PostAnswer, Tried, retry_after};

/// The first pause is up to twice this, and none is shorter.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// No pause of ours is longer.
pub(super) const PAUSE_MAX: Duration = Duration::from_mins(5);
/// How long one event is tried again, from the first try on.
const TRIED_FOR: Duration = Duration::from_hours(24);
/// How often it is tried at least: a clock that steps, or a host that slept, is not a day of trying.
const TRIES_MIN: u32 = 10;
/// How often an event may be refused for what it is.
const REFUSALS_MAX: u32 = 3;

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Taken,
    Later { asked: Option<Duration> },
    Refused,
    Gone,
}

/// Decides, from what came of sending an event and what became of it before. `jitter` is anywhere from 0
/// to 1: so that many do not come back at once.
pub fn judge(
    answer: &Result<PostAnswer, String>,
    tried: Tried,
    now: Timestamp,
    jitter: f64,
) -> Fate {
    let (meaning, why) = match answer {
        Err(why) => (Meaning::Later { asked: None }, why.clone()),
        Ok(answer) => (meaning_of(answer, now), words_of(answer)),
    };
    let pause = pause_after(tried.tries + 1, jitter);
    match meaning {
        Meaning::Taken => Fate::Delivered,
        Meaning::Gone => Fate::Disabled { why },
        Meaning::Refused if tried.refusals + 1 >= REFUSALS_MAX => Fate::GivenUp { why },
        Meaning::Refused => Fate::Retry {
            pause,
            refused: true,
            why,
        },
        Meaning::Later { .. } if is_spent(tried, now) => Fate::GivenUp { why },
        Meaning::Later { asked } => Fate::Retry {
            pause: asked.map_or(pause, |asked| asked.max(pause)),
            refused: false,
            why,
        },
    }
}

/// The pause after so many tries: it doubles from 1–2 s up to 2.5–5 min.
fn pause_after(tries: u32, jitter: f64) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(tries.min(16)));
    let longest = doubled.min(PAUSE_MAX);
    (longest / 2 + (longest / 2).mul_f64(jitter.clamp(0.0, 1.0))).max(PAUSE_MIN)
}

fn is_spent(tried: Tried, now: Timestamp) -> bool {
    let first = tried.first.unwrap_or(now);
    let since = Duration::try_from(now.duration_since(first)).unwrap_or_default();
    since >= TRIED_FOR && tried.tries >= TRIES_MIN
}

fn meaning_of(answer: &PostAnswer, now: Timestamp) -> Meaning {
    let asked = || {
        let text = answer.retry_after.as_deref()?;
        retry_after(text, now)
    };
    match answer.status {
        200..=299 => Meaning::Taken,
        410 => Meaning::Gone,
        408 | 429 | 500..=599 => Meaning::Later { asked: asked() },
        400..=499 => Meaning::Refused,
        _ => Meaning::Later { asked: None },
    }
}

fn words_of(answer: &PostAnswer) -> String {
    let status = answer.status;
    match (status, &answer.location_host) {
        (300..=399, Some(host)) => format!(
            "answered {status}, a redirect to {host}, which is not followed; name that address \
             itself"
        ),
        (300..=399, None) => format!("answered {status}, a redirect, which is not followed"),
        (410, _) => "answered 410: it wants nothing more".to_owned(),
        _ => format!("answered {status}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn answered(status: u16) -> PostAnswer {
        PostAnswer {
            status,
            ..PostAnswer::default()
        }
    }

    /// Sends again and again, waits the pauses; how long and how often until it was over.
    fn until_over(answer: &Result<PostAnswer, String>, jitter: f64) -> (Duration, u32, Fate) {
        let (mut tried, mut at) = (Tried::default(), now());
        loop {
            let fate = judge(answer, tried, at, jitter);
            let Fate::Retry { pause, refused, .. } = fate else {
                let took = Duration::try_from(at.duration_since(now())).unwrap();
                return (took, tried.tries + 1, fate);
            };
            tried.tries += 1;
            tried.refusals += u32::from(refused);
            tried.first.get_or_insert(at);
            at += pause;
        }
    }

    #[test]
    fn every_status_means_what_the_contract_says() {
        for status in 100..=999 {
            let meaning = meaning_of(&answered(status), now());
            let right = match status {
                200..=299 => Meaning::Taken,
                410 => Meaning::Gone,
                400..=407 | 409 | 411..=428 | 430..=499 => Meaning::Refused,
                _ => Meaning::Later { asked: None },
            };
            assert_eq!(meaning, right, "{status}");
        }
    }

    #[test]
    fn what_may_pass_is_tried_for_a_day_and_a_refusal_three_times() {
        for answer in [
            Ok(answered(503)),
            Ok(answered(302)),
            Err("refused".to_owned()),
        ] {
            let (took, tries, fate) = until_over(&answer, 0.5);
            assert!(
                took >= TRIED_FOR && took < TRIED_FOR + PAUSE_MAX,
                "{took:?}"
            );
            assert!(
                tries > 288 && matches!(fate, Fate::GivenUp { .. }),
                "{fate:?}"
            );
        }
        let (_, tries, fate) = until_over(&Ok(answered(404)), 0.0);
        assert_eq!(tries, 3);
        assert_eq!(
            fate,
            Fate::GivenUp {
                why: "answered 404".to_owned()
            }
        );
        assert!(matches!(
            until_over(&Ok(answered(410)), 0.0).2,
            Fate::Disabled { .. }
        ));
    }

    #[test]
    fn a_clock_that_steps_a_day_gives_nothing_up() {
        let tried = Tried {
            tries: 3,
            refusals: 0,
            first: Some(now() - Duration::from_hours(1_000)),
        };
        let fate = judge(&Ok(answered(500)), tried, now(), 0.0);
        assert!(matches!(fate, Fate::Retry { .. }), "{fate:?}");
    }

    #[test]
    fn retry_after_is_kept_in_both_forms_and_bounded() {
        for (text, seconds) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("0", Some(0)),
            ("99999999999999999999999", Some(3_600)),
            ("Thu, 01 Jan 2026 00:01:30 GMT", Some(90)),
            ("Wed, 31 Dec 2025 00:00:00 GMT", Some(0)),
            ("", None),
            ("soon", None),
            ("-5", None),
        ] {
            let asked = retry_after(text, now());
            assert_eq!(asked, seconds.map(Duration::from_secs), "{text:?}");
        }
        let answer = Ok(PostAnswer {
            status: 429,
            retry_after: Some("600".to_owned()),
            location_host: None,
        });
        let fate = judge(&answer, Tried::default(), now(), 0.0);
        assert!(
            matches!(fate, Fate::Retry { pause, .. } if pause == Duration::from_mins(10)),
            "{fate:?}"
        );
    }

    #[test]
    fn a_redirect_names_the_host_it_leads_to() {
        let answer = PostAnswer {
            status: 301,
            retry_after: None,
            location_host: Some("elsewhere.example".to_owned()),
        };
        assert!(words_of(&answer).contains("elsewhere.example"));
    }

    proptest! {
        #[test]
        fn pauses_stay_within_their_bounds_and_never_shrink(tries in 1..400_u32, jitter in 0.0..1.0) {
            let pause = pause_after(tries, jitter);
            prop_assert!(pause >= PAUSE_MIN && pause <= PAUSE_MAX);
            prop_assert!(pause_after(tries + 1, jitter) >= pause);
        }
    }
}
