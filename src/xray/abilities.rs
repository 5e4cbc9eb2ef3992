//! What a running core offers: which services its API has, and, by the calls that it knows, which
//! versions it can be of, for none of its calls tells its version. Asks only what changes nothing.

use super::client::{XrayClient, handler, stats};
use super::dialect::Dialect;
use super::error::XrayError;
use super::proto::xray::app::router::command as routing;

/// How a core begins its answer to a call that a service of its does not have. Whoever says anything
/// else, be it no core at all, does not have the service.
const NO_METHOD: &str = "unknown method";

/// A service of Xray's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Users and inbounds.
    Handler,
    /// Counters.
    Stats,
    /// Rules.
    Routing,
}

impl Service {
    /// Its name among `api.services` of Xray's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handler => "HandlerService",
            Self::Stats => "StatsService",
            Self::Routing => "RoutingService",
        }
    }
}

/// Whether a core knows a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knows {
    /// It does.
    Yes,
    /// Its service is there, and has no such call: the core is older.
    No,
    /// Its service is not offered: that tells no version.
    NoService,
}

impl Knows {
    /// What an answer, be it a refusal, tells. `Err`: nobody has answered.
    fn of<T>(answer: Result<T, XrayError>) -> Result<Self, XrayError> {
        match answer {
            Err(XrayError::Unimplemented(text)) if text.starts_with(NO_METHOD) => Ok(Self::No),
            Err(XrayError::Unimplemented(_)) => Ok(Self::NoService),
            Err(error) if error.is_down() || matches!(error, XrayError::Timeout(_)) => Err(error),
            _ => Ok(Self::Yes),
        }
    }
}

/// What a core offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// The kind of core.
    pub core: Dialect,
    /// Calls by the version in which each came, oldest first, and whether this core knows them.
    pub calls: Vec<(&'static str, Knows)>,
    /// Services that its API does not offer.
    pub lacking: Vec<Service>,
}

impl Abilities {
    /// In words: of which versions it can be.
    pub fn versions(&self) -> String {
        if self.core == Dialect::V2Ray4 {
            return "V2Ray 4".to_owned();
        }
        let known = self.calls.iter().filter(|(_, knows)| *knows == Knows::Yes);
        let unknown = self.calls.iter().filter(|(_, knows)| *knows == Knows::No);
        let from = known.map(|(since, _)| *since).next_back();
        let before = unknown.map(|(since, _)| *since).next();
        match (from, before) {
            (Some(from), None) => format!("Xray {from} or later"),
            (Some(from), Some(before)) => format!("Xray {from} or later, before {before}"),
            (None, Some(before)) => format!("Xray before {before}"),
            (None, None) => "Xray".to_owned(),
        }
    }

    /// Whether its API offers that service.
    pub fn offers(&self, service: Service) -> bool {
        !self.lacking.contains(&service)
    }
}

impl XrayClient {
    /// Asks for each of a few calls whether the core knows it.
    pub async fn abilities(&self) -> Result<Abilities, XrayError> {
        use Service::{Handler, Routing, Stats};
        let counted = Knows::of(self.ask_count().await)?;
        let counters = Knows::of(self.sys_stats().await)?;
        let rules = Knows::of(self.ask_rules().await)?;
        let calls = vec![
            ("24.11.5", counted),
            ("25.2.18", Knows::of(self.online_addresses("").await)?),
            ("25.6.7", Knows::of(self.ask_tags().await)?),
            ("26.1.13", Knows::of(self.online_users().await)?),
            ("26.1.23", rules),
            ("26.4.13", Knows::of(self.ask_who_is_online().await)?),
        ];
        let services = [(Handler, counted), (Stats, counters), (Routing, rules)];
        let lacking = services
            .into_iter()
            .filter(|(_, knows)| *knows == Knows::NoService)
            .map(|(service, _)| service);
        Ok(Abilities {
            core: self.dialect().await?,
            calls,
            lacking: lacking.collect(),
        })
    }

    async fn ask_count(&self) -> Result<(), XrayError> {
        let mut client = self.handler.clone();
        let of_no_inbound = handler::GetInboundUserRequest::default();
        let call = client.get_inbound_users_count(of_no_inbound);
        self.within("GetInboundUsersCount", 1, call).await.map(drop)
    }

    async fn ask_tags(&self) -> Result<(), XrayError> {
        let mut client = self.handler.clone();
        let request = handler::ListInboundsRequest { is_only_tags: true };
        let call = client.list_inbounds(request);
        self.within("ListInbounds", 1, call).await.map(drop)
    }

    async fn ask_rules(&self) -> Result<(), XrayError> {
        let mut client = self.routing.clone();
        let call = client.list_rule(routing::ListRuleRequest {});
        self.within("ListRule", 1, call).await.map(drop)
    }

    async fn ask_who_is_online(&self) -> Result<(), XrayError> {
        let mut client = self.stats.clone();
        let call = client.get_users_stats(stats::GetUsersStatsRequest::default());
        self.within("GetUsersStats", 1, call).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(core: Dialect, calls: &[(&'static str, Knows)]) -> String {
        let abilities = Abilities {
            core,
            calls: calls.to_vec(),
            lacking: Vec::new(),
        };
        abilities.versions()
    }

    #[test]
    fn the_versions_lie_between_the_newest_call_it_knows_and_the_oldest_it_does_not() {
        use Knows::{No, NoService, Yes};
        let xray = |calls: &[_]| versions(Dialect::Xray, calls);
        assert_eq!(xray(&[("1", Yes), ("2", Yes)]), "Xray 2 or later");
        assert_eq!(
            xray(&[("1", Yes), ("2", Yes), ("3", No), ("4", No)]),
            "Xray 2 or later, before 3"
        );
        assert_eq!(xray(&[("1", No), ("2", No)]), "Xray before 1");
        assert_eq!(xray(&[("1", NoService), ("2", NoService)]), "Xray");
        assert_eq!(xray(&[("1", Yes), ("2", NoService)]), "Xray 1 or later");
        assert_eq!(versions(Dialect::V2Ray4, &[("1", No)]), "V2Ray 4");
    }

    #[test]
    fn a_refusal_tells_that_the_call_is_known_and_silence_tells_nothing() {
        let lacking = |text: &str| Knows::of::<()>(Err(XrayError::Unimplemented(text.to_owned())));
        assert_eq!(lacking("unknown service x.y"), Ok(Knows::NoService));
        assert_eq!(lacking("unknown method a for service b"), Ok(Knows::No));
        assert_eq!(
            Knows::of::<()>(Err(XrayError::InboundMissing)),
            Ok(Knows::Yes)
        );
        let away = XrayError::Broken("gone".to_owned());
        assert_eq!(Knows::of::<()>(Err(away.clone())), Err(away));
    }
}
