//! The kinds of inbound that a [`ServerConfig`] offers: one method each, whose tag must be new.
//! Static clients are added by `with_client`, in the form of the protocol.
use serde_json::json;

use super::secrets::random_key;
use super::server::ServerConfig;

/// The email of the static client that makes a Shadowsocks inbound a multi-user one.
pub const STATIC_EMAIL: &str = "first@static";

impl ServerConfig {
    pub fn vless(self, tag: &str) -> Self {
        self.inbound(tag, "vless", json!({"clients": [], "decryption": "none"}))
    }

    /// Raw TCP under TLS: the inbound that carries the flow `xtls-rprx-vision`.
    pub fn vless_tls(self, tag: &str) -> Self {
        self.vless(tag)
            .stream(tag, json!({"network": "raw", "security": "tls"}))
    }

    /// Over WebSocket, path `/ws`: no flow here.
    pub fn vless_ws(self, tag: &str) -> Self {
        self.vless(tag)
            .stream(tag, json!({"network": "ws", "wsSettings": {"path": "/ws"}}))
    }

    /// Over gRPC, service `cut`: no flow here either.
    pub fn vless_grpc(self, tag: &str) -> Self {
        let stream = json!({"network": "grpc", "grpcSettings": {"serviceName": "cut"}});
        self.vless(tag).stream(tag, stream)
    }

    pub fn vmess(self, tag: &str) -> Self {
        self.inbound(tag, "vmess", json!({"clients": []}))
    }

    pub fn trojan(self, tag: &str) -> Self {
        self.inbound(tag, "trojan", json!({"clients": []}))
    }

    /// AEAD (aes-256-gcm), with one static client, without which it would be single-user.
    pub fn shadowsocks(self, tag: &str) -> Self {
        let client =
            json!({"email": STATIC_EMAIL, "method": "aes-256-gcm", "password": random_key(16)});
        self.inbound(
            tag,
            "shadowsocks",
            json!({"network": "tcp,udp", "clients": [client]}),
        )
    }

    /// 2022-blake3-aes-128-gcm, with one static client.
    pub fn shadowsocks2022(self, tag: &str) -> Self {
        self.shadowsocks2022_of(tag, "2022-blake3-aes-128-gcm", 16)
    }

    /// 2022-blake3-aes-256-gcm, with one static client.
    pub fn shadowsocks2022_256(self, tag: &str) -> Self {
        self.shadowsocks2022_of(tag, "2022-blake3-aes-256-gcm", 32)
    }

    /// Shadowsocks 2022 without clients: single-user, no users can be added.
    pub fn ss22_single(self, tag: &str) -> Self {
        let method = "2022-blake3-aes-128-gcm";
        let settings = json!({"network": "tcp,udp", "method": method, "password": random_key(16)});
        self.inbound(tag, "shadowsocks", settings)
    }

    /// Hysteria 2 (UDP).
    pub fn hysteria(self, tag: &str) -> Self {
        let stream =
            json!({"network": "hysteria", "security": "tls", "hysteriaSettings": {"version": 2}});
        self.inbound(tag, "hysteria", json!({"version": 2, "clients": []}))
            .stream(tag, stream)
    }

    /// Has no user manager.
    pub fn socks(self, tag: &str) -> Self {
        self.inbound(tag, "socks", json!({"udp": false}))
    }

    /// Has no user manager.
    pub fn http(self, tag: &str) -> Self {
        self.inbound(tag, "http", json!({}))
    }

    fn shadowsocks2022_of(self, tag: &str, method: &str, key_bytes: usize) -> Self {
        let client = json!({"email": STATIC_EMAIL, "password": random_key(key_bytes)});
        let settings = json!({"network": "tcp,udp", "method": method,
            "password": random_key(key_bytes), "clients": [client]});
        self.inbound(tag, "shadowsocks", settings)
    }
}
