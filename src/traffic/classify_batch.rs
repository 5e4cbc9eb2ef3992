//! What an answer means for all reports that went together to a panel that pushes users (`kernel.md`).
//! Pure. Such a panel knows no repeats: in doubt reports are *unknown* and not sent again by themselves.

use super::classify::Verdict;
use crate::model::batch::{BatchReply, Said};

/// What an answer means.
pub fn classify_batch(reply: &BatchReply) -> Verdict {
    // Whatever the status is then.
    let some_were_taken = matches!(reply.said, Said::Tally { accepted: 1.., .. });
    // It lost the answer; the panel behind it need not have lost the records.
    let is_of_a_proxy = matches!((reply.status, reply.said), (502 | 504, Said::Foreign));
    match (reply.status, reply.said) {
        (300..=399, _) => fault(reply),
        (200..=299, Said::Tally { failed: 0, .. }) => Verdict::Settled,
        (200..=299, Said::Tally { accepted: 0, .. }) => Verdict::Rejected {
            words: reply.shown.clone(),
        },
        (200..=299, Said::Nothing) if !reply.tallies => Verdict::Settled,
        (408 | 429 | 500..=599, _) if !some_were_taken && !is_of_a_proxy => wait(reply),
        (400..=499, _) if !some_were_taken => fault(reply),
        // Also where some were taken and it is not said which, or it is not said how many.
        _ => unknown(reply),
    }
}

fn wait(reply: &BatchReply) -> Verdict {
    Verdict::Pending {
        why: reply.shown.clone(),
        retry_after: reply.retry_after,
        fault: false,
    }
}

fn fault(reply: &BatchReply) -> Verdict {
    let mend = match (reply.status, reply.tallies) {
        (401 | 403, true) => "; is the token right? kernel.panel.token",
        (401 | 403, false) => "; is the registration's secret right?",
        (300..=399 | 404 | 405, true) => "; is this the panel's address? kernel.panel.url",
        _ => "",
    };
    Verdict::Pending {
        why: format!("{}{mend}", reply.shown),
        retry_after: reply.retry_after,
        fault: true,
    }
}

fn unknown(reply: &BatchReply) -> Verdict {
    let why = reply.shown.clone();
    Verdict::Unknown { why }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: what the body says (`n` nothing, `f` foreign, or taken:not taken), and what holds under these
    /// statuses. S settled, R rejected, W pending, F pending for a fault, U unknown; where two stand, the
    /// second is of a sink that need not tally.
    const TABLE: &str = "
        -    100 200 202 301 400 401 404 408 413 429 500 502 503 504
        n    U   U/S U/S F   F   F   F   W   F   W   W   W   W   W
        f    U   U   U   F   F   F   F   W   F   W   W   U   W   U
        3:0  U   S   S   F   U   U   U   U   U   U   U   U   U   U
        0:3  U   R   R   F   F   F   F   W   F   W   W   W   W   W
        1:2  U   U   U   F   U   U   U   U   U   U   U   U   U   U
        0:0  U   S   S   F   F   F   F   W   F   W   W   W   W   W";

    fn said(text: &str) -> Said {
        match text {
            "n" => Said::Nothing,
            "f" => Said::Foreign,
            tally => {
                let (accepted, failed) = tally.split_once(':').unwrap();
                Said::Tally {
                    accepted: accepted.parse().unwrap(),
                    failed: failed.parse().unwrap(),
                }
            }
        }
    }

    fn letter(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Settled => "S",
            Verdict::Rejected { .. } => "R",
            Verdict::Pending { fault: false, .. } => "W",
            Verdict::Pending { fault: true, .. } => "F",
            Verdict::Unknown { .. } => "U",
        }
    }

    #[test]
    fn every_answer_to_a_batch_has_its_meaning() {
        let mut rows = TABLE.lines().skip(1).map(str::split_whitespace);
        let statuses: Vec<u16> = rows
            .next()
            .unwrap()
            .skip(1)
            .map(|it| it.parse().unwrap())
            .collect();
        for mut row in rows {
            let text = row.next().unwrap();
            for (status, expected) in statuses.iter().zip(row) {
                let (first, second) = expected.split_once('/').unwrap_or((expected, expected));
                for (tallies, expected) in [(true, first), (false, second)] {
                    let verdict = classify_batch(&BatchReply {
                        status: *status,
                        said: said(text),
                        tallies,
                        retry_after: None,
                        shown: String::new(),
                    });
                    assert_eq!(
                        letter(&verdict),
                        expected,
                        "{text} under {status}, {tallies}"
                    );
                }
            }
        }
    }
}
