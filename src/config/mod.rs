//! The configuration: what it is once it has been read and found right. Where each value comes
//! from (environment, file, default) is decided in `read`; nothing else reads the environment.

mod addresses;
mod clashes;
mod env;
mod example;
mod http;
mod kernel;
mod keys;
mod nodes;
mod problems;
mod read;
mod source;
mod token;
mod toml_file;
mod unknown;
mod values;
mod xrays;

#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod problem_tests;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use crate::base::secret::Secret;
use crate::model::ids::{InboundTag, NodeId};
use crate::model::ports::PortRange;

pub use env::Environment;
pub use example::{EXAMPLE, example_with, is_untouched};
pub use http::{Http, Tls};
pub use kernel::{Binding, Kernel, KernelPanel};
pub use keys::reference;
pub use problems::{Problem, Problems};
pub use read::{Need, Sources, read, token_file};

/// Where the file is looked for when none is named.
pub const DEFAULT_FILE: &str = "/etc/xray-agent/config.toml";

/// Everything that is configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// The panel that is polled. `None` where one pushes instead and none is set, and for commands that
    /// need none (`Need::Apply`, `Need::Cut`).
    pub panel: Option<Panel>,
    /// What is done with the allowed users.
    pub mode: ApplyMode,
    /// The Xrays on this host, at least one; names differ.
    pub xrays: Vec<Xray>,
    /// The panel's nodes that are served here; ids differ.
    pub nodes: Vec<Node>,
    /// The hook of `ApplyMode::Cmd`.
    pub hook: Hook,
    /// What becomes of open sessions of users who are removed, in `ApplyMode::XrayGrpc`.
    pub kick: Kick,
    /// How often, and with which brake.
    pub sync: Sync,
    /// How users' traffic is counted and reported; holds in `ApplyMode::XrayGrpc` only.
    pub traffic: Traffic,
    /// What is shown to Prometheus of single users.
    pub metrics: Metrics,
    /// Where the files for other programs go.
    pub output: Output,
    /// Folder of locks, state and the control socket; absolute.
    pub state_dir: PathBuf,
    /// The HTTP server.
    pub http: Http,
    /// The control plane of a panel that pushes.
    pub kernel: Kernel,
    /// How the log is written.
    pub log: Log,
}

/// The panel's internal API (`panel-internal.md`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panel {
    /// Base address, without a slash at its end.
    pub url: url::Url,
    /// Sent as `x-internal-token`.
    pub token: Secret,
    /// For a whole request, body included.
    pub timeout: Duration,
    /// Proxy to reach it by (`http`, `https`, `socks5`, `socks5h`); the environment's are not used.
    pub proxy: Option<Proxy>,
    /// Most bytes of an answer's body, decompressed.
    pub body_bytes_max: usize,
    /// Most users in an answer.
    pub users_max: usize,
}

/// A proxy's address. It may hold a password: `Debug` shows scheme and host only.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy(pub url::Url);

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}://{}",
            self.0.scheme(),
            self.0.host_str().unwrap_or_default()
        )
    }
}

/// What is done with the allowed users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyMode {
    /// Reconcile running Xrays over gRPC.
    XrayGrpc,
    /// Run a command after each change.
    Cmd,
    /// Only keep the files.
    None,
}

impl ApplyMode {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::XrayGrpc => "xray-grpc",
            Self::Cmd => "cmd",
            Self::None => "none",
        }
    }
}

/// What becomes of open sessions of users who are removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kick {
    /// Whether they are cut wherever that can be done.
    pub enabled: bool,
    /// Where the privileged unit listens.
    pub socket: PathBuf,
    /// Where that unit cuts; `None`: on the ports that Xray tells.
    pub ports: Option<Vec<PortRange>>,
    /// A blackhole outbound for new streams of sessions that could not be cut.
    pub block_outbound: Option<String>,
}

/// One running Xray.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xray {
    /// Its name in configuration, status and log.
    pub name: String,
    /// Where its API listens.
    pub address: XrayAddress,
    /// For one call; bulk reads get six times as much.
    pub rpc_timeout: Duration,
    /// Most AlterInbound calls under way at once, for each inbound.
    pub in_flight: usize,
}

/// Where an Xray's API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XrayAddress {
    /// `host:port`.
    Tcp(String),
    /// `unix:/path`.
    Unix(PathBuf),
    /// `unix:@name`, in the abstract namespace; without the `@`.
    Abstract(String),
}

/// A node of the panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The panel's id of it.
    pub id: NodeId,
    /// The inbounds that serve it, at least one in `ApplyMode::XrayGrpc`.
    pub inbounds: Vec<Inbound>,
}

/// One inbound of an Xray, managed by us. No two nodes share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Name of the Xray that it is in.
    pub xray: String,
    /// Xray's tag.
    pub tag: InboundTag,
    /// Its name towards panels and in e-mails; only `[a-z0-9-]`, at least one.
    pub kernel_id: String,
    /// Flow of VLESS users.
    pub flow: Flow,
    /// Used only where Xray itself does not tell the protocol.
    pub protocol: Option<Protocol>,
    /// True where, as the connector did, the tag may tell the protocol when nothing else does.
    pub protocol_from_tag: bool,
    /// Shadowsocks' method, used only where no user of the inbound shows it.
    pub method: Option<String>,
    /// Policy level of the users that are added.
    pub level: u32,
    /// Remove users that are not ours, too.
    pub exclusive: bool,
}

/// Flow of VLESS users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Vision where the inbound carries it, else none.
    Auto,
    /// This one; empty for none.
    Given(String),
}

/// The protocols whose users Xray's API can change, as far as we serve them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// VLESS.
    Vless,
    /// VMess.
    Vmess,
    /// Trojan.
    Trojan,
    /// Shadowsocks with an AEAD cipher.
    Shadowsocks,
    /// Shadowsocks 2022, multi-user.
    Shadowsocks2022,
    /// Hysteria 2.
    Hysteria,
}

impl Protocol {
    /// Every protocol with its name in the configuration.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Vless, "vless"),
        (Self::Vmess, "vmess"),
        (Self::Trojan, "trojan"),
        (Self::Shadowsocks, "shadowsocks"),
        (Self::Shadowsocks2022, "shadowsocks-2022"),
        (Self::Hysteria, "hysteria"),
    ];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(p, _)| *p == self)
            .map_or("", |(_, name)| name)
    }
}

/// The hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Template; `Some` in `ApplyMode::Cmd`.
    pub command: Option<String>,
    /// Then it is ended, with everything it started.
    pub timeout: Duration,
}

/// How often the loop runs and what it must not do at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Between two polls.
    pub interval: Duration,
    /// At the latest after this the whole list of users is read from Xray.
    pub resync_interval: Duration,
    /// The brake's thresholds.
    pub brake: Brake,
}

/// When a removal of many users has to be confirmed by further polls (`design.md`, the brake).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brake {
    /// Polls that must agree while over half of the users, and over 20, would go.
    pub confirm_polls: u32,
    /// Polls that must agree while over nine tenths, and at least 2, would go.
    pub confirm_polls_all: u32,
}

/// How users' traffic is counted and reported (`design.md`, Traffic).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Whether it is counted at all.
    pub enabled: bool,
    /// Between two reports of a user to the panel.
    pub report_interval: Duration,
    /// Between two readings of an Xray's counters into the ledger.
    pub collect_interval: Duration,
    /// What is done with a report that the panel may have taken or not.
    pub on_unknown: OnUnknown,
    /// What becomes of bytes that a running Xray counted before the ledger was begun.
    pub first_read: FirstRead,
}

/// What is done with a report that the panel may have taken or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// `Resend` to a panel that has shown that it drops repeats, else `Hold`.
    Auto,
    /// It waits until somebody says what became of it.
    Hold,
    /// It is sent again: a panel that takes repeats counts it twice.
    Resend,
}

/// What becomes of bytes that a running Xray counted before the ledger was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstRead {
    /// They are shown and billed to nobody: another program may have reported them.
    Adopt,
    /// They are reported like all others.
    Count,
}

/// Which users' traffic is among the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metrics {
    /// The traffic of so many users, of those who move most; of none by default.
    Top(usize),
    /// Everybody's.
    PerUser,
}

/// The files for other programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// `node-<id>/…` lie in it; absolute.
    pub dir: PathBuf,
    /// Mode of those files.
    pub mode: u32,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON; `None`: text on a terminal, else JSON.
    pub format: Option<LogFormat>,
    /// Directives as of `RUST_LOG`.
    pub filter: String,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}
