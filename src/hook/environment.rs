//! What a hook finds in its environment: ours, without what is secret or speaks to the service
//! manager, and with what the hook is about. Pure.

use std::ffi::OsString;

use super::run::HookCall;

/// Marks every process of a hook; its value is this agent process's own random token.
pub(super) const TOKEN: &str = "XRAY_AGENT_HOOK";

/// Where secrets lie, and the service manager's own: a hook that speaks for us to systemd, or
/// takes our sockets, would be us.
const WITHHELD: [&str; 11] = [
    "INTERNAL_API_KEY",
    "INTERNAL_API_KEY_FILE",
    "AUTH_KEYS_FILE",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
];

/// Ends of names that hold secrets, as everybody calls them, and `…_FILE` with their paths.
const SECRET_ENDS: [&str; 4] = ["_TOKEN", "_SECRET", "_PASSWORD", "_KEY"];

/// The hook's whole environment.
pub(super) fn environment(
    inherited: impl IntoIterator<Item = (OsString, OsString)>,
    call: &HookCall,
    token: &str,
) -> Vec<(OsString, OsString)> {
    let ours = [
        (TOKEN, token.into()),
        ("XRAY_AGENT_NODE_ID", call.node.to_string().into()),
        (
            "XRAY_AGENT_UUIDS_FILE",
            call.uuids_file.clone().into_os_string(),
        ),
        (
            "XRAY_AGENT_UUIDS_JSON",
            call.uuids_json.clone().into_os_string(),
        ),
    ];
    inherited
        .into_iter()
        .filter(|(name, _)| {
            !is_withheld(&name.to_string_lossy()) && ours.iter().all(|(our, _)| name != our)
        })
        .chain(
            ours.iter()
                .map(|(name, value)| (name.into(), value.clone())),
        )
        .collect()
}

fn is_withheld(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let about = name.strip_suffix("_FILE").unwrap_or(&name);
    let about = format!("_{}", about.strip_suffix('S').unwrap_or(about));
    WITHHELD.contains(&name.as_str())
        || name.starts_with("XRAY_AGENT_SECRET")
        || SECRET_ENDS.iter().any(|end| about.ends_with(end))
}

#[cfg(test)]
mod tests {
    use crate::model::ids::NodeId;

    use super::*;

    fn names(inherited: &[&str]) -> Vec<String> {
        let call = HookCall {
            node: NodeId(3),
            uuids_file: "/t".into(),
            uuids_json: "/j".into(),
        };
        let inherited = inherited
            .iter()
            .map(|name| (name.into(), "inherited".into()));
        environment(inherited, &call, "tok")
            .into_iter()
            .map(|(name, value)| format!("{}={}", name.display(), value.display()))
            .collect()
    }

    const OURS: [&str; 4] = [
        "XRAY_AGENT_HOOK=tok",
        "XRAY_AGENT_NODE_ID=3",
        "XRAY_AGENT_UUIDS_FILE=/t",
        "XRAY_AGENT_UUIDS_JSON=/j",
    ];

    #[test]
    fn secrets_and_service_plumbing_are_withheld() {
        let mut all = WITHHELD.to_vec();
        all.extend([
            "TOKEN",
            "BOT_TOKEN",
            "JWT_SECRET",
            "my_password",
            "API_KEYS",
            "TLS_KEY",
        ]);
        all.extend([
            "JWT_SECRET_FILE",
            "XRAY_AGENT_SECRET_X",
            "XRAY_AGENT_NODE_ID",
        ]);
        assert_eq!(names(&all), OURS);
    }

    #[test]
    fn everything_else_is_inherited() {
        let kept = [
            "PATH",
            "HOME",
            "LANG",
            "OUTPUT_DIR",
            "KEYBOARD",
            "MONKEY",
            "LOG_FILE",
        ];
        let mut expected: Vec<_> = kept.map(|name| format!("{name}=inherited")).to_vec();
        expected.extend(OURS.map(str::to_owned));
        assert_eq!(names(&kept), expected);
    }
}
