//! The inbounds of one Xray: there, of a kind whose users can be changed, and with a flow that their
//! transport carries.

use super::finding::Finding;
use super::xray_file::XrayFile;
use crate::config::{Flow, Inbound, Protocol};
use crate::model::email::Emails;
use crate::sync::observe::{Look, ObserveError, look};
use crate::xray::client::{RawUsers, XrayClient};
use crate::xray::error::XrayError;

const CHECK: &str = "inbound";
/// The only flow that users have.
const VISION: &str = "xtls-rprx-vision";

/// An inbound as Xray tells of it.
pub(super) struct Seen {
    /// Everything of it.
    pub(super) look: Look,
    /// E-mails of the users there that are ours.
    pub(super) ours: Vec<String>,
}

/// Looks at one inbound.
pub(super) async fn check(
    client: &XrayClient,
    inbound: &Inbound,
    file: Option<&XrayFile>,
) -> (Finding, Option<Seen>) {
    let emails = emails(inbound);
    let (finding, seen) = match look(client, inbound, &emails).await {
        Ok(look) => {
            let ours = ours(&look, &emails);
            let finding = misfit(inbound, &look, file).unwrap_or_else(|| good(&look, &ours));
            (finding, Some(Seen { look, ours }))
        }
        Err(error) => (refused(&error), None),
    };
    (finding.about(inbound.tag.0.clone()), seen)
}

/// The e-mails of an inbound; either form is read by them.
pub(super) fn emails(inbound: &Inbound) -> Emails {
    Emails::first(&inbound.kernel_id, true)
}

fn good(look: &Look, ours: &[String]) -> Finding {
    let protocol = look.spec.kind.protocol().name();
    let count = |users: usize| {
        format!(
            "{} of the agent's, {} foreign",
            ours.len(),
            users - ours.len()
        )
    };
    let users = look.users.as_ref().map_or_else(
        || "this core does not list its users".to_owned(),
        |users| count(users.len()),
    );
    Finding::good(CHECK, format!("{protocol}; {users}"))
}

fn refused(error: &ObserveError) -> Finding {
    let finding = Finding::bad(CHECK, error.to_string());
    match error {
        // It says what to do.
        ObserveError::Refused(_) => finding,
        ObserveError::Xray(XrayError::InboundMissing) => finding
            .mend("set inbounds under [[node]] (XRAY_TAG_MAP) to the tag in Xray's configuration"),
        _ => finding.mend("look at Xray's own log"),
    }
}

fn ours(look: &Look, emails: &Emails) -> Vec<String> {
    let users = look.users.iter().flat_map(RawUsers::iter);
    let listed = users.filter_map(|user| user.ok().map(|user| user.email));
    listed
        .filter(|email| emails.read(email).is_some())
        .collect()
}

/// What is wrong with a flow that was given.
fn misfit(inbound: &Inbound, look: &Look, file: Option<&XrayFile>) -> Option<Finding> {
    let Flow::Given(flow) = &inbound.flow else {
        return None;
    };
    if flow.is_empty() || look.spec.kind.protocol() != Protocol::Vless {
        return None;
    }
    let auto = "set flow = \"auto\" for the inbound (XRAY_VLESS_FLOW=auto): it gives one only where \
                it fits";
    if flow != VISION {
        let what = format!("its users get the flow {flow:?}, which Xray does not know");
        return Some(Finding::bad(CHECK, what).mend(auto));
    }
    let transport = &look.info.as_ref()?.transport;
    let encrypts = file.is_some_and(|file| file.encrypts(&inbound.tag.0));
    if transport.carries_vision() || encrypts {
        return None;
    }
    let network = match transport.network.as_str() {
        "" => "tcp",
        network => network,
    };
    let security = transport.security.rsplit('.').nth(1).unwrap_or("no TLS");
    let what = format!(
        "its users get the flow {VISION}, which {network} with {security} does not carry: nobody \
         can connect"
    );
    Some(Finding::bad(CHECK, what).mend(auto).mend(
        "(where it has VLESS' own encryption, which carries it, show that: --xray-config FILE)",
    ))
}
