//! Builds the configuration of an Xray server: an API, statistics for level 0, and inbounds that
//! each have a tag and a free port of their own.
//!
//! What the builder does not offer is done on the JSON itself, by [`ServerConfig::edit`].
use serde_json::{Value, json};

use super::ports::free_port;
use super::ready::api_gate;
use super::route::{ClientProtocol, Route};

/// The certificate of `localhost` (to the year 2120) that TLS inbounds present; a test's own.
pub const CERTIFICATE: &str = include_str!("tls/localhost.crt");
const CERTIFICATE_KEY: &str = include_str!("tls/localhost.key");

#[derive(Clone, Debug)]
pub struct ServerConfig {
    json: Value,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerConfig {
    /// An API on a free TCP port with all services that the agent uses, and no inbound yet.
    pub fn new() -> Self {
        let api = format!(
            "127.0.0.1:{}",
            free_port().expect("a free port for the API")
        );
        let counted =
            json!({"statsUserUplink": true, "statsUserDownlink": true, "statsUserOnline": true});
        let json = json!({
            "log": {"loglevel": "warning"},
            "api": {"tag": "api", "listen": api, "services": []},
            "stats": {},
            "policy": {"levels": {"0": counted}},
            "inbounds": [],
            // Newer Xrays refuse private destinations, where the tests' origin is.
            "outbounds": [{"tag": "direct", "protocol": "freedom",
                "settings": {"finalRules": [{"action": "allow"}]}}],
        });
        Self { json }.services(&["HandlerService", "StatsService", "RoutingService"])
    }

    /// Any other protocol, on a free port.
    pub fn inbound(mut self, tag: &str, protocol: &str, settings: Value) -> Self {
        let port = free_port().expect("a free port for an inbound");
        let inbound = json!({"tag": tag, "listen": "127.0.0.1", "port": port,
            "protocol": protocol, "settings": settings});
        list(&mut self.json["inbounds"]).push(inbound);
        self
    }

    /// Where the API listens: `HOST:PORT`, `/path/of/socket` or `@abstract-name`.
    pub fn api_on(self, listen: &str) -> Self {
        self.edit(|json| json["api"]["listen"] = listen.into())
    }

    /// An API by doors instead of a listener, as older Xrays have it: one door for each port.
    pub fn api_behind_doors(self, ports: &[u16]) -> Self {
        self.edit(|json| {
            json["api"]["listen"].take();
            let door = |port: &u16| {
                json!({"tag": format!("door-{port}"), "listen": "127.0.0.1", "port": port,
                    "protocol": "dokodemo-door", "settings": {"address": "127.0.0.1"}})
            };
            let doors: Vec<_> = ports.iter().map(door).collect();
            let tags: Vec<_> = doors.iter().map(|door| door["tag"].clone()).collect();
            list(&mut json["inbounds"]).extend(doors);
            // The type is for older cores, which know others.
            let rule = json!({"type": "field", "inboundTag": tags, "outboundTag": "api"});
            json["routing"] = json!({"rules": [rule]});
        })
    }

    pub fn services(self, names: &[&str]) -> Self {
        self.edit(|json| json["api"]["services"] = json!(names))
    }

    /// As of a server that keeps no statistics: every question for counters is answered with none.
    pub fn without_stats(self) -> Self {
        self.without("stats")
    }

    /// As of a server whose policy counts no users, though it keeps statistics.
    pub fn without_policy(self) -> Self {
        self.without("policy")
    }

    fn without(self, section: &str) -> Self {
        self.edit(|json| {
            let sections = json.as_object_mut().expect("a configuration is an object");
            sections.remove(section);
        })
    }

    /// Adds a static client to an inbound, as Xray's configuration writes it.
    pub fn with_client(mut self, tag: &str, client: Value) -> Self {
        list(&mut self.inbound_mut(tag)["settings"]["clients"]).push(client);
        self
    }

    /// Where an inbound listens, instead of on 127.0.0.1; `::` takes IPv4 as well.
    pub fn listening_on(mut self, tag: &str, address: &str) -> Self {
        self.inbound_mut(tag)["listen"] = address.into();
        self
    }

    /// Sets an inbound's transport; under TLS it presents the lab's certificate.
    pub fn stream(mut self, tag: &str, mut settings: Value) -> Self {
        if settings["security"] == "tls" {
            let lines = |pem: &str| pem.lines().map(Value::from).collect::<Vec<_>>();
            let pair = json!({"certificate": lines(CERTIFICATE), "key": lines(CERTIFICATE_KEY)});
            settings["tlsSettings"] = json!({"certificates": [pair]});
        }
        self.inbound_mut(tag)["streamSettings"] = settings;
        self
    }

    /// Anything else.
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.json);
        self
    }

    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The API's address, as the agent's `XRAY_API_ADDR` takes it.
    pub fn api_addr(&self) -> String {
        api_gate(&self.json)
            .expect("the API's address is one")
            .as_api_addr()
    }

    pub fn port(&self, tag: &str) -> u16 {
        let port = self.inbound_json(tag)["port"]
            .as_u64()
            .expect("a port is a number");
        u16::try_from(port).expect("a port has 16 bits")
    }

    /// What a client needs to come in by that inbound as that user.
    pub fn route(&self, tag: &str, uuid: &str) -> Route {
        Route::new(
            ClientProtocol::of_inbound(self.inbound_json(tag)),
            self.port(tag),
            uuid,
        )
    }

    pub fn inbound_json(&self, tag: &str) -> &Value {
        let inbounds = self.json["inbounds"]
            .as_array()
            .expect("inbounds are a list");
        let found = inbounds.iter().find(|inbound| inbound["tag"] == tag);
        found.unwrap_or_else(|| panic!("the configuration has no inbound {tag}"))
    }

    fn inbound_mut(&mut self, tag: &str) -> &mut Value {
        let found = list(&mut self.json["inbounds"])
            .iter_mut()
            .find(|it| it["tag"] == tag);
        found.unwrap_or_else(|| panic!("the configuration has no inbound {tag}"))
    }
}

impl From<ServerConfig> for Value {
    fn from(config: ServerConfig) -> Self {
        config.json
    }
}

impl From<&ServerConfig> for Value {
    fn from(config: &ServerConfig) -> Self {
        config.json.clone()
    }
}

fn list(value: &mut Value) -> &mut Vec<Value> {
    value
        .as_array_mut()
        .expect("this part of a configuration is a list")
}
