//! A real Xray client: one process with a SOCKS inbound for each route. Starting one takes about
//! a second, so a test that looks at many users starts one client with many routes.
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::origin::Origin;
use super::ports::free_port;
use super::route::{ClientProtocol, Route};
use super::socks::{self, Session};
use super::stream::{Pace, Stream};
use super::tls;
use super::transfer::Transfer;
use super::wait::eventually;
use super::xray::Xray;

/// For a GET that is expected to be served.
const GET_BOUND: Duration = Duration::from_secs(5);

/// For one attempt of a user who may not be served yet.
const TRY_BOUND: Duration = Duration::from_secs(2);
/// Against hanging: an agent adds its users within a second or so.
const SERVED_BOUND: Duration = Duration::from_mins(1);

/// Routes are named by their place in the list that the client was started with.
pub struct Client {
    socks_ports: Vec<u16>,
    xray: Xray,
}

impl Client {
    /// One route, named 0.
    pub async fn start(protocol: ClientProtocol, server_port: u16, uuid: &str) -> Result<Self> {
        Self::start_many(&[Route::new(protocol, server_port, uuid)]).await
    }

    pub async fn start_many(routes: &[Route]) -> Result<Self> {
        let ports = routes
            .iter()
            .map(|_| free_port())
            .collect::<Result<Vec<_>>>()?;
        let xray = Xray::start(config(routes, &ports))
            .await
            .context("starting a client")?;
        Ok(Self {
            socks_ports: ports,
            xray,
        })
    }

    /// A GET of `/`: "hello" when served, else an error (for VMess and Shadowsocks after 5 s).
    pub async fn get(&self, which: usize, origin: &Origin) -> Result<Vec<u8>> {
        self.get_path(which, origin.addr(), "/", GET_BOUND).await
    }

    /// Downloads that many bytes and checks each of them.
    pub async fn download(&self, which: usize, origin: &Origin, bytes: usize) -> Result<Vec<u8>> {
        let path = format!("/bytes/{bytes}");
        let body = self
            .get_path(which, origin.addr(), &path, GET_BOUND * 6)
            .await?;
        anyhow::ensure!(
            body == Origin::bytes(bytes),
            "other bytes came than were sent"
        );
        Ok(body)
    }

    /// Is that user served? Give a short bound where a no is expected from VMess or Shadowsocks.
    pub async fn is_served(&self, which: usize, origin: &Origin, within: Duration) -> bool {
        let got = self.get_path(which, origin.addr(), "/", within).await;
        got.is_ok_and(|body| body == Origin::HELLO)
    }

    /// Waits until that user is served.
    pub async fn await_served(&self, which: usize, origin: &Origin) -> Result<()> {
        eventually("the user is served", SERVED_BOUND, async || {
            self.is_served(which, origin, TRY_BOUND).await
        })
        .await
    }

    /// A stream that stays open until dropped.
    pub async fn session(&self, which: usize, origin: &Origin) -> Result<Session> {
        Session::open(self.socks_ports[which], origin.echo_addr()).await
    }

    /// A download at [`Pace::default`] that ends when it is cut or dropped.
    pub async fn stream(&self, which: usize, origin: &Origin) -> Result<Stream> {
        let stream = self.connect(which, origin.stream_addr()).await?;
        Ok(Stream::download(stream, Pace::default()))
    }

    /// The same under TLS 1.3: what Vision splices.
    pub async fn tls_stream(&self, which: usize, origin: &Origin) -> Result<Stream> {
        let stream = self.connect(which, origin.tls_stream_addr()).await?;
        let shaken = tokio::time::timeout(GET_BOUND, tls::connect(stream)).await;
        let shaken = shaken.context("no TLS through the proxy")??;
        Ok(Stream::download(shaken, Pace::default()))
    }

    /// An upload, alike.
    pub async fn upload(&self, which: usize, origin: &Origin) -> Result<Stream> {
        let stream = self.connect(which, origin.stream_addr()).await?;
        Ok(Stream::upload(stream, Pace::default()))
    }

    async fn connect(&self, which: usize, target: SocketAddr) -> Result<TcpStream> {
        let connecting = socks::connect(self.socks_ports[which], target);
        let connected = tokio::time::timeout(GET_BOUND, connecting).await;
        connected.context("no answer of the client")?
    }

    /// Moves exactly 16 + `up` bytes one way and `down` the other, checks those that come, and
    /// waits for the end of the stream; `Err` when the connection breaks.
    pub async fn transfer(&self, which: usize, origin: &Origin, up: u64, down: u64) -> Result<()> {
        self.transfer_at(which, origin, Transfer::at_once(up, down))
            .await
    }

    /// The same at a pace, e.g. `Transfer::at_once(up, down).paced(chunk, pause)`.
    pub async fn transfer_at(
        &self,
        which: usize,
        origin: &Origin,
        transfer: Transfer,
    ) -> Result<()> {
        let socks_port = self.socks_ports[which];
        transfer.run(socks_port, origin.transfer_addr()).await
    }

    pub async fn get_path(
        &self,
        which: usize,
        origin: SocketAddr,
        path: &str,
        within: Duration,
    ) -> Result<Vec<u8>> {
        let got = socks::get(self.socks_ports[which], origin, path);
        tokio::time::timeout(within, got)
            .await
            .context("no answer through the proxy")?
    }

    pub fn socks_port(&self, which: usize) -> u16 {
        self.socks_ports[which]
    }

    pub fn xray(&mut self) -> &mut Xray {
        &mut self.xray
    }
}

fn config(routes: &[Route], ports: &[u16]) -> Value {
    let each = || routes.iter().zip(ports).enumerate();
    let inbound = |port| {
        json!({"listen": "127.0.0.1", "port": port, "protocol": "socks",
        "settings": {"udp": false}})
    };
    let inbounds: Vec<Value> = each()
        .map(|(which, (_, port))| {
            let mut inbound = inbound(port);
            inbound["tag"] = format!("socks-{which}").into();
            inbound
        })
        .collect();
    let outbounds: Vec<Value> = each()
        .map(|(which, (route, _))| route.outbound(&format!("out-{which}")))
        .collect();
    let rules: Vec<Value> = (0..routes.len())
        .map(|which| {
            json!({"inboundTag": [format!("socks-{which}")],
                "outboundTag": format!("out-{which}")})
        })
        .collect();
    // A user who has ended one direction is done with both: else the end takes a second to come.
    let ends_at_once = json!({"downlinkOnly": 0});
    json!({"log": {"loglevel": "warning"}, "inbounds": inbounds, "outbounds": outbounds,
        "policy": {"levels": {"0": ends_at_once}},
        "routing": {"rules": rules}})
}
