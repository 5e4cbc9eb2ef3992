//! A client's proxy. It stands in the configuration, so anything may be one. Keeps: what a proxy is
//! asked for by name it looks up where we cannot judge it; what is asked for by address is judged.

use super::dial::Gate;
use super::policy::{Policy, Refusal};
use super::resolve::Names;
use super::target::Target;
use crate::config::Proxy;

/// Where SOCKS proxies listen by habit (RFC 1928).
const SOCKS_PORT: u16 = 1080;

/// A proxy and how it is reached.
#[derive(Clone, Debug)]
pub(super) struct ByProxy {
    pub(super) gate: Gate,
    pub(super) target: Target,
    /// Its host as the client asks for it.
    pub(super) name: String,
    /// Whether it looks names up: all do but `socks5://`.
    pub(super) looks_up: bool,
}

impl ByProxy {
    pub(super) fn new(proxy: &Proxy, names: impl Names) -> Result<Self, Refusal> {
        let name = proxy.0.host_str().unwrap_or_default().to_owned();
        let port = proxy.0.port_or_known_default().unwrap_or(SOCKS_PORT);
        Ok(Self {
            gate: Gate::with_names(Policy::anything(), names),
            target: Target::of_host(&name, port)?,
            name,
            looks_up: proxy.0.scheme() != "socks5",
        })
    }
}
