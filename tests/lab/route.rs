//! How a client comes in: the outbound that a real Xray client needs for one user of one inbound.
//! The user's secret follows from the panel's UUID by each protocol's convention.
use serde_json::{Value, json};

use super::secrets::shadowsocks_2022_key;
use super::server::CERTIFICATE;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientProtocol {
    Vless,
    /// Raw TCP under TLS, the lab's certificate; the flow is that of the user on the server.
    VlessTls {
        flow: Option<String>,
    },
    VlessWs,
    VlessGrpc,
    Vmess,
    Trojan,
    Shadowsocks,
    Shadowsocks2022 {
        method: String,
        server_key: String,
    },
    Hysteria,
}

impl ClientProtocol {
    /// The protocol that fits a server's inbound; under TLS with the flow `xtls-rprx-vision`.
    ///
    /// # Panics
    /// When the lab has no client for it.
    pub fn of_inbound(inbound: &Value) -> Self {
        let (settings, stream) = (&inbound["settings"], &inbound["streamSettings"]);
        let text = |name: &str| settings[name].as_str().map(str::to_owned);
        match inbound["protocol"].as_str() {
            Some("vless") if stream["security"] == "tls" => Self::VlessTls {
                flow: Some("xtls-rprx-vision".to_owned()),
            },
            Some("vless") if stream["network"] == "ws" => Self::VlessWs,
            Some("vless") if stream["network"] == "grpc" => Self::VlessGrpc,
            Some("vless") => Self::Vless,
            Some("vmess") => Self::Vmess,
            Some("trojan") => Self::Trojan,
            Some("shadowsocks") => match (text("method"), text("password")) {
                (Some(method), Some(server_key)) => Self::Shadowsocks2022 { method, server_key },
                _ => Self::Shadowsocks,
            },
            Some("hysteria") => Self::Hysteria,
            other => panic!("the lab has no client for {other:?}"),
        }
    }
}

/// One user of one server's inbound.
#[derive(Clone, Debug)]
pub struct Route {
    pub protocol: ClientProtocol,
    pub server_port: u16,
    pub uuid: String,
    /// Many streams in one session, by the client's own choice.
    pub mux: bool,
    /// The client's own address, e.g. 127.0.0.2: Xray never counts 127.0.0.1 as online.
    pub from: Option<String>,
    /// The server's address.
    pub to: String,
}

impl Route {
    pub fn new(protocol: ClientProtocol, server_port: u16, uuid: &str) -> Self {
        Self {
            protocol,
            server_port,
            uuid: uuid.to_owned(),
            mux: false,
            from: None,
            to: "127.0.0.1".to_owned(),
        }
    }

    pub fn with_mux(mut self) -> Self {
        self.mux = true;
        self
    }

    pub fn sent_from(mut self, address: &str) -> Self {
        self.from = Some(address.to_owned());
        self
    }

    /// By another address of the server than 127.0.0.1.
    pub fn reached_at(mut self, address: &str) -> Self {
        address.clone_into(&mut self.to);
        self
    }

    /// The same way in, as another user.
    pub fn as_user(&self, uuid: &str) -> Self {
        Self {
            uuid: uuid.to_owned(),
            ..self.clone()
        }
    }

    /// The client's outbound, as Xray's configuration writes it.
    pub fn outbound(&self, tag: &str) -> Value {
        let mut outbound = self.protocol_part();
        outbound["tag"] = tag.into();
        if self.mux {
            outbound["mux"] = json!({"enabled": true, "concurrency": 8});
        }
        if let Some(from) = &self.from {
            outbound["sendThrough"] = from.as_str().into();
        }
        outbound
    }

    fn protocol_part(&self) -> Value {
        let uuid = self.uuid.as_str();
        match &self.protocol {
            ClientProtocol::Vless => self.vless("", json!({})),
            ClientProtocol::VlessTls { flow } => {
                let stream = json!({"network": "raw", "security": "tls", "tlsSettings": tls()});
                self.vless(flow.as_deref().unwrap_or_default(), stream)
            }
            ClientProtocol::VlessWs => {
                self.vless("", json!({"network": "ws", "wsSettings": {"path": "/ws"}}))
            }
            ClientProtocol::VlessGrpc => {
                let service = json!({"serviceName": "cut"});
                self.vless("", json!({"network": "grpc", "grpcSettings": service}))
            }
            ClientProtocol::Vmess => self.vnext("vmess", json!({"id": uuid, "security": "auto"})),
            ClientProtocol::Trojan => self.server("trojan", json!({"password": uuid})),
            ClientProtocol::Shadowsocks => self.server(
                "shadowsocks",
                json!({"method": "aes-256-gcm", "password": uuid}),
            ),
            ClientProtocol::Shadowsocks2022 { method, server_key } => {
                let key_bytes = if method.contains("256") { 32 } else { 16 };
                let password = format!("{server_key}:{}", shadowsocks_2022_key(uuid, key_bytes));
                self.server(
                    "shadowsocks",
                    json!({"method": method, "password": password}),
                )
            }
            ClientProtocol::Hysteria => json!({
                "protocol": "hysteria",
                "settings": {"version": 2, "address": self.to, "port": self.server_port},
                "streamSettings": {"network": "hysteria", "security": "tls", "tlsSettings": tls(),
                    "hysteriaSettings": {"version": 2, "auth": uuid}},
            }),
        }
    }

    fn vless(&self, flow: &str, stream: Value) -> Value {
        let user = json!({"id": self.uuid, "encryption": "none", "flow": flow});
        let mut outbound = self.vnext("vless", user);
        outbound["streamSettings"] = stream;
        outbound
    }

    fn vnext(&self, protocol: &str, user: Value) -> Value {
        let next = json!({"address": self.to, "port": self.server_port, "users": [user]});
        json!({"protocol": protocol, "settings": {"vnext": [next]}})
    }

    fn server(&self, protocol: &str, mut server: Value) -> Value {
        server["address"] = self.to.as_str().into();
        server["port"] = self.server_port.into();
        json!({"protocol": protocol, "settings": {"servers": [server]}})
    }
}

/// Trusts the lab's certificate and no other.
fn tls() -> Value {
    let lines: Vec<&str> = CERTIFICATE.lines().collect();
    json!({"serverName": "localhost", "disableSystemRoot": true,
        "certificates": [{"usage": "verify", "certificate": lines}]})
}
