//! The unit under systemd, as `systemctl show` tells of it; or, without systemd, whether an agent runs.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::finding::Finding;

const CHECK: &str = "unit";
/// There is such a folder where systemd is in charge (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";
/// It answers within milliseconds; a bus that hangs is not waited for.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const UNIT: &str = "xray-agent.service";
const PROPERTIES: &str = "LoadState,UnitFileState,ActiveState,SubState,Result,ExecMainStatus";

/// `running`: who holds the state folder, if an agent runs on it.
pub(super) async fn check(running: Option<&str>) -> Finding {
    if !Path::new(BOOTED).is_dir() {
        return without_systemd(running);
    }
    let asked = Command::new("systemctl")
        .args(["show", "--no-pager", "--property", PROPERTIES, UNIT])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(ANSWER_MAX, asked).await {
        Ok(Ok(output)) if output.status.success() => {
            of_properties(&String::from_utf8_lossy(&output.stdout), running)
        }
        Ok(Ok(output)) => unknown(&String::from_utf8_lossy(&output.stderr)),
        Ok(Err(error)) => unknown(&error.to_string()),
        Err(_) => unknown(&format!("no answer within {ANSWER_MAX:?}")),
    }
}

fn unknown(why: &str) -> Finding {
    let first = why.lines().next().unwrap_or_default();
    Finding::note(CHECK, format!("cannot tell: systemctl: {first}"))
}

fn without_systemd(running: Option<&str>) -> Finding {
    match running {
        Some(who) => Finding::good(
            CHECK,
            format!("systemd is not in charge here; the {who} runs"),
        ),
        None => Finding::note(CHECK, "systemd is not in charge here, and no agent is seen"),
    }
}

fn of_properties(shown: &str, running: Option<&str>) -> Finding {
    let of: HashMap<&str, &str> = shown
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let get = |name| of.get(name).copied().unwrap_or_default();
    let enabled = get("UnitFileState");
    match (get("LoadState"), get("ActiveState"), running) {
        ("masked", ..) => Finding::bad(CHECK, format!("{UNIT} is masked")).mend(format!(
            "systemctl unmask {UNIT} && systemctl enable --now {UNIT}"
        )),
        ("loaded", "active", _) if enabled == "enabled" => {
            Finding::good(CHECK, format!("{UNIT} is active and enabled"))
        }
        ("loaded", "active", _) => Finding::note(
            CHECK,
            format!("{UNIT} is active, but {enabled}: a reboot ends it"),
        )
        .mend(format!("systemctl enable {UNIT}")),
        ("loaded", "activating", _) if get("SubState") != "auto-restart" => {
            Finding::good(CHECK, format!("{UNIT} is starting"))
        }
        ("loaded", "failed" | "activating", _) => failed(get("Result"), get("ExecMainStatus")),
        (_, _, Some(who)) => Finding::good(CHECK, format!("{UNIT} is not active; the {who} runs")),
        ("loaded", state, None) => Finding::note(CHECK, format!("{UNIT} is {state}, {enabled}"))
            .mend(format!("systemctl enable --now {UNIT}")),
        _ => Finding::note(CHECK, format!("there is no {UNIT}, and no agent is seen"))
            .mend("docs/install.md says how to install it; without systemd, run: xray-agent run"),
    }
}

fn failed(result: &str, status: &str) -> Finding {
    let why = match status {
        "2" => "its configuration was refused (exit code 2)".to_owned(),
        status => format!("{result}, exit code {status}"),
    };
    Finding::bad(CHECK, format!("{UNIT} has failed: {why}"))
        .mend(format!("journalctl -u {UNIT} -n 20 --no-pager"))
        .mend(format!("systemctl restart {UNIT}"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::{self, Bad, Good, Note};
    use super::*;

    #[test]
    fn the_state_that_systemd_tells_is_judged() {
        let table: [(&str, Option<&str>, Verdict, &str); 9] = [
            (
                "loaded enabled active running",
                None,
                Good,
                "active and enabled",
            ),
            ("loaded disabled active running", None, Note, "but disabled"),
            ("loaded enabled failed failed", None, Bad, "exit code 2"),
            (
                "loaded enabled activating auto-restart",
                None,
                Bad,
                "has failed",
            ),
            ("loaded enabled activating start", None, Good, "is starting"),
            (
                "loaded disabled inactive dead",
                None,
                Note,
                "is inactive, disabled",
            ),
            (
                "loaded enabled inactive dead",
                Some("agent, process 1"),
                Good,
                "process 1 runs",
            ),
            ("not-found  inactive dead", None, Note, "there is no"),
            ("masked masked inactive dead", None, Bad, "is masked"),
        ];
        for (state, running, verdict, words) in table {
            let mut parts = state.split(' ');
            let mut next = || parts.next().unwrap_or_default();
            let shown = format!(
                "Result=exit-code\nExecMainStatus=2\nLoadState={}\nUnitFileState={}\n\
                 ActiveState={}\nSubState={}\n",
                next(),
                next(),
                next(),
                next()
            );
            let found = of_properties(&shown, running);
            assert_eq!(found.verdict, verdict, "{state}: {found:?}");
            assert!(found.what.contains(words), "{state}: {found:?}");
        }
    }

    #[test]
    fn without_systemd_a_running_agent_is_enough() {
        assert_eq!(without_systemd(Some("agent, process 1")).verdict, Good);
        assert_eq!(without_systemd(None).verdict, Note);
    }
}
