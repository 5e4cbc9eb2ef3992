//! The panel: reachable, our token accepted, each node known; and how its clock stands to ours.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use jiff::Timestamp;

use super::finding::Finding;
use crate::base::clock::Clock;
use crate::config::{Config, Panel};
use crate::model::ids::NodeId;
use crate::panel::{Allowed, PanelClient, PanelError, Reason};

const CHECK: &str = "panel";
pub(super) const CLOCK: &str = "clock";
/// The longest that a node's list is waited for here, whatever is configured: a person waits.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Clocks further apart than this show times that mislead whoever compares logs, and certificates
/// that are not valid yet or no more.
const APART_MAX: Duration = Duration::from_mins(1);

/// What the panel said of one node.
struct Answer {
    node: NodeId,
    users: Result<usize, PanelError>,
}

/// Asks it for every node; `token_file`: where its token stands, if in a file.
pub(super) async fn check(config: &Config, token_file: Option<&Path>) -> Vec<Finding> {
    let Some(panel) = &config.panel else {
        return Vec::new();
    };
    let panel = Panel {
        timeout: panel.timeout.min(ANSWER_MAX),
        ..panel.clone()
    };
    let client = match PanelClient::new(panel) {
        Ok(client) => client,
        Err(why) => return vec![Finding::bad(CHECK, format!("it cannot be asked: {why}"))],
    };
    let clock = Clock::system();
    let asked = join_all(config.nodes.iter().map(|node| async {
        let (answer, date) = client.allowed_and_date(node.id).await;
        let users = answer.map(|answer| match answer {
            Allowed::List { list, .. } => list.users.len(),
            Allowed::Unchanged => 0,
        });
        let id = node.id;
        (
            Answer { node: id, users },
            date.map(|date| (date, clock.now())),
        )
    }));
    let (answers, dates): (Vec<_>, Vec<_>) = asked.await.into_iter().unzip();
    let mut findings = of_answers(&answers, client.base_url().as_str(), token_file);
    findings.push(of_clock(dates.into_iter().flatten().next()));
    findings
}

/// One finding where the panel as a whole is at fault, else one for each node.
fn of_answers(answers: &[Answer], url: &str, token_file: Option<&Path>) -> Vec<Finding> {
    let errors = answers.iter().filter_map(|it| it.users.as_ref().err());
    if let Some(error) = errors.clone().find(|error| is_of_all(&error.reason)) {
        return vec![of_all(error, url, token_file)];
    }
    answers.iter().map(of_node).collect()
}

/// Whether any node would be answered so.
fn is_of_all(reason: &Reason) -> bool {
    match reason {
        Reason::Refused { status, .. } => is_of_token(reason) || status.is_server_error(),
        Reason::Malformed { .. }
        | Reason::Transport(_)
        | Reason::Timeout
        | Reason::Redirected { .. } => true,
        Reason::CutShort { .. }
        | Reason::Absurd(_)
        | Reason::TooLarge { .. }
        | Reason::Unfit(_) => false,
    }
}

/// Whether our token is refused; of a node, the panel may refuse other things in the same way.
fn is_of_token(reason: &Reason) -> bool {
    match reason {
        Reason::Refused { code: 401, .. } => true,
        Reason::Refused {
            code: 403, message, ..
        } => message.trim() == "forbidden",
        _ => false,
    }
}

fn of_all(error: &PanelError, url: &str, token_file: Option<&Path>) -> Finding {
    let finding = Finding::bad(CHECK, error.to_string());
    match &error.reason {
        reason if is_of_token(reason) => match token_file {
            Some(file) => finding.mend(format!(
                "write the panel's internal key into {}, alone or as it stands there",
                file.display()
            )),
            None => finding.mend("set INTERNAL_API_KEY to the panel's internal key"),
        },
        Reason::Malformed { status, .. } if *status == StatusCode::OK => finding.mend(
            "that address is not the panel's API, but a web site or a proxy before it: set url \
             under [panel] (PANEL_BASE_URL) to the address of its API",
        ),
        Reason::Refused { .. } | Reason::Malformed { .. } => {
            finding.mend("look at the panel's own log; the agent goes on by itself once it answers")
        }
        _ => finding
            .mend("start the panel, open the way to it, or set url under [panel] (PANEL_BASE_URL)")
            .mend(format!("curl -v -m 10 {url}")),
    }
}

fn of_node(answer: &Answer) -> Finding {
    let node = answer.node;
    match &answer.users {
        Ok(0) => Finding::note(CHECK, format!("node {node}: the panel allows nobody there")).mend(
            "where that is not so: does the panel know this node? It may answer so for any number",
        ),
        Ok(users) => Finding::good(CHECK, format!("node {node}: {users} users allowed")),
        Err(error) => {
            let finding = Finding::bad(CHECK, error.to_string());
            match &error.reason {
                Reason::Refused {
                    code: 400 | 404, ..
                } => finding.mend(
                    "set id under [[node]] (NODE_IDS) to the number that the panel shows for this \
                     node, or add the node there",
                ),
                _ => finding,
            }
        }
    }
}

/// `seen`: what the panel's clock showed, and ours when that came.
fn of_clock(seen: Option<(Timestamp, Timestamp)>) -> Finding {
    let Some((theirs, ours)) = seen else {
        return Finding::note(CLOCK, "cannot tell: no answer of the panel's has a date");
    };
    let apart = ours.duration_since(theirs);
    if apart.unsigned_abs() <= APART_MAX {
        return Finding::good(CLOCK, "as the panel's, to the minute");
    }
    let way = if apart.is_negative() {
        "behind"
    } else {
        "ahead of"
    };
    let seconds = apart.unsigned_abs().as_secs();
    Finding::note(CLOCK, format!("{seconds} s {way} the panel's"))
        .mend("let NTP keep the clock, here or at the panel, whichever is wrong:")
        .mend("timedatectl set-ntp true")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn refused(code: u16) -> Reason {
        Reason::Refused {
            status: StatusCode::from_u16(code).unwrap(),
            code: code.into(),
            message: "forbidden".to_owned(),
            retry_after: None,
        }
    }

    fn answer(node: u64, users: Result<usize, Reason>) -> Answer {
        let url = format!("http://panel/{node}");
        Answer {
            node: NodeId(node),
            users: users.map_err(|reason| PanelError { url, reason }),
        }
    }

    fn verdicts(answers: &[Answer]) -> Vec<Verdict> {
        let found = of_answers(answers, "http://panel/", None);
        found.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn what_ails_the_whole_panel_is_said_once_and_a_node_for_itself() {
        use Verdict::{Bad, Good, Note};
        for reason in [refused(403), refused(500), Reason::Timeout] {
            let all = [answer(1, Err(reason.clone())), answer(2, Err(reason))];
            assert_eq!(verdicts(&all), [Bad]);
        }
        let mut not_here = refused(403);
        if let Reason::Refused { message, .. } = &mut not_here {
            "not here".clone_into(message);
        }
        let each = [
            answer(1, Ok(2)),
            answer(2, Err(refused(404))),
            answer(3, Ok(0)),
            answer(4, Err(not_here)),
        ];
        assert_eq!(verdicts(&each), [Good, Bad, Note, Bad]);
    }

    #[test]
    fn clocks_a_minute_apart_are_noted_with_the_way() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let of = |theirs, ours| of_clock(Some((at(theirs), at(ours))));
        assert_eq!(of(1_000, 1_060).verdict, Verdict::Good);
        assert_eq!(of(1_060, 1_000).verdict, Verdict::Good);
        assert_eq!(of(1_000, 1_061).what, "61 s ahead of the panel's");
        assert_eq!(of(9_000, 1_000).what, "8000 s behind the panel's");
        assert_eq!(of_clock(None).verdict, Verdict::Note);
    }
}
