//! What an answer means for its report (`panel-internal.md`, the table of `report-traffic`). Pure.
//! Only a whole JSON envelope is the panel's word: its code decides; without one the HTTP status does.
//! A report is *pending* again only where it cannot have been counted, by the panel's word or because
//! it never got there; in doubt it is *unknown*, so that nobody is billed twice.

use std::time::Duration;

use super::classify_batch::classify_batch;
use crate::model::report::{Answer, Envelope, Reply};

/// What is to be done with a report after its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was counted: done.
    Settled,
    /// The panel will not count it, ever: kept with the panel's words, not sent again by itself.
    Rejected {
        /// The answer in one line, fit to be shown.
        words: String,
    },
    /// It was not counted: to be sent again, later.
    Pending {
        /// What happened, fit to be shown.
        why: String,
        /// The pause that the panel asked for.
        retry_after: Option<Duration>,
        /// Something is set up wrongly, here or at the panel: waiting alone does not help.
        fault: bool,
    },
    /// It may have been counted or not.
    Unknown {
        /// What happened, fit to be shown.
        why: String,
    },
}

/// What an answer means.
pub fn classify(answer: &Answer) -> Verdict {
    match answer {
        Answer::NotSent { why } => Verdict::Pending {
            why: why.clone(),
            retry_after: None,
            fault: false,
        },
        Answer::Lost { why } => Verdict::Unknown { why: why.clone() },
        Answer::Replied(reply) => of_reply(reply),
        Answer::Batch(reply) => classify_batch(reply),
    }
}

fn of_reply(reply: &Reply) -> Verdict {
    match (&reply.envelope, reply.status) {
        // Whoever redirects has not taken it, whatever else is said there.
        (_, 300..=399) => fault(reply, ""),
        (Some(envelope), status) => of_word(envelope, status, reply),
        (None, 408 | 429) => wait(reply),
        (None, status @ 400..=499) => fault(reply, mend(status.into())),
        // Also 502 and 504: the proxy in front of the panel lost it, which the panel need not have.
        (None, _) => unknown(reply),
    }
}

/// By the panel's own word.
fn of_word(envelope: &Envelope, status: u16, reply: &Reply) -> Verdict {
    match (envelope.code, envelope.message.trim()) {
        (200, _) if (200..300).contains(&status) => Verdict::Settled,
        (400, _) | (404, "uuid not found") | (403, "no_entitlement_for_node") => {
            Verdict::Rejected {
                words: reply.shown.clone(),
            }
        }
        (408 | 429 | 500..=599, _) => wait(reply),
        // The answer's own text says that the token is wrong.
        (403, "forbidden") => fault(reply, ""),
        (code @ 401..=499, _) => fault(reply, mend(code)),
        // No code of the panel's, or a success that its status denies.
        _ => unknown(reply),
    }
}

fn wait(reply: &Reply) -> Verdict {
    Verdict::Pending {
        why: reply.shown.clone(),
        retry_after: reply.retry_after,
        fault: false,
    }
}

fn fault(reply: &Reply, mend: &str) -> Verdict {
    Verdict::Pending {
        why: format!("{}{mend}", reply.shown),
        retry_after: reply.retry_after,
        fault: true,
    }
}

fn unknown(reply: &Reply) -> Verdict {
    let why = reply.shown.clone();
    Verdict::Unknown { why }
}

/// What to do about a refusal that the panel does not explain.
fn mend(code: i64) -> &'static str {
    match code {
        401 | 403 => "; is the token right? INTERNAL_API_KEY, panel.token",
        407 => "; are the proxy's user and password right? panel.proxy",
        _ => "; is this the panel's address? PANEL_BASE_URL, panel.url",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Option<Duration> = Some(Duration::from_secs(7));

    /// Rows: the envelope's code and message (`-` for no envelope), and what holds under a status of
    /// 1xx, 2xx, 3xx, 4xx and 5xx, and under 408 and 429. S settled, R rejected, W pending, F pending
    /// for a fault, U unknown.
    const TABLE: &str = "
        - UUFFU WW
        200 USFUU UU
        200:ok USFUU UU
        200:forbidden USFUU UU
        400 RRFRR RR
        400:forbidden RRFRR RR
        400:anything RRFRR RR
        404:uuid_not_found FFFFF FF
        404:uuid not found RRFRR RR
        404:  uuid not found  RRFRR RR
        404:UUID not found FFFFF FF
        404:node not found FFFFF FF
        404 FFFFF FF
        403:no_entitlement_for_node RRFRR RR
        403: no_entitlement_for_node RRFRR RR
        403:forbidden FFFFF FF
        403:uuid not found FFFFF FF
        403 FFFFF FF
        404:no_entitlement_for_node FFFFF FF
        401 FFFFF FF
        402 FFFFF FF
        405 FFFFF FF
        407 FFFFF FF
        409 FFFFF FF
        413 FFFFF FF
        422 FFFFF FF
        499 FFFFF FF
        408 WWFWW WW
        429 WWFWW WW
        429:uuid not found WWFWW WW
        500 WWFWW WW
        500:uuid not found WWFWW WW
        502 WWFWW WW
        503 WWFWW WW
        504 WWFWW WW
        599 WWFWW WW
        0 UUFUU UU
        0:ok UUFUU UU
        -1 UUFUU UU
        -200 UUFUU UU
        100 UUFUU UU
        199 UUFUU UU
        201 UUFUU UU
        204 UUFUU UU
        299 UUFUU UU
        300 UUFUU UU
        302 UUFUU UU
        399 UUFUU UU
        600 UUFUU UU
        40000 UUFUU UU
        9223372036854775807 UUFUU UU
        -9223372036854775808 UUFUU UU";

    fn reply(status: u16, envelope: Option<Envelope>) -> Answer {
        Answer::Replied(Reply {
            status,
            envelope,
            retry_after: PAUSE,
            echoes_key: false,
            shown: "shown".to_owned(),
        })
    }

    fn letter(verdict: &Verdict) -> char {
        match verdict {
            Verdict::Settled => 'S',
            Verdict::Rejected { words } if words == "shown" => 'R',
            Verdict::Pending {
                why,
                retry_after: PAUSE,
                fault,
            } if why.starts_with("shown") => {
                if *fault {
                    'F'
                } else {
                    'W'
                }
            }
            Verdict::Unknown { why } if why == "shown" => 'U',
            other => panic!("{other:?}"),
        }
    }

    fn envelope(word: &str) -> Option<Envelope> {
        let (code, message) = word.split_once(':').unwrap_or((word, ""));
        (code != "-").then(|| Envelope {
            code: code.parse().unwrap(),
            message: message.to_owned(),
        })
    }

    #[test]
    fn every_answer_means_what_the_table_says() {
        let rows = TABLE
            .lines()
            .map(str::trim_start)
            .filter(|row| !row.is_empty());
        for row in rows {
            let (word, exceptional) = row.rsplit_once(' ').unwrap();
            let (word, by_class) = word.rsplit_once(' ').unwrap();
            let nth = |text: &str, at: u16| text.chars().nth(at.into()).unwrap();
            for status in 100..=599 {
                let expected = match status {
                    408 => nth(exceptional, 0),
                    429 => nth(exceptional, 1),
                    _ => nth(by_class, status / 100 - 1),
                };
                let verdict = classify(&reply(status, envelope(word)));
                assert_eq!(letter(&verdict), expected, "{status} under {row}");
            }
        }
    }

    #[test]
    fn no_code_of_any_status_settles_but_200_and_none_waits_in_doubt() {
        for status in 100..=599 {
            for code in -1000..=1000 {
                let word = Envelope {
                    code,
                    message: "x".to_owned(),
                };
                let letter = letter(&classify(&reply(status, Some(word))));
                let settled = code == 200 && status / 100 == 2;
                assert_eq!(letter == 'S', settled, "{status} {code}");
                let refused = (400..600).contains(&code) || status / 100 == 3;
                assert_eq!("RWF".contains(letter), refused, "{status} {code}");
            }
        }
    }

    #[test]
    fn what_was_not_sent_waits_and_what_was_lost_is_unknown() {
        let why = "why".to_owned();
        let not_sent = classify(&Answer::NotSent { why: why.clone() });
        let waits = Verdict::Pending {
            why: why.clone(),
            retry_after: None,
            fault: false,
        };
        assert_eq!(not_sent, waits);
        let lost = classify(&Answer::Lost { why: why.clone() });
        assert_eq!(lost, Verdict::Unknown { why });
    }

    #[test]
    fn a_fault_says_what_to_mend() {
        let cases = [
            (401, "-", "INTERNAL_API_KEY"),
            (403, "-", "INTERNAL_API_KEY"),
            (200, "403:banned", "INTERNAL_API_KEY"),
            (407, "-", "panel.proxy"),
            (404, "-", "PANEL_BASE_URL"),
            (413, "413:too large", "PANEL_BASE_URL"),
        ];
        for (status, word, mend) in cases {
            match classify(&reply(status, envelope(word))) {
                Verdict::Pending { why, .. } => assert!(why.contains(mend), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
