//! Reads the whole configuration: environment over file over defaults, and everything that is
//! wrong at once. The only reader of variables and of the file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problems::{Complaint, Found, Place, Problems};
use super::source::Source;
use super::toml_file::TomlFile;
use super::{
    ApplyMode, Brake, Config, DEFAULT_FILE, Environment, Hook, Kick, Log, Metrics, Output, Panel,
    Proxy, Sync, Traffic, addresses, http, kernel, nodes, token, unknown, values, xrays,
};
use crate::model::ids::NodeId;

/// Longest wait for one thing.
const TIMEOUT_MAX: Duration = Duration::from_hours(1);
/// Longest pause between two rounds: a node that is not looked at for longer is not kept equal.
const INTERVAL_MAX: Duration = Duration::from_hours(24);
/// Longest pause between two readings of the counters: what an Xray that restarts had counted since
/// the last one is lost.
const COLLECT_INTERVAL_MAX: Duration = Duration::from_hours(1);
/// Most bytes of an answer that may be asked for; it is held in memory.
const BODY_BYTES_MAX: usize = 1 << 30;
/// Most users that may be asked for; more than any Xray serves.
const USERS_MAX: usize = 10_000_000;
/// Most polls that a removal can wait for.
const POLLS_MAX: u32 = 1000;
/// Most users whose traffic may be asked for by their rank; for more there is `per_user`.
const TOP_MAX: usize = 1000;
/// The folder in `output.dir` that holds the state where nothing else is said.
const STATE_FOLDER: &str = ".xray-agent";

/// Where values are taken from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The variables.
    pub environment: Environment,
    /// `--config`; without it [`DEFAULT_FILE`] is read if it is there.
    pub file: Option<PathBuf>,
}

impl Sources {
    /// The file that is read, whether it is there or not.
    pub fn file_in_use(&self) -> PathBuf {
        self.file
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_FILE))
    }
}

/// What the configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To run.
    Run,
    /// To be told whether it would run: the same is asked of it as for `Run`.
    Check,
    /// To cut connections for the agent: the same inbounds as for `Run`. The panel's token is not read,
    /// and its panel is `None`.
    Cut,
    /// To speak to the panel alone: no list of nodes is needed, and none is given.
    Panel,
    /// To bring one node to a given list over gRPC: neither panel nor list of nodes is needed.
    Apply {
        /// The node.
        node: NodeId,
    },
}

/// Reads the configuration. Whoever gets it need not check anything again.
pub fn read(sources: &Sources, need: Need) -> Result<Config, Problems> {
    read_or_default(sources, need, Path::new(DEFAULT_FILE))
}

/// [`read`], with another place to look where no file is named.
pub(super) fn read_or_default(
    sources: &Sources,
    need: Need,
    default_file: &Path,
) -> Result<Config, Problems> {
    let file = open(sources.file.as_deref(), default_file)?;
    let environment = sources.environment.clone();
    let source = Source {
        environment,
        file,
        found: Found::default(),
    };
    if let Some(file) = &source.file {
        unknown::report(file, &source.found);
    }
    let config = config(&source, need);
    source.found.settle(config)
}

/// The file that holds the panel's token: the configuration's own, or the one that it or the
/// environment names. `None`: there is no token, or a variable or systemd's credentials hold it.
pub fn token_file(sources: &Sources) -> Option<PathBuf> {
    let file = open(sources.file.as_deref(), Path::new(DEFAULT_FILE)).ok()?;
    let source = Source {
        environment: sources.environment.clone(),
        file,
        found: Found::default(),
    };
    token::read(&source).ok()??.file
}

fn open(named: Option<&Path>, default_file: &Path) -> Result<Option<TomlFile>, Problems> {
    let Some(path) = named else {
        return TomlFile::open(default_file).map_err(Problems::new);
    };
    let file = TomlFile::open(path).map_err(Problems::new)?;
    file.map(Some).ok_or_else(|| {
        let place = Place::File {
            path: path.to_owned(),
            line: None,
            key: String::new(),
        };
        let mend = "name the right file, or leave --config out to use the environment alone";
        Problems::new(vec![
            Complaint::new("there is no such file", mend).at(&place),
        ])
    })
}

fn config(source: &Source, need: Need) -> Config {
    let hook = hook(source);
    let mode = mode(source, need, &hook);
    let xrays = xrays::read(source);
    let output = output(source);
    let http = http::read(source);
    let nodes = nodes::read(source, need, mode, &xrays);
    let kernel = kernel::read(source, need, &http, &nodes);
    // Whoever pushes needs a listener to push to.
    let pushed = kernel.is_on() && http.listen.is_some();
    Config {
        panel: panel(source, need, pushed),
        mode,
        nodes,
        xrays,
        hook,
        kick: kick(source),
        sync: sync(source),
        traffic: traffic(source),
        metrics: metrics(source),
        state_dir: state_dir(source, &output.dir),
        output,
        http,
        kernel,
        log: log(source),
    }
}

/// The panel that is polled. Where one pushes instead, there need be none; but one whose address is
/// set and whose key is not is no such case: its users would lose their access for a mistake.
fn panel(source: &Source, need: Need, pushed: bool) -> Option<Panel> {
    let section = source.section("panel");
    let runs = matches!(need, Need::Run | Need::Check);
    if runs && pushed && section.raw("url").is_none() && matches!(token::read(source), Ok(None)) {
        return None;
    }
    let url = section.value("url", addresses::panel_url);
    let timeout = section.value("timeout", values::duration(TIMEOUT_MAX));
    let proxy = section.optional("proxy", addresses::proxy).map(Proxy);
    let body_bytes_max = section.value("body_bytes_max", values::integer(1024..=BODY_BYTES_MAX));
    let users_max = section.value("users_max", values::integer(1..=USERS_MAX));
    let needed = || token::read(source).and_then(|token| token.ok_or_else(token::missing));
    let token = match need {
        Need::Run | Need::Check | Need::Panel => source.note(needed()),
        // Whoever applies by hand may well not be the user that can read the token.
        Need::Apply { .. } => token::read(source).ok().flatten(),
        Need::Cut => None,
    };
    Some(Panel {
        url,
        token: token?.secret,
        timeout,
        proxy,
        body_bytes_max,
        users_max,
    })
}

fn hook(source: &Source) -> Hook {
    let section = source.section("apply");
    Hook {
        command: section.optional("command", command),
        timeout: section.value("timeout", values::duration(TIMEOUT_MAX)),
    }
}

fn kick(source: &Source) -> Kick {
    let section = source.section("apply");
    Kick {
        enabled: section.value("kick", values::kick),
        socket: section.value("kick_socket", values::path),
        ports: section.optional("kick_ports", values::ports),
        block_outbound: section.optional("block_outbound", values::text),
    }
}

/// The hook's command; not one of those for Windows that the connector also ran.
fn command(text: &str) -> values::Read<String> {
    let words = text.split(|c: char| c.is_whitespace() || "\"'`;|&()".contains(c));
    let program = |word: &str| {
        let name = word
            .rsplit(['/', '\\'])
            .next()
            .unwrap_or(word)
            .to_lowercase();
        name.strip_suffix(".exe")
            .map_or(name.clone(), str::to_owned)
    };
    if words
        .map(program)
        .any(|name| name == "powershell" || name == "pwsh")
    {
        let what = "is a PowerShell command, and hooks run on Linux only";
        let mend = "use a sh command, such as bash ./apply.sh {node_id} {uuids_file}";
        return Err(Complaint::new(what, mend));
    }
    Ok(text.to_owned())
}

fn mode(source: &Source, need: Need, hook: &Hook) -> ApplyMode {
    let section = source.section("apply");
    let set = section.optional("mode", values::apply_mode);
    if let Need::Apply { .. } = need {
        return ApplyMode::XrayGrpc;
    }
    let default = if hook.command.is_some() {
        ApplyMode::Cmd
    } else {
        ApplyMode::None
    };
    let mode = set.unwrap_or(default);
    if mode == ApplyMode::Cmd && section.raw("command").is_none() {
        let what = "is cmd, but there is no command";
        let mend = "set APPLY_CMD (command under [apply] in the file), or another mode";
        let place = section
            .raw("mode")
            .map_or_else(|| section.place("mode"), |raw| raw.place);
        source.found.report(&place, Complaint::new(what, mend));
    }
    mode
}

fn sync(source: &Source) -> Sync {
    let section = source.section("sync");
    let polls = |name| section.value(name, values::integer(1..=POLLS_MAX));
    Sync {
        interval: section.value("interval", values::duration(INTERVAL_MAX)),
        resync_interval: section.value("resync_interval", values::duration(INTERVAL_MAX)),
        brake: Brake {
            confirm_polls: polls("confirm_polls"),
            confirm_polls_all: polls("confirm_polls_all"),
        },
    }
}

fn traffic(source: &Source) -> Traffic {
    let section = source.section("traffic");
    let collect_interval = values::duration(COLLECT_INTERVAL_MAX);
    Traffic {
        enabled: section.value("enabled", values::boolean),
        report_interval: section.value("report_interval", values::duration(INTERVAL_MAX)),
        collect_interval: section.value("collect_interval", collect_interval),
        on_unknown: section.value("on_unknown", values::on_unknown),
        first_read: section.value("first_read", values::first_read),
    }
}

fn metrics(source: &Source) -> Metrics {
    let section = source.section("metrics");
    let top = section.value("top", values::integer(0..=TOP_MAX));
    if section.value("per_user", values::boolean) {
        Metrics::PerUser
    } else {
        Metrics::Top(top)
    }
}

fn output(source: &Source) -> Output {
    let section = source.section("output");
    Output {
        dir: section.value("dir", values::path),
        mode: section.value("mode", values::file_mode),
    }
}

/// What is set, else what systemd made, else a folder beside the output.
fn state_dir(source: &Source, output_dir: &Path) -> PathBuf {
    let set = source.section("state").optional("dir", values::path);
    let from_systemd = || {
        let folders = source.variable("STATE_DIRECTORY")?;
        let first = folders.text.split(':').find(|folder| !folder.is_empty())?;
        values::path(first).ok()
    };
    set.or_else(from_systemd)
        .unwrap_or_else(|| output_dir.join(STATE_FOLDER))
}

fn log(source: &Source) -> Log {
    let section = source.section("log");
    Log {
        format: section.optional("format", values::log_format),
        filter: section.value("filter", values::text),
    }
}
