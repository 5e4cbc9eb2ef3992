//! Which account an inbound gets, from what Xray tells of it.

use super::*;
use crate::model::ids::{InboundTag, UserId};
use crate::xray::inbound::{Transport, Unsupported};

fn inbound(tag: &str) -> Inbound {
    Inbound {
        xray: "xray".into(),
        tag: InboundTag(tag.into()),
        kernel_id: "in".into(),
        flow: Flow::Auto,
        protocol: None,
        protocol_from_tag: false,
        method: None,
        level: 0,
        exclusive: false,
    }
}

fn info(protocol: Protocol, security: &str) -> InboundInfo {
    let transport = Transport {
        network: "tcp".into(),
        security: security.into(),
        ..Transport::default()
    };
    InboundInfo {
        tag: "in".into(),
        protocol: Ok(protocol),
        transport,
        ports: Vec::new(),
    }
}

fn there(kind: AccountKind) -> User {
    let spec = AccountSpec::new(kind, 0);
    spec.user(UserId::from_bytes([1; 16]), "e".into()).unwrap()
}

#[test]
fn the_protocol_is_what_xray_lists_whatever_is_configured() {
    let configured = Inbound {
        protocol: Some(Protocol::Vless),
        ..inbound("in")
    };
    let listed = [info(Protocol::Trojan, "")];
    let spec = decide(&configured, Listing::Known(&listed), &[]).unwrap();
    assert_eq!(spec.kind, AccountKind::Trojan);
}

#[test]
fn a_missing_inbound_names_those_that_exist() {
    let error = decide(
        &inbound("nope"),
        Listing::Known(&[info(Protocol::Vless, "")]),
        &[],
    );
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("\"nope\"") && text.contains("it has: in."),
        "{text}"
    );
}

#[test]
fn an_unsupported_inbound_is_refused_with_the_reason() {
    let listed = InboundInfo {
        protocol: Err(Unsupported("it has no users".into())),
        ..info(Protocol::Vless, "")
    };
    let error = decide(&inbound("in"), Listing::Known(&[listed]), &[]).unwrap_err();
    assert!(error.to_string().contains("it has no users"), "{error}");
}

#[test]
fn without_a_listing_users_then_configuration_then_the_connectors_tag_tell() {
    let vmess = there(AccountKind::Vmess);
    let given = Inbound {
        protocol: Some(Protocol::Trojan),
        ..inbound("in-vless")
    };
    let connector = |tag| Inbound {
        protocol_from_tag: true,
        ..inbound(tag)
    };
    let no_flow = AccountKind::Vless {
        flow: String::new(),
    };
    let table = [
        (given.clone(), vec![vmess], Some(AccountKind::Vmess)),
        (given, vec![], Some(AccountKind::Trojan)),
        (connector("in-vless-reality"), vec![], Some(no_flow)),
        (connector("VMess_1"), vec![], Some(AccountKind::Vmess)),
        (connector("vless-vmess"), vec![], None),
        (connector("myvless"), vec![], None),
        (inbound("in-vless"), vec![], None),
    ];
    for (inbound, sample, expected) in table {
        let decided = decide(&inbound, Listing::Unavailable, &sample);
        assert_eq!(
            decided.ok().map(|spec| spec.kind),
            expected,
            "{}",
            inbound.tag
        );
    }
}

#[test]
fn flow_auto_is_vision_where_it_is_carried() {
    let flow_of = |flow: Flow, security: &str| {
        let inbound = Inbound {
            flow,
            ..inbound("in")
        };
        decide(
            &inbound,
            Listing::Known(&[info(Protocol::Vless, security)]),
            &[],
        )
        .unwrap()
        .kind
    };
    let vless = |flow: &str| AccountKind::Vless { flow: flow.into() };
    let tls = "xray.transport.internet.tls.Config";
    assert_eq!(flow_of(Flow::Auto, tls), vless(VISION));
    assert_eq!(flow_of(Flow::Auto, ""), vless(""));
    assert_eq!(flow_of(Flow::Given(String::new()), tls), vless(""));
    assert_eq!(flow_of(Flow::Given(VISION.into()), ""), vless(VISION));
}

#[test]
fn shadowsocks_is_written_like_its_users_else_as_configured_else_refused() {
    let of = |protocol, method: Option<&str>, sample: &[User]| {
        let inbound = Inbound {
            method: method.map(str::to_owned),
            ..inbound("in")
        };
        decide(&inbound, Listing::Known(&[info(protocol, "")]), sample)
            .ok()
            .map(|spec| spec.kind)
    };
    let aes128 = AccountKind::Shadowsocks {
        cipher: Cipher::Aes128Gcm,
    };
    let aes256 = AccountKind::Shadowsocks {
        cipher: Cipher::Aes256Gcm,
    };
    let ss = Protocol::Shadowsocks;
    assert_eq!(
        of(ss, Some("aes-256-gcm"), &[there(aes128.clone())]),
        Some(aes128)
    );
    assert_eq!(of(ss, Some("aes-256-gcm"), &[]), Some(aes256));
    assert_eq!(of(ss, None, &[]), None);
    let k32 = AccountKind::Shadowsocks2022 {
        key_bytes: KeyBytes::K32,
    };
    let ss22 = Protocol::Shadowsocks2022;
    assert_eq!(of(ss22, None, &[there(k32.clone())]), Some(k32.clone()));
    assert_eq!(of(ss22, Some("2022-blake3-aes-256-gcm"), &[]), Some(k32));
    assert_eq!(of(ss22, Some("aes-256-gcm"), &[]), None);
}
