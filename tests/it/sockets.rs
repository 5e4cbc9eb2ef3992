//! Where a running Xray listens, and who is connected to it there.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpStream};

use anyhow::{Result, ensure};
use serde_json::json;
use xray_agent::config::{self, XrayAddress};
use xray_agent::model::ports::PortRange;
use xray_agent::sockets::established_on;
use xray_agent::xray::client::XrayClient;

use crate::lab::{ServerConfig, Xray, eventually, free_port};
use crate::support::LONG;

/// The ports of an Xray's inbounds, by tag.
async fn ports_of(xray: &Xray) -> Result<BTreeMap<String, Vec<PortRange>>> {
    let client = XrayClient::new(config::Xray {
        name: "xray".into(),
        address: XrayAddress::Tcp(xray.api_addr()),
        rpc_timeout: LONG,
        in_flight: 1,
    });
    let listed = client.list_inbounds().await?;
    Ok(listed
        .into_iter()
        .map(|inbound| (inbound.tag, inbound.ports))
        .collect())
}

/// The first of two ports next to each other.
fn free_pair() -> Result<u16> {
    let mut first = free_port()?;
    loop {
        let second = free_port()?;
        if second == first + 1 {
            return Ok(first);
        }
        first = second;
    }
}

#[tokio::test]
async fn the_ports_that_an_inbound_was_given_are_those_that_xray_tells() -> Result<()> {
    let (pair, single) = (free_pair()?, free_port()?);
    let (folder, several) = (
        tempfile::tempdir()?,
        format!("{pair}-{},{single}", pair + 1),
    );
    let config = ServerConfig::new()
        .vless("in-one")
        .hysteria("in-udp")
        .vless("in-several")
        .vless("in-unix")
        .edit(|json| {
            for inbound in json["inbounds"].as_array_mut().unwrap() {
                if inbound["tag"] == "in-several" {
                    inbound["port"] = json!(several);
                } else if inbound["tag"] == "in-unix" {
                    inbound["port"].take();
                    inbound["listen"] = json!(folder.path().join("in.sock"));
                }
            }
        });
    let xray = Xray::start(config.clone()).await?;
    let ports = ports_of(&xray).await?;
    for tag in ["in-one", "in-udp"] {
        ensure!(
            ports[tag] == [PortRange::single(config.port(tag))],
            "{ports:?}"
        );
    }
    let range = PortRange {
        from: pair,
        to: pair + 1,
    };
    ensure!(
        ports["in-several"] == [range, PortRange::single(single)],
        "{ports:?}"
    );
    ensure!(ports["in-unix"].is_empty(), "{ports:?}");
    Ok(())
}

#[tokio::test]
async fn connections_to_an_inbound_are_counted_while_they_last() -> Result<()> {
    let config = ServerConfig::new().vless("in").vless("in-other");
    let xray = Xray::start(config.clone()).await?;
    let ports = ports_of(&xray).await?;
    let counts = async |tag: &str, count: usize| {
        let what = format!("{count} connections to {tag}");
        eventually(&what, LONG, async || {
            established_on(&ports[tag]).unwrap() == count
        })
        .await
    };
    // What asked whether it listens is gone, or goes.
    counts("in", 0).await?;
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, config.port("in")));
    let open = [connect()?, connect()?, connect()?];
    counts("in", 3).await?;
    ensure!(established_on(&ports["in-other"])? == 0);
    drop(open);
    counts("in", 0).await
}
