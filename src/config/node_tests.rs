//! Which nodes there are, and which inbounds serve them.

use super::tests::{LEAST, read_both, run, with};
use super::*;

fn tags(node: &Node) -> Vec<&str> {
    node.inbounds
        .iter()
        .map(|inbound| inbound.tag.as_str())
        .collect()
}

#[test]
fn an_inbound_has_the_connectors_defaults() {
    let config = with(&[("APPLY_MODE", "xray-grpc")]);
    let inbound = Inbound {
        xray: "xray".into(),
        tag: InboundTag("in-vless-reality".into()),
        kernel_id: "in-vless-reality".into(),
        flow: Flow::Auto,
        protocol: None,
        protocol_from_tag: true,
        method: None,
        level: 0,
        exclusive: false,
    };
    assert_eq!(
        config.nodes,
        [Node {
            id: NodeId(1),
            inbounds: vec![inbound]
        }]
    );
}

#[test]
fn the_tag_map_names_inbounds_and_node_ids_choose_nodes() {
    let file = "[[node]]\nid = 2\ninbounds = ['in-f']\n[[node]]\nid = 9\ninbounds = ['in-f']\n";
    let map = "1: in-a + in:ws ,4:in-x,";
    let environment = [
        ("NODE_IDS", "2, 1,2,"),
        ("XRAY_TAG_MAP", map),
        ("APPLY_MODE", "xray-grpc"),
    ];
    let config = run(file, &[&LEAST[..1], &environment].concat());
    assert_eq!(
        config
            .nodes
            .iter()
            .map(|node| node.id.0)
            .collect::<Vec<_>>(),
        [2, 1]
    );
    assert_eq!(tags(&config.nodes[0]), ["in-f"]);
    assert_eq!(tags(&config.nodes[1]), ["in-a", "in:ws"]);
    let over = [("XRAY_TAG_MAP", "9:in-m"), ("APPLY_MODE", "xray-grpc")];
    let config = run(file, &[&LEAST[..1], &over].concat());
    assert_eq!(
        config.nodes.iter().flat_map(tags).collect::<Vec<_>>(),
        ["in-f", "in-m"]
    );
}

#[test]
fn nodes_may_share_an_inbound_where_inbounds_are_not_used() {
    let config = with(&[("NODE_IDS", "1,2"), ("XRAY_TAG_MAP", "1:in-a,2:in-a")]);
    assert_eq!(
        config.nodes.iter().flat_map(tags).collect::<Vec<_>>(),
        ["in-a", "in-a"]
    );
}

#[test]
fn to_apply_one_node_needs_neither_panel_nor_list() {
    let need = Need::Apply { node: NodeId(5) };
    let config = read_both("", &[("APPLY_MODE", "cmd")], need).unwrap();
    assert!(config.panel.is_none());
    assert_eq!(
        (config.mode, config.nodes[0].id),
        (ApplyMode::XrayGrpc, NodeId(5))
    );
    assert_eq!(tags(&config.nodes[0]), ["in-vless-reality"]);
    let map = [
        ("NODE_IDS", "1,2"),
        ("XRAY_TAG_MAP", "5:in-m"),
        ("INTERNAL_API_KEY", "k"),
    ];
    let config = read_both("", &map, need).unwrap();
    assert_eq!(
        (config.nodes.len(), tags(&config.nodes[0])),
        (1, vec!["in-m"])
    );
    assert!(config.panel.is_some());
    let file = "[panel]\ntoken_file = '/nowhere'\n[[node]]\nid = 5\ninbounds = ['in-f']\n";
    let config = read_both(file, &[], need).unwrap();
    assert_eq!(
        (config.panel.is_none(), tags(&config.nodes[0])),
        (true, vec!["in-f"])
    );
}

#[test]
fn to_cut_connections_the_panels_token_is_not_read() {
    let file = "apply = { mode = 'xray-grpc', kick_ports = '443' }\n\
                panel.token_file = '/nowhere'\nnode = [{ id = 5, inbounds = ['in-f'] }]\n";
    let config = read_both(file, &[("INTERNAL_API_KEY", "k")], Need::Cut).unwrap();
    assert!(config.panel.is_none() && config.kick.ports.is_some());
    assert_eq!(tags(&config.nodes[0]), ["in-f"]);
    assert!(read_both("", &[], Need::Cut).is_err(), "no node is named");
}

#[test]
fn to_speak_to_the_panel_its_key_is_needed_and_no_node() {
    let key = [("INTERNAL_API_KEY", "k"), ("APPLY_MODE", "xray-grpc")];
    let config = read_both("", &key, Need::Panel).unwrap();
    assert!(config.panel.is_some() && config.nodes.is_empty());
    let config = read_both(
        "node = [{ id = 5, inbounds = ['in'] }]\n",
        &key,
        Need::Panel,
    );
    assert!(config.unwrap().nodes.is_empty());
    assert!(
        read_both("", &[], Need::Panel).is_err(),
        "the key is missing"
    );
}
