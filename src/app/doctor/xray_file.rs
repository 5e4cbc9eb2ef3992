//! Xray's configuration file, as far as the agent depends on it: what lacks, and the same file with
//! what lacks merged in. Pure. Members are found as Xray finds them, without regard to case; nothing
//! that is there is taken out or changed.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::members::{items, list, member, member_or, object, spaced, text, texts};
use super::xray_text::{NotJson, read};
use crate::config::XrayAddress;
use crate::xray::abilities::Service;

/// The switches of a policy level that have traffic counted.
const COUNTED: [&str; 2] = ["statsUserUplink", "statsUserDownlink"];
/// The one that has it kept who is connected.
const ONLINE: &str = "statsUserOnline";
/// Protocols of an inbound behind which the API can be, as older Xrays have it.
const DOORS: [&str; 2] = ["dokodemo-door", "tunnel"];

/// What the agent needs of one Xray.
#[derive(Clone, Debug)]
pub(super) struct Needs {
    /// Where the agent asks its API.
    pub address: XrayAddress,
    /// Policy levels of the users that it adds.
    pub levels: BTreeSet<u32>,
    /// Whether it counts traffic.
    pub counts: bool,
    /// Whether it cuts sessions.
    pub cuts: bool,
    /// The outbound to which it sends who cannot be cut off.
    pub block_outbound: Option<String>,
}

/// Something that the file lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// No `api`, or one without a tag.
    Api,
    /// A service.
    Service(Service),
    /// The API listens nowhere.
    Listener,
    /// The API listens there, and the agent asks elsewhere.
    ListensAt(String),
    /// No `stats`.
    Stats,
    /// A level's switch.
    Switch(u32, &'static str),
    /// No `routing`.
    Routing,
    /// There is no outbound of that tag.
    Outbound(String),
    /// There is one, of that protocol.
    NoBlackhole(String, String),
}

/// What depends on something that lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concern {
    /// Reaching the API.
    Reaching,
    /// Changing users or reading counters.
    Services,
    /// Counting traffic, and knowing who is connected.
    Counting,
    /// Blocking who cannot be cut off.
    Blocking,
}

impl Lack {
    /// What depends on it.
    pub(super) fn concern(&self) -> Concern {
        match self {
            Self::Api | Self::Listener | Self::ListensAt(_) => Concern::Reaching,
            Self::Service(Service::Handler | Service::Stats) => Concern::Services,
            Self::Stats | Self::Switch(..) => Concern::Counting,
            Self::Service(Service::Routing)
            | Self::Routing
            | Self::Outbound(_)
            | Self::NoBlackhole(..) => Concern::Blocking,
        }
    }

    /// In words.
    pub(super) fn what(&self) -> String {
        match self {
            Self::Api => "it has no \"api\" with a tag".to_owned(),
            Self::Service(service) => format!("its \"api\" does not offer {}", service.name()),
            Self::Listener => "its API listens nowhere".to_owned(),
            Self::ListensAt(address) => format!("its API listens at {address}"),
            Self::Stats => "it has no \"stats\"".to_owned(),
            Self::Switch(level, name) => format!("its policy for level {level} has no {name}"),
            Self::Routing => "it has no \"routing\", be it empty".to_owned(),
            Self::Outbound(tag) => format!("it has no outbound {tag:?}"),
            Self::NoBlackhole(tag, protocol) => {
                format!("its outbound {tag:?} is no blackhole, but {protocol}")
            }
        }
    }

    /// Puts what lacks into `root`.
    fn fill(&self, root: &mut Map<String, Value>, needs: &Needs) {
        match self {
            Self::Api => {
                let tag = member_or(object(root, "api"), "tag", || json!(""));
                if tag.as_str().is_none_or(str::is_empty) {
                    *tag = "api".into();
                }
            }
            Self::Service(service) => {
                list(object(root, "api"), "services").push(service.name().into());
            }
            Self::Listener => {
                let listen = member_or(object(root, "api"), "listen", || json!(""));
                *listen = as_listen(&needs.address).into();
            }
            Self::Stats => drop(object(root, "stats")),
            Self::Switch(level, name) => {
                let levels = object(object(root, "policy"), "levels");
                let switch = member_or(object(levels, &level.to_string()), name, || json!(false));
                *switch = true.into();
            }
            Self::Routing => drop(object(root, "routing")),
            Self::Outbound(tag) => {
                list(root, "outbounds").push(json!({"tag": tag, "protocol": "blackhole"}));
            }
            // Here it is the agent's configuration that does not fit.
            Self::ListensAt(_) | Self::NoBlackhole(..) => {}
        }
    }
}

/// Xray's configuration.
#[derive(Clone, Debug)]
pub struct XrayFile {
    root: Map<String, Value>,
}

impl XrayFile {
    /// From the text of the file; comments are passed over, as Xray does.
    pub fn read(text: &str) -> Result<Self, NotJson> {
        read(text).map(|root| Self { root })
    }

    /// Everything that lacks, in the order of the file's members.
    pub(super) fn lacks(&self, needs: &Needs) -> Vec<Lack> {
        let mut lacks = self.lacks_of_api(needs);
        if (needs.counts || needs.cuts) && !self.has("stats") {
            lacks.push(Lack::Stats);
        }
        let counted = COUNTED.into_iter().filter(|_| needs.counts);
        let switches: Vec<&'static str> = counted.chain(needs.cuts.then_some(ONLINE)).collect();
        for level in &needs.levels {
            let lacking = switches.iter().filter(|name| !self.is_on(*level, name));
            lacks.extend(lacking.map(|name| Lack::Switch(*level, name)));
        }
        if let Some(tag) = &needs.block_outbound {
            lacks.extend(self.lacks_for_blocking(tag));
        }
        lacks
    }

    /// The whole configuration with everything that lacks.
    pub(super) fn mended(&self, needs: &Needs) -> Value {
        let mut root = self.root.clone();
        for lack in self.lacks(needs) {
            lack.fill(&mut root, needs);
        }
        root.into()
    }

    /// Whether this is the configuration of the Xray that the agent asks at `address`.
    pub(super) fn listens_at(&self, address: &XrayAddress) -> bool {
        self.listeners().iter().any(|at| is_at(at, address))
    }

    /// Whether an inbound encrypts by itself (VLESS' own encryption), so that any transport carries a
    /// flow.
    pub(super) fn encrypts(&self, tag: &str) -> bool {
        let inbounds = items(&self.root, "inbounds");
        let mut own = inbounds.filter(|inbound| text(inbound, "tag") == Some(tag));
        let settings = own.find_map(|inbound| member(inbound, "settings")?.as_object());
        let decryption = settings.and_then(|settings| text(settings, "decryption"));
        decryption.is_some_and(|it| !it.is_empty() && !it.eq_ignore_ascii_case("none"))
    }

    fn has(&self, name: &str) -> bool {
        member(&self.root, name).is_some_and(Value::is_object)
    }

    fn api(&self) -> Option<&Map<String, Value>> {
        member(&self.root, "api")?.as_object()
    }

    fn api_tag(&self) -> Option<&str> {
        text(self.api()?, "tag").filter(|tag| !tag.is_empty())
    }

    fn lacks_of_api(&self, needs: &Needs) -> Vec<Lack> {
        let mut lacks = Vec::new();
        if self.api_tag().is_none() {
            lacks.push(Lack::Api);
        }
        let services = needs.services().into_iter();
        lacks.extend(services.filter(|it| !self.offers(*it)).map(Lack::Service));
        let listeners = self.listeners();
        if listeners.is_empty() {
            lacks.push(Lack::Listener);
        } else if !self.listens_at(&needs.address) {
            lacks.push(Lack::ListensAt(listeners.join(", ")));
        }
        lacks
    }

    fn offers(&self, service: Service) -> bool {
        let listed = self.api().and_then(|api| member(api, "services"));
        let listed = listed.and_then(Value::as_array).into_iter().flatten();
        let mut names = listed.filter_map(Value::as_str);
        names.any(|name| name.eq_ignore_ascii_case(service.name()))
    }

    fn is_on(&self, level: u32, switch: &str) -> bool {
        let policy = member(&self.root, "policy").and_then(Value::as_object);
        let levels = policy.and_then(|policy| member(policy, "levels")?.as_object());
        let level = levels.and_then(|levels| levels.get(&level.to_string())?.as_object());
        level.and_then(|level| member(level, switch)) == Some(&Value::Bool(true))
    }

    fn lacks_for_blocking(&self, tag: &str) -> Vec<Lack> {
        let mut lacks = Vec::new();
        if !self.has("routing") {
            lacks.push(Lack::Routing);
        }
        let mut outbounds = items(&self.root, "outbounds");
        match outbounds.find(|outbound| text(outbound, "tag") == Some(tag)) {
            None => lacks.push(Lack::Outbound(tag.to_owned())),
            Some(outbound) => {
                let protocol = text(outbound, "protocol").unwrap_or("nothing");
                if !["blackhole", "block"].contains(&protocol.to_lowercase().as_str()) {
                    lacks.push(Lack::NoBlackhole(tag.to_owned(), protocol.to_owned()));
                }
            }
        }
        lacks
    }

    /// Where the API listens: its own listener, and the doors that lead to it.
    fn listeners(&self) -> Vec<String> {
        let own = self.api().and_then(|api| text(api, "listen"));
        let own = own.filter(|listen| !listen.is_empty()).map(str::to_owned);
        own.into_iter().chain(self.doors()).collect()
    }

    fn doors(&self) -> Vec<String> {
        let Some(api) = self.api_tag() else {
            return Vec::new();
        };
        let routing = member(&self.root, "routing").and_then(Value::as_object);
        let rules = routing.into_iter().flat_map(|it| items(it, "rules"));
        let to_api = rules.filter(|rule| text(rule, "outboundTag") == Some(api));
        let tags: Vec<&str> = to_api.flat_map(|rule| texts(rule, "inboundTag")).collect();
        let is_door = |inbound: &&Map<String, Value>| {
            let is = |name, of: &[&str]| text(inbound, name).is_some_and(|it| of.contains(&it));
            is("protocol", &DOORS) && is("tag", &tags)
        };
        let doors = items(&self.root, "inbounds").filter(is_door);
        doors.map(door_address).collect()
    }
}

impl Needs {
    fn services(&self) -> Vec<Service> {
        let mut services = vec![Service::Handler, Service::Stats];
        if self.block_outbound.is_some() {
            services.push(Service::Routing);
        }
        services
    }
}

/// What lacks, as lines that stand between the outer braces of Xray's configuration.
pub(super) fn to_paste(lacks: &[Lack], needs: &Needs) -> Vec<String> {
    let mut root = Map::new();
    for lack in lacks {
        lack.fill(&mut root, needs);
    }
    let members: Vec<String> = root
        .iter()
        .map(|(name, value)| format!("\"{name}\": {}", spaced(value)))
        .collect();
    let last = members.len().saturating_sub(1);
    let ended = |(at, line): (usize, String)| if at < last { line + "," } else { line };
    members.into_iter().enumerate().map(ended).collect()
}

/// An address as Xray's `api.listen` writes it.
pub(super) fn as_listen(address: &XrayAddress) -> String {
    match address {
        XrayAddress::Tcp(address) => address.clone(),
        XrayAddress::Unix(path) => path.display().to_string(),
        XrayAddress::Abstract(name) => format!("@{name}"),
    }
}

/// Whether who listens so can be asked there.
fn is_at(listen: &str, address: &XrayAddress) -> bool {
    match address {
        XrayAddress::Unix(path) => {
            let bare = listen.split(',').next().unwrap_or(listen);
            bare == path.display().to_string()
        }
        XrayAddress::Abstract(name) => listen.strip_prefix('@') == Some(name),
        XrayAddress::Tcp(address) => match (host_and_port(listen), host_and_port(address)) {
            (Some((at, port)), Some((host, asked))) => {
                let everywhere = ["", "0.0.0.0", "::"].contains(&at);
                port == asked && (everywhere || at == host || (is_here(at) && is_here(host)))
            }
            _ => false,
        },
    }
}

fn is_here(host: &str) -> bool {
    host == "127.0.0.1" || host.eq_ignore_ascii_case("localhost")
}

fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host, port.parse().ok()?))
}

fn door_address(door: &Map<String, Value>) -> String {
    let listen = text(door, "listen").unwrap_or("0.0.0.0");
    if listen.starts_with(['/', '@']) {
        return listen.to_owned();
    }
    let port = match member(door, "port") {
        Some(Value::String(port)) => port.clone(),
        Some(port) => port.to_string(),
        None => String::new(),
    };
    format!("{listen}:{port}")
}

#[cfg(test)]
#[path = "xray_file_tests.rs"]
mod tests;
