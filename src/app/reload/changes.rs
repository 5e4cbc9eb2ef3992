//! What a configuration that was read anew changes, and what of it has to wait for a restart. Pure.

use crate::config::Config;

/// What is to be done for a new configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The sections that changed and take effect at once, as the file names them.
    pub(super) sections: Vec<&'static str>,
    /// What changed and takes effect at the next start only.
    pub(super) after_restart: Vec<&'static str>,
    /// The users' engine has to be built anew.
    pub(super) sync: bool,
    /// Traffic's engine has to be built anew.
    pub(super) traffic: bool,
}

/// The configuration by which to run from now on, and how it differs from `old`: what cannot change
/// in a running agent stays as it is.
pub(super) fn changes(old: &Config, new: Config) -> (Config, Changes) {
    let after_restart = [
        ("state.dir", old.state_dir != new.state_dir),
        ("http", old.http != new.http),
        ("log.format", old.log.format != new.log.format),
    ];
    let mut config = Config {
        state_dir: old.state_dir.clone(),
        http: old.http.clone(),
        ..new
    };
    config.log.format = old.log.format;
    config.kernel.allow_insecure = old.kernel.allow_insecure;
    let panel = old.panel != config.panel;
    let xray = old.xrays != config.xrays;
    let nodes = old.nodes != config.nodes;
    let mode = old.mode != config.mode;
    let apply = mode || old.hook != config.hook || old.kick != config.kick;
    let sync = old.sync != config.sync;
    let traffic = old.traffic != config.traffic;
    let output = old.output != config.output;
    let told = old.kernel.panel != config.kernel.panel;
    let at_once = [
        ("panel", panel),
        ("xray", xray),
        ("nodes", nodes),
        ("apply", apply),
        ("sync", sync),
        ("traffic", traffic),
        ("metrics", old.metrics != config.metrics),
        ("output", output),
        ("kernel", old.kernel != config.kernel),
        ("log", old.log != config.log),
    ];
    let changes = Changes {
        sections: named(at_once),
        after_restart: named(after_restart),
        sync: panel || xray || nodes || apply || sync || output,
        traffic: panel || told || xray || nodes || mode || traffic,
    };
    (config, changes)
}

fn named<const N: usize>(all: [(&'static str, bool); N]) -> Vec<&'static str> {
    let changed = all.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Need, Sources, read};

    const BASE: [(&str, &str); 2] = [("INTERNAL_API_KEY", "k"), ("NODE_IDS", "1")];

    fn config(more: &[(&str, &str)]) -> Config {
        let pairs = BASE.iter().chain(more).copied();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "").unwrap();
        let sources = Sources {
            environment: Environment::from_pairs(pairs),
            file: Some(file),
        };
        read(&sources, Need::Run).unwrap()
    }

    fn between(old: &[(&str, &str)], new: &[(&str, &str)]) -> (Config, Changes) {
        changes(&config(old), config(new))
    }

    #[test]
    fn the_same_changes_nothing() {
        assert_eq!(between(&[], &[]).1, Changes::default());
    }

    #[test]
    fn each_setting_reaches_the_engines_that_it_is_for() {
        let cases = [
            ("PANEL_BASE_URL", "http://other:1", "panel", (true, true)),
            ("INTERNAL_API_KEY", "k2", "panel", (true, true)),
            ("NODE_IDS", "1,2", "nodes", (true, true)),
            ("XRAY_API_ADDR", "127.0.0.1:1", "xray", (true, true)),
            ("APPLY_TIMEOUT_SECONDS", "3", "apply", (true, false)),
            ("XRAY_KICK", "off", "apply", (true, false)),
            ("INTERVAL_SECONDS", "3", "sync", (true, false)),
            (
                "TRAFFIC_COLLECT_INTERVAL_SECONDS",
                "3",
                "traffic",
                (false, true),
            ),
            (
                "KERNEL_TOKEN",
                "another-0123456789",
                "kernel",
                (false, false),
            ),
            ("RUST_LOG", "debug", "log", (false, false)),
        ];
        for (name, value, section, (sync, traffic)) in cases {
            let changes = between(&[], &[(name, value)]).1;
            let expected = Changes {
                sections: vec![section],
                after_restart: Vec::new(),
                sync,
                traffic,
            };
            assert_eq!(changes, expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_change_stays_and_is_told_beside_what_can() {
        let new = [
            ("STATE_DIR", "/other"),
            ("HTTP_LISTEN", "127.0.0.1:1"),
            ("LOG_FORMAT", "json"),
            ("INTERVAL_SECONDS", "3"),
        ];
        let old = config(&[("STATE_DIR", "/s")]);
        let (config, changes) = changes(&old, config(&new));
        assert_eq!(changes.after_restart, ["state.dir", "http", "log.format"]);
        assert_eq!(changes.sections, ["sync"]);
        assert_eq!(
            (config.state_dir, config.http, config.log),
            (old.state_dir, old.http, old.log)
        );
    }
}
