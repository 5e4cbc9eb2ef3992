//! The control plane of a panel that pushes (`kernel.md`): by which credentials it is opened, what
//! its callbacks may reach, and which panel is told without having asked. Kept here: a basic
//! credential is whole or not there, and each binding is of an inbound that is managed.

use std::path::PathBuf;

use url::Url;

use super::problems::Complaint;
use super::source::{Section, Source};
use super::values::{self, Read, quoted};
use super::{Http, Need, Node, addresses, http};
use crate::base::secret::Secret;
use crate::model::allowed::Allowed;
use crate::model::health::Thresholds;

/// Longest name of a caller, in bytes: it stands in each record of what was done.
const ACCESS_KEY_BYTES_MAX: usize = 128;
/// Most failures that may be waited for; a node that fails so often has failed for hours.
const FAILURES_MAX: u32 = 1000;
/// Most records of calls: a gigabyte of them.
const AUDIT_KEEP_MAX: usize = 10_000_000;

/// The control plane of a panel that pushes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// The user of basic authentication; set together with `secret_key`.
    pub access_key: Option<String>,
    /// Its password.
    pub secret_key: Option<Secret>,
    /// A bearer token that opens the same.
    pub token: Option<Secret>,
    /// It answers without a credential, too: `http.allow_insecure`, so on loopback only.
    pub allow_insecure: bool,
    /// What registered callbacks may reach of this host and of private networks.
    pub callbacks_allow: Vec<Allowed>,
    /// Failures in a row from which on a node is degraded.
    pub degraded_after: u32,
    /// Failures in a row from which on it is unhealthy; not under `degraded_after`.
    pub unhealthy_after: u32,
    /// Under which exports may be written; absolute. `None`: nowhere.
    pub export_dir: Option<PathBuf>,
    /// Where Xray's geo data lies; absolute.
    pub geo_dir: Option<PathBuf>,
    /// Records kept of calls that changed something.
    pub audit_keep: usize,
    /// The panel that is told of nodes and traffic without having registered.
    pub panel: Option<KernelPanel>,
}

/// A panel that is told without having registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelPanel {
    /// Base address, without a slash at its end.
    pub url: Url,
    /// Sent as `X-ZNP-Webhook-Token`.
    pub token: Secret,
    /// By which numbers it knows inbounds; inbounds differ.
    pub bindings: Vec<Binding>,
}

/// By which numbers a panel knows an inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The inbound's kernel id.
    pub inbound: String,
    /// The panel's number of the node.
    pub node_id: u64,
    /// The panel's number of the binding.
    pub binding_id: u64,
}

impl Kernel {
    /// Whether anybody can get in: by a credential, or as none is asked for.
    pub fn is_on(&self) -> bool {
        self.secret_key.is_some() || self.token.is_some() || self.allow_insecure
    }

    /// From how many failures on a node is how.
    pub fn thresholds(&self) -> Thresholds {
        Thresholds {
            degraded: self.degraded_after,
            unhealthy: self.unhealthy_after,
        }
    }
}

/// The section as it is set; bindings are held against `nodes` where `need` reads all of them.
pub(super) fn read(source: &Source, need: Need, http: &Http, nodes: &[Node]) -> Kernel {
    let section = source.section("kernel");
    let (access_key, secret_key) = basic(&section);
    let failures = |name| section.value(name, values::integer(1..=FAILURES_MAX));
    let kernel = Kernel {
        access_key,
        secret_key,
        token: section.optional("token", http::secret),
        allow_insecure: http.allow_insecure,
        callbacks_allow: section
            .optional("callbacks_allow", allowed)
            .unwrap_or_default(),
        degraded_after: failures("degraded_after"),
        unhealthy_after: failures("unhealthy_after"),
        export_dir: section.optional("export_dir", values::path),
        geo_dir: section.optional("geo_dir", values::path),
        audit_keep: section.value("audit_keep", values::integer(1..=AUDIT_KEEP_MAX)),
        panel: panel(source, need, nodes),
    };
    if kernel.degraded_after > kernel.unhealthy_after {
        let what = format!("is under degraded_after, {}", kernel.degraded_after);
        let mend = "set it to that or more";
        report(
            &section,
            source,
            "unhealthy_after",
            Complaint::new(what, mend),
        );
    }
    kernel
}

/// User and password, together.
fn basic(section: &Section<'_>) -> (Option<String>, Option<Secret>) {
    let user = section.optional("access_key", access_key);
    let password = section.optional("secret_key", http::secret);
    together(section, "access_key", "secret_key");
    (user, password)
}

/// Of two keys neither or both are set.
fn together(section: &Section<'_>, one: &'static str, other: &'static str) {
    let lacks = match (section.raw(one).is_some(), section.raw(other).is_some()) {
        (true, false) => (other, one),
        (false, true) => (one, other),
        _ => return,
    };
    let what = format!("is not set, but {} is", lacks.1);
    let mend = format!("set both, or take {} out", lacks.1);
    section.report(lacks.0, Complaint::new(what, mend));
}

fn report(section: &Section<'_>, source: &Source, name: &str, complaint: Complaint) {
    let raw = section.raw(name);
    let place = raw.map_or_else(|| section.place(name), |raw| raw.place);
    source.found.report(&place, complaint);
}

fn access_key(text: &str) -> Read<String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    if text.len() <= ACCESS_KEY_BYTES_MAX && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    let what = format!("{} cannot be the user of a basic credential", quoted(text));
    let mend = format!(
        "use at most {ACCESS_KEY_BYTES_MAX} characters of ASCII, without spaces and colons"
    );
    Err(Complaint::new(what, mend))
}

/// What callbacks may reach, between commas.
fn allowed(text: &str) -> Read<Vec<Allowed>> {
    let entry = |part: &str| {
        part.parse::<Allowed>().map_err(|e| {
            let what = format!("{} is no target: {}", quoted(part), e.why());
            Complaint::new(what, Allowed::EXAMPLE)
        })
    };
    let parts = text.split(',').map(str::trim);
    parts.filter(|part| !part.is_empty()).map(entry).collect()
}

fn panel(source: &Source, need: Need, nodes: &[Node]) -> Option<KernelPanel> {
    let section = source.section("kernel.panel");
    let url = section.optional("url", addresses::panel_url);
    let token = section.optional("token", panel_token);
    together(&section, "url", "token");
    let known = matches!(need, Need::Run | Need::Check | Need::Cut).then_some(nodes);
    let mut bindings: Vec<Binding> = Vec::new();
    for table in source.sections("kernel.panel.bindings") {
        let Some(binding) = binding(source, &table, known) else {
            continue;
        };
        if bindings.iter().any(|it| it.inbound == binding.inbound) {
            let what = format!("another binding is of {}, too", binding.inbound);
            table.report("inbound", Complaint::new(what, "keep one of them"));
        }
        bindings.push(binding);
    }
    if !bindings.is_empty() && section.raw("url").is_none() {
        let what = "is not set, but there are bindings";
        let mend = "set it to the panel's address, or take the bindings out";
        section.report("url", Complaint::new(what, mend));
    }
    Some(KernelPanel {
        url: url?,
        token: token?,
        bindings,
    })
}

/// What is sent in a header. The panel chose it, so its length is the panel's business.
fn panel_token(text: &str) -> Read<Secret> {
    if text.bytes().all(|it| it.is_ascii_graphic()) {
        return Ok(Secret::new(text));
    }
    let what = "holds something else than ASCII without spaces";
    Err(Complaint::new(
        what,
        "write the panel's webhook token as one word",
    ))
}

fn binding(source: &Source, table: &Section<'_>, known: Option<&[Node]>) -> Option<Binding> {
    let inbound = required(source, table, "inbound", values::kernel_id);
    let number = |name| required(source, table, name, values::integer(1..=u64::MAX));
    let (node_id, binding_id) = (number("node_id"), number("binding_id"));
    let inbound = inbound?;
    let inbounds = known.into_iter().flatten().flat_map(|node| &node.inbounds);
    let mut ids: Vec<&str> = inbounds.map(|it| it.kernel_id.as_str()).collect();
    ids.sort_unstable();
    if known.is_some() && !ids.contains(&inbound.as_str()) {
        let what = format!("no inbound here has the kernel_id {inbound}");
        let mend = if ids.is_empty() {
            "name the inbounds under [[node]] first".to_owned()
        } else {
            format!("give one of {}", ids.join(", "))
        };
        table.report("inbound", Complaint::new(what, mend));
    }
    Some(Binding {
        inbound,
        node_id: node_id?,
        binding_id: binding_id?,
    })
}

/// A key without which its table means nothing.
fn required<T>(
    source: &Source,
    table: &Section<'_>,
    name: &str,
    parse: impl Fn(&str) -> Read<T>,
) -> Option<T> {
    if !table.has(name) {
        table.report(name, Complaint::new("is missing", "add it here"));
    }
    source.note(table.in_file(name)?.read(parse))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LEAST, read_both};
    use super::super::{Config, Need, Problems};
    use super::*;

    fn read(file: &str, pairs: &[(&str, &str)]) -> Result<Config, Problems> {
        read_both(file, &[&LEAST, pairs].concat(), Need::Run)
    }

    fn kernel(file: &str, pairs: &[(&str, &str)]) -> Kernel {
        read(file, pairs).unwrap_or_else(|e| panic!("{e}")).kernel
    }

    fn problem(file: &str, pairs: &[(&str, &str)]) -> String {
        read(file, pairs).unwrap_err().to_string()
    }

    const LONG: &str = "canary-0123456789";

    #[test]
    fn nobody_gets_in_until_a_credential_is_set_or_none_is_asked_for() {
        let off = kernel("", &[]);
        assert!(!off.is_on() && off.panel.is_none() && off.callbacks_allow.is_empty());
        assert_eq!(off.thresholds(), Thresholds::default());
        assert_eq!(
            (off.export_dir, off.geo_dir, off.audit_keep),
            (None, None, 100_000)
        );
        assert!(kernel("", &[("KERNEL_TOKEN", LONG)]).is_on());
        assert!(kernel("", &[("HTTP_ALLOW_INSECURE", "true")]).is_on());
        let basic = [("KERNEL_ACCESS_KEY", "panel"), ("KERNEL_SECRET_KEY", LONG)];
        let basic = kernel("", &basic);
        assert!(basic.is_on());
        assert_eq!(basic.access_key.as_deref(), Some("panel"));
        assert_eq!(basic.secret_key.unwrap().expose(), LONG);
    }

    #[test]
    fn a_basic_credential_is_whole_and_no_message_shows_a_secret() {
        let said = problem("", &[("KERNEL_ACCESS_KEY", "panel")]);
        assert!(said.contains("is not set, but access_key is"), "{said}");
        let said = problem("", &[("KERNEL_SECRET_KEY", LONG)]);
        assert!(said.contains("is not set, but secret_key is"), "{said}");
        for name in ["KERNEL_TOKEN", "KERNEL_SECRET_KEY"] {
            let said = problem("", &[("KERNEL_ACCESS_KEY", "a"), (name, "canary")]);
            assert!(said.contains("is not 16 or more"), "{said}");
            assert!(!said.contains("canary"), "{said}");
        }
        let pairs = [("KERNEL_ACCESS_KEY", "a:b"), ("KERNEL_SECRET_KEY", LONG)];
        assert!(problem("", &pairs).contains("cannot be the user"));
    }

    #[test]
    fn what_callbacks_may_reach_is_read_at_once() {
        let allow = [("KERNEL_CALLBACKS_ALLOW", "10.0.0.0/8, hooks.internal:80,")];
        let entries = kernel("", &allow).callbacks_allow;
        let expected = ["10.0.0.0/8", "hooks.internal:80"].map(|it| it.parse().unwrap());
        assert_eq!(entries, expected);
        let said = problem("", &[("KERNEL_CALLBACKS_ALLOW", "10.0.0.0/33")]);
        assert!(
            said.contains("is no target: after the / stands no length"),
            "{said}"
        );
    }

    #[test]
    fn a_node_is_not_unhealthy_before_it_is_degraded() {
        let file = "[kernel]\ndegraded_after = 4\n";
        assert!(problem(file, &[]).contains("is under degraded_after, 4"));
        let file = "[kernel]\ndegraded_after = 4\nunhealthy_after = 4\n";
        assert_eq!(kernel(file, &[]).thresholds().unhealthy, 4);
    }

    #[test]
    fn who_is_pushed_to_needs_no_panel_to_poll() {
        let without = |pairs: &[(&str, &str)]| {
            let ids = [("NODE_IDS", "1")];
            read_both("", &[&ids, pairs].concat(), Need::Run).map(|it| it.panel)
        };
        assert!(without(&[]).is_err());
        assert!(without(&[("KERNEL_TOKEN", LONG)]).unwrap().is_none());
        let unheard = [("KERNEL_TOKEN", LONG), ("HTTP_LISTEN", "off")];
        assert!(without(&unheard).is_err());
        let keyless = [("KERNEL_TOKEN", LONG), ("PANEL_BASE_URL", "http://p")];
        let said = without(&keyless).unwrap_err().to_string();
        assert!(said.contains("INTERNAL_API_KEY: is not set"), "{said}");
        let both = [("KERNEL_TOKEN", LONG), ("INTERNAL_API_KEY", "k")];
        assert!(without(&both).unwrap().is_some());
    }

    /// A panel, and a binding of `inbound`.
    fn panel_with(inbound: &str) -> String {
        format!(
            "[[node]]\nid = 1\ninbounds = [\"in-a\"]\n[kernel.panel]\nurl = \"http://p:1\"\n\
             token = \"canary\"\n[[kernel.panel.bindings]]\ninbound = \"{inbound}\"\n\
             node_id = 7\nbinding_id = 8\n"
        )
    }

    #[test]
    fn bindings_are_of_managed_inbounds_each_of_one() {
        let right = panel_with("in-a");
        let panel = kernel(&right, &[]).panel.unwrap();
        assert_eq!(
            (panel.url.as_str(), panel.token.expose()),
            ("http://p:1/", "canary")
        );
        let binding = Binding {
            inbound: "in-a".into(),
            node_id: 7,
            binding_id: 8,
        };
        assert_eq!(panel.bindings, [binding]);
        let said = problem(&panel_with("in-b"), &[]);
        assert!(
            said.contains("no inbound here has the kernel_id in-b; give one of in-a"),
            "{said}"
        );
        let binding = &right[right.find("[[kernel").unwrap()..];
        let said = problem(&format!("{right}{binding}"), &[]);
        assert!(said.contains("another binding is of in-a, too"), "{said}");
        let said = problem(&right.replace("node_id = 7\n", ""), &[]);
        assert!(
            said.contains("kernel.panel.bindings.node_id: is missing"),
            "{said}"
        );
        let said = problem(&right.replace("token", "tokn"), &[]);
        assert!(said.contains("did you mean token?"), "{said}");
        let said = problem(&right.replace("token = \"canary\"", ""), &[]);
        assert!(said.contains("is not set, but url is"), "{said}");
        let no_panel = right.replace("url = \"http://p:1\"\ntoken = \"canary\"", "");
        assert!(problem(&no_panel, &[]).contains("but there are bindings"));
    }
}
