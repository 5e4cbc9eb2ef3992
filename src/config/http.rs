//! The HTTP server: where it listens, with which certificate, and under which names. Kept here: no
//! listener that others than this host can reach is without TLS, or without credentials.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use url::Host;

use super::problems::Complaint;
use super::source::{Section, Source};
use super::values::{self, Read, quoted};
use crate::base::secret::Secret;

/// The least that cannot be guessed in the time that there is.
const SECRET_BYTES_MIN: usize = 16;
/// The word for no listener.
const OFF: &str = "off";

/// The HTTP server's listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// Where everything is served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Where the scheduler's surface is served besides, once there is one.
    pub scheduler_listen: Option<SocketAddr>,
    /// Certificate and key for all listeners; `None`: plain HTTP, on loopback only.
    pub tls: Option<Tls>,
    /// Further names, in lower case, under which a listener on loopback may be asked.
    pub hosts: Vec<String>,
    /// By which others than this host read metrics and the API's description; `None`: they do not.
    pub read_token: Option<Secret>,
    /// Surfaces answer without a credential; never together with an address beyond loopback.
    pub allow_insecure: bool,
}

/// Files in PEM; absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate, and those that lead to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The section as it is set.
pub(super) fn read(source: &Source) -> Http {
    let section = source.section("http");
    let http = Http {
        listen: section.value("listen", address),
        scheduler_listen: section.value("scheduler_listen", address),
        tls: tls(&section),
        hosts: section.optional("hosts", hosts).unwrap_or_default(),
        read_token: section.optional("read_token", secret),
        allow_insecure: section.value("allow_insecure", values::boolean),
    };
    let names = ["listen", "scheduler_listen"];
    for (name, listen) in names.into_iter().zip([http.listen, http.scheduler_listen]) {
        if let Some(complaint) = exposed(&http, listen) {
            let place = section
                .raw(name)
                .map_or_else(|| section.place(name), |raw| raw.place);
            source.found.report(&place, complaint);
        }
    }
    http
}

fn tls(section: &Section<'_>) -> Option<Tls> {
    let cert = section.optional("tls_cert", values::path);
    let key = section.optional("tls_key", values::path);
    let lacks = |name: &str, other: &str| {
        let what = format!("is not set, but {other} is");
        let mend = format!("set both, or take {other} out");
        section.report(name, Complaint::new(what, mend));
    };
    match (cert, key) {
        (Some(cert), Some(key)) => return Some(Tls { cert, key }),
        (Some(_), None) if section.raw("tls_key").is_none() => lacks("tls_key", "tls_cert"),
        (None, Some(_)) if section.raw("tls_cert").is_none() => lacks("tls_cert", "tls_key"),
        _ => {}
    }
    None
}

/// What is wrong with a listener that others than this host can reach.
fn exposed(http: &Http, listen: Option<SocketAddr>) -> Option<Complaint> {
    let address = listen.filter(|address| !address.ip().to_canonical().is_loopback())?;
    if http.tls.is_none() {
        let what = format!("{address} can be reached from other hosts, and there is no TLS");
        let mend = "set tls_cert and tls_key under [http] (HTTP_TLS_CERT, HTTP_TLS_KEY), or \
                    listen on 127.0.0.1 and put a proxy before it";
        return Some(Complaint::new(what, mend));
    }
    if http.allow_insecure {
        let what = format!("{address} can be reached from other hosts, and allow_insecure is set");
        return Some(Complaint::new(
            what,
            "take allow_insecure (HTTP_ALLOW_INSECURE) out, or listen on 127.0.0.1",
        ));
    }
    None
}

/// What nobody guesses, in characters that a header carries. Never shown.
pub(super) fn secret(text: &str) -> Read<Secret> {
    let fits = text.len() >= SECRET_BYTES_MIN && text.bytes().all(|it| it.is_ascii_graphic());
    if fits {
        return Ok(Secret::new(text));
    }
    let what = format!("is not {SECRET_BYTES_MIN} or more characters of ASCII without spaces");
    let mend = "take one that nobody guesses, such as what «openssl rand -hex 32» prints";
    Err(Complaint::new(what, mend))
}

/// An address of this host with a port, or none.
fn address(text: &str) -> Read<Option<SocketAddr>> {
    if text.is_empty() || text.eq_ignore_ascii_case(OFF) {
        return Ok(None);
    }
    let local = text
        .strip_prefix("localhost:")
        .and_then(|port| port.parse().ok())
        .map(|port| SocketAddr::from((IpAddr::from(Ipv4Addr::LOCALHOST), port)));
    match local.or_else(|| text.parse().ok()) {
        Some(address) if address.port() > 0 => Ok(Some(address)),
        _ => Err(Complaint::new(
            format!("{} is not an address with a port", quoted(text)),
            "write it as 127.0.0.1:23860 or [::1]:23860, or \"off\"",
        )),
    }
}

/// Names of hosts, between commas.
fn hosts(text: &str) -> Read<Vec<String>> {
    let name = |part: &str| match Host::parse(part) {
        Ok(host) => Ok(host.to_string()),
        Err(_) => Err(Complaint::new(
            format!("{} is not the name of a host", quoted(part)),
            "write names without ports, such as \"agent.example\"",
        )),
    };
    let parts = text.split(',').map(str::trim);
    parts.filter(|part| !part.is_empty()).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LEAST, read_both};
    use super::super::{Config, Need, Problems};

    fn run(pairs: &[(&str, &str)]) -> Result<Config, Problems> {
        read_both("", &[&LEAST, pairs].concat(), Need::Run)
    }

    fn problem(pairs: &[(&str, &str)]) -> String {
        run(pairs).unwrap_err().to_string()
    }

    #[test]
    fn it_listens_on_loopback_unless_something_else_is_said() {
        let http = run(&[]).unwrap().http;
        assert_eq!(http.listen, Some(([127, 0, 0, 1], 23_860).into()));
        assert_eq!(http.scheduler_listen, Some(([127, 0, 0, 1], 7100).into()));
        assert_eq!((http.tls, http.allow_insecure), (None, false));
        let off = [("HTTP_LISTEN", "off"), ("HTTP_SCHEDULER_LISTEN", "OFF")];
        let http = run(&off).unwrap().http;
        assert_eq!((http.listen, http.scheduler_listen), (None, None));
        let file = "[http]\nlisten = \"\"\n";
        let http = read_both(file, &LEAST, Need::Run).unwrap().http;
        assert_eq!(http.listen, None);
        let http = run(&[("HTTP_LISTEN", "localhost:1")]).unwrap().http;
        assert_eq!(http.listen, Some(([127, 0, 0, 1], 1).into()));
        for wrong in [
            "23860",
            ":23860",
            "example.org:1",
            "127.0.0.1:0",
            "127.0.0.1",
        ] {
            let said = problem(&[("HTTP_LISTEN", wrong)]);
            assert!(said.contains("is not an address with a port"), "{said}");
        }
    }

    #[test]
    fn what_other_hosts_can_reach_needs_tls_and_credentials() {
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            let plain = problem(&[("HTTP_SCHEDULER_LISTEN", address)]);
            assert!(
                plain.starts_with("environment HTTP_SCHEDULER_LISTEN: "),
                "{plain}"
            );
            assert!(plain.contains("there is no TLS; set tls_cert"), "{plain}");
            let tls = [
                ("HTTP_LISTEN", address),
                ("HTTP_TLS_CERT", "/c.pem"),
                ("HTTP_TLS_KEY", "/k.pem"),
            ];
            assert!(run(&tls).unwrap().http.tls.is_some());
            let open = [&tls[..], &[("HTTP_ALLOW_INSECURE", "true")]].concat();
            assert!(problem(&open).contains("allow_insecure is set"));
        }
        let local = [("HTTP_LISTEN", "[::1]:1"), ("HTTP_ALLOW_INSECURE", "1")];
        assert!(run(&local).unwrap().http.allow_insecure);
    }

    #[test]
    fn a_read_token_is_long_and_never_shown() {
        let token = |text| run(&[("HTTP_READ_TOKEN", text)]).map(|it| it.http.read_token);
        let right = token("canary-0123456789").unwrap().unwrap();
        assert_eq!(right.expose(), "canary-0123456789");
        for wrong in ["canary", "canary 0123456789", "canary-0123456789-é"] {
            let said = token(wrong).unwrap_err().to_string();
            assert!(
                said.contains("HTTP_READ_TOKEN: is not 16 or more"),
                "{said}"
            );
            assert!(!said.contains("canary"), "{said}");
        }
    }

    #[test]
    fn a_certificate_and_its_key_go_together() {
        let said = problem(&[("HTTP_TLS_CERT", "/c.pem")]);
        assert!(said.contains("is not set, but tls_cert is"), "{said}");
        let said = problem(&[("HTTP_TLS_KEY", "/k.pem")]);
        assert!(said.contains("is not set, but tls_key is"), "{said}");
    }

    #[test]
    fn further_hosts_are_names_without_ports() {
        let http = run(&[("HTTP_HOSTS", "Agent.Example, other.example,")])
            .unwrap()
            .http;
        assert_eq!(http.hosts, ["agent.example", "other.example"]);
        assert!(problem(&[("HTTP_HOSTS", "a.example:80")]).contains("is not the name of a host"));
    }
}
