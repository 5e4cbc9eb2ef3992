//! How the users of an inbound have to be written: read from the running Xray, else from the users
//! that are there, else from the configuration, and else refused. A guess could end the whole Xray.
//! Pure.

use crate::config::{Flow, Inbound, Protocol};
use crate::xray::account::{
    AccountKind, AccountSpec, Cipher, KeyBytes, cipher_of, flow_of, key_bytes_of,
    protocol_of_account,
};
use crate::xray::dialect::Dialect;
use crate::xray::inbound::InboundInfo;
use crate::xray::proto::xray::common::protocol::User;

const VISION: &str = "xtls-rprx-vision";
/// How many tags an error names.
const TAGS_SHOWN: usize = 20;

/// What is known of the inbounds of a running Xray.
#[derive(Clone, Copy, Debug)]
pub enum Listing<'a> {
    /// All of them.
    Known(&'a [InboundInfo]),
    /// This core cannot list them.
    Unavailable,
}

/// Why an inbound cannot be managed, with the mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Decides for `inbound`, given what Xray lists and some of the users that are there.
pub fn decide(
    inbound: &Inbound,
    listing: Listing<'_>,
    sample: &[User],
) -> Result<AccountSpec, Refusal> {
    let info = match listing {
        Listing::Known(all) => Some(find(inbound, all)?),
        Listing::Unavailable => None,
    };
    let protocol = match info {
        Some(info) => info.protocol.clone().map_err(|why| {
            Refusal(format!(
                "inbound {:?} cannot be managed: {why}",
                inbound.tag.0
            ))
        })?,
        None => protocol_without_listing(inbound, sample)?,
    };
    let kind = match protocol {
        Protocol::Vless => AccountKind::Vless {
            flow: flow(inbound, info, sample),
        },
        Protocol::Vmess => AccountKind::Vmess,
        Protocol::Trojan => AccountKind::Trojan,
        Protocol::Shadowsocks => AccountKind::Shadowsocks {
            cipher: cipher(inbound, sample)?,
        },
        Protocol::Shadowsocks2022 => AccountKind::Shadowsocks2022 {
            key_bytes: key_bytes(inbound, sample)?,
        },
        Protocol::Hysteria => AccountKind::Hysteria,
    };
    Ok(AccountSpec::new(kind, inbound.level))
}

/// Refuses an inbound whose protocol has fixed users on this core.
pub fn refuse_what_core_cannot(
    inbound: &Inbound,
    core: Dialect,
    spec: &AccountSpec,
) -> Result<(), Refusal> {
    let protocol = spec.kind.protocol();
    if core.manages(protocol) {
        return Ok(());
    }
    Err(Refusal(format!(
        "inbound {:?} cannot be managed: this core is a V2Ray 4, which changes users of VLESS, VMess \
         and Trojan while it runs, but not of {}",
        inbound.tag.0,
        protocol.name()
    )))
}

fn find<'a>(inbound: &Inbound, all: &'a [InboundInfo]) -> Result<&'a InboundInfo, Refusal> {
    all.iter().find(|info| info.tag == inbound.tag.0).ok_or_else(|| {
        let mut tags: Vec<_> =
            all.iter().map(|info| info.tag.as_str()).filter(|tag| !tag.is_empty()).collect();
        tags.sort_unstable();
        tags.truncate(TAGS_SHOWN);
        Refusal(format!(
            "Xray has no inbound {:?}; it has: {}. Set XRAY_TAG_MAP (node.inbounds) to one of them",
            inbound.tag.0,
            if tags.is_empty() { "none with a tag".to_owned() } else { tags.join(", ") }
        ))
    })
}

fn protocol_without_listing(inbound: &Inbound, sample: &[User]) -> Result<Protocol, Refusal> {
    let account_types = sample.iter().filter_map(|user| user.account.as_ref());
    if let Some(account) = account_types.clone().next() {
        return protocol_of_account(&account.r#type).ok_or_else(|| {
            Refusal(format!(
                "inbound {:?} holds accounts of type {}, which cannot be managed",
                inbound.tag.0, account.r#type
            ))
        });
    }
    inbound.protocol.or_else(|| protocol_from_tag(inbound)).ok_or_else(|| {
        Refusal(format!(
            "this Xray does not tell the protocol of inbound {:?}, and a wrong one would end it: \
             set node.inbounds.protocol (vless, vmess, trojan, shadowsocks, …)",
            inbound.tag.0
        ))
    })
}

/// As the connector of seed 001 was used: the tag names the protocol, if it names just one.
fn protocol_from_tag(inbound: &Inbound) -> Option<Protocol> {
    let tag = inbound.tag.0.to_ascii_lowercase();
    let named = |word| {
        tag.split(|c: char| !c.is_ascii_alphanumeric())
            .any(|part| part == word)
    };
    match (inbound.protocol_from_tag, named("vless"), named("vmess")) {
        (true, true, false) => Some(Protocol::Vless),
        (true, false, true) => Some(Protocol::Vmess),
        _ => None,
    }
}

fn flow(inbound: &Inbound, info: Option<&InboundInfo>, sample: &[User]) -> String {
    match (&inbound.flow, info) {
        (Flow::Given(flow), _) => flow.clone(),
        (Flow::Auto, Some(info)) if info.transport.carries_vision() => VISION.to_owned(),
        (Flow::Auto, Some(_)) => String::new(),
        // The transport is unknown: what the users have who are there.
        (Flow::Auto, None) => sample.iter().find_map(flow_of).unwrap_or_default(),
    }
}

fn cipher(inbound: &Inbound, sample: &[User]) -> Result<Cipher, Refusal> {
    let configured = || match inbound.method.as_deref() {
        Some("aes-128-gcm") => Some(Cipher::Aes128Gcm),
        Some("aes-256-gcm") => Some(Cipher::Aes256Gcm),
        Some("chacha20-poly1305") => Some(Cipher::Chacha20Poly1305),
        Some("xchacha20-poly1305") => Some(Cipher::Xchacha20Poly1305),
        _ => None,
    };
    sample
        .iter()
        .find_map(cipher_of)
        .or_else(configured)
        .ok_or_else(|| no_method(inbound, ""))
}

fn key_bytes(inbound: &Inbound, sample: &[User]) -> Result<KeyBytes, Refusal> {
    let configured = || match inbound.method.as_deref() {
        Some("2022-blake3-aes-128-gcm") => Some(KeyBytes::K16),
        Some("2022-blake3-aes-256-gcm") => Some(KeyBytes::K32),
        _ => None,
    };
    sample
        .iter()
        .find_map(key_bytes_of)
        .or_else(configured)
        .ok_or_else(|| no_method(inbound, "2022-blake3-"))
}

fn no_method(inbound: &Inbound, prefix: &str) -> Refusal {
    Refusal(format!(
        "no user of inbound {:?} shows its method: set node.inbounds.method ({prefix}aes-128-gcm, \
         {prefix}aes-256-gcm, …) to the one in Xray's configuration",
        inbound.tag.0
    ))
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
