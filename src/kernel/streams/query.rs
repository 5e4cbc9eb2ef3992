//! What the query of a stream asks for. Pure.

use std::time::Duration;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::super::error::bad_request;
use super::snapshot::Cut;
use crate::http::HttpError;
use crate::model::event::{EventId, Topic};

/// Seconds between two messages of a status, by default and within which bounds.
const INTERVAL_DEFAULT: u32 = 5;
const INTERVAL: std::ops::RangeInclusive<u32> = 1..=60;
/// By which a client that comes back says what it heard last.
const LAST_EVENT_ID: &str = "last-event-id";

/// As a stream of the status is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StatusQuery {
    /// Seconds between two messages; 5 by default.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 60, nullable = false)]
    interval: Option<String>,
    /// `full` by default; `diff`: merge patches (RFC 7396) of the last message.
    #[param(value_type = Option<Mode>, inline, nullable = false)]
    mode: Option<String>,
    /// Events that are told in between: `node`, `service`, `runtime`, with commas.
    #[param(nullable = false)]
    events: Option<String>,
    /// Parts of the snapshot, with commas, or `all`; without it users are only counted.
    #[param(nullable = false)]
    include: Option<String>,
    /// The same as `include`.
    #[param(nullable = false)]
    fields: Option<String>,
    /// Hides names and tags of users.
    #[param(value_type = Option<bool>, nullable = false)]
    redact_users: Option<String>,
    /// Adds the summary of users' rate limits.
    #[param(value_type = Option<bool>, nullable = false)]
    rate_limit_summary: Option<String>,
}

/// As a stream of events is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Which: `node`, `service`, `runtime`, with commas; all by default.
    #[param(nullable = false)]
    events: Option<String>,
    /// Goes on after this event, where the header `Last-Event-ID` cannot be sent.
    #[param(nullable = false)]
    last_event_id: Option<String>,
}

/// What a message of a status holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Mode {
    /// All of it.
    Full,
    /// What changed.
    Diff,
}

/// Which events are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topics(Vec<Topic>);

/// A stream of the status that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StatusAsked {
    pub(super) cut: Cut,
    pub(super) interval: Duration,
    pub(super) mode: Mode,
    pub(super) events: Option<EventsAsked>,
}

/// Events that are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EventsAsked {
    pub(super) topics: Topics,
    pub(super) after: Option<EventId>,
}

/// What a query that axum has read comes to.
pub(super) fn read<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, HttpError> {
    let read = query.map(|Query(query)| query);
    read.map_err(|rejection| bad_request(rejection.body_text()))
}

impl Topics {
    pub(super) fn contain(&self, topic: Topic) -> bool {
        self.0.contains(&topic)
    }

    /// The topics that a list names, if it names any.
    fn parse(list: Option<&str>) -> Result<Option<Self>, HttpError> {
        let named = list.unwrap_or_default().split(',').map(str::trim);
        let mut topics = Vec::new();
        for name in named.filter(|name| !name.is_empty()) {
            let Some(topic) = Topic::parse(name) else {
                let message = "events is a list of node, service and runtime, with commas";
                return Err(bad_request(message));
            };
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        Ok((!topics.is_empty()).then_some(Self(topics)))
    }

    fn all() -> Self {
        Self(vec![Topic::Node, Topic::Service, Topic::Runtime])
    }
}

impl StatusQuery {
    pub(super) fn asked(&self, headers: &HeaderMap) -> Result<StatusAsked, HttpError> {
        let include = self.include.as_deref().or(self.fields.as_deref());
        let cut = Cut::parse(include).map_err(bad_request)?;
        let events = match Topics::parse(self.events.as_deref())? {
            Some(topics) => Some(EventsAsked {
                topics,
                after: last_event_id(headers, None)?,
            }),
            None => None,
        };
        Ok(StatusAsked {
            cut: Cut {
                redact_users: flag("redact_users", self.redact_users.as_deref())?,
                rate_limit_summary: flag("rate_limit_summary", self.rate_limit_summary.as_deref())?,
                ..cut
            },
            interval: interval(self.interval.as_deref())?,
            mode: mode(self.mode.as_deref())?,
            events,
        })
    }
}

impl EventsQuery {
    pub(super) fn asked(&self, headers: &HeaderMap) -> Result<EventsAsked, HttpError> {
        let topics = Topics::parse(self.events.as_deref())?;
        Ok(EventsAsked {
            topics: topics.unwrap_or_else(Topics::all),
            after: last_event_id(headers, self.last_event_id.as_deref())?,
        })
    }
}

fn interval(text: Option<&str>) -> Result<Duration, HttpError> {
    let seconds = text.map_or(Ok(INTERVAL_DEFAULT), |text| text.trim().parse());
    match seconds {
        Ok(seconds) if INTERVAL.contains(&seconds) => Ok(Duration::from_secs(seconds.into())),
        _ => Err(bad_request("interval is a number of seconds from 1 to 60")),
    }
}

fn mode(text: Option<&str>) -> Result<Mode, HttpError> {
    match text.map(|text| text.trim().to_ascii_lowercase()).as_deref() {
        None | Some("" | "full") => Ok(Mode::Full),
        Some("diff") => Ok(Mode::Diff),
        Some(_) => Err(bad_request("mode is full or diff")),
    }
}

fn flag(name: &str, text: Option<&str>) -> Result<bool, HttpError> {
    match text.map(|text| text.trim().to_ascii_lowercase()).as_deref() {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(_) => Err(bad_request(format!("{name} is true or false"))),
    }
}

/// The header wins: who comes back asks for the same address as before, which may hold an older one.
fn last_event_id(headers: &HeaderMap, query: Option<&str>) -> Result<Option<EventId>, HttpError> {
    let header = headers
        .get(LAST_EVENT_ID)
        .map(|id| id.to_str().unwrap_or("?"));
    let Some(text) = header.or(query).filter(|id| !id.trim().is_empty()) else {
        return Ok(None);
    };
    let refusal = || bad_request("Last-Event-ID is no event's id; leave it out");
    EventId::parse(text).map(Some).ok_or_else(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "019ab700-ca15-728b-b54f-17dc203acc2f";
    const OTHER_ID: &str = "019ab700-ca15-728b-b54f-17dc203acc30";

    fn query<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, HttpError> {
        let uri = format!("http://localhost/?{text}").parse().unwrap();
        read(Query::try_from_uri(&uri))
    }

    fn status(text: &str) -> Result<StatusAsked, HttpError> {
        query::<StatusQuery>(text)?.asked(&HeaderMap::new())
    }

    fn events(text: &str, header: Option<&str>) -> Result<EventsAsked, HttpError> {
        let mut headers = HeaderMap::new();
        if let Some(id) = header {
            headers.insert(LAST_EVENT_ID, id.parse().unwrap());
        }
        query::<EventsQuery>(text)?.asked(&headers)
    }

    #[test]
    fn a_status_is_told_whole_every_5_s_unless_it_is_asked_for_otherwise() {
        let asked = status("").unwrap();
        assert_eq!((asked.interval.as_secs(), asked.mode), (5, Mode::Full));
        assert_eq!((asked.cut, asked.events), (Cut::default(), None));
        let asked =
            status("interval=60&mode=DIFF&fields=nodes&redact_users=true&events=node").unwrap();
        assert_eq!((asked.interval.as_secs(), asked.mode), (60, Mode::Diff));
        assert!(asked.cut.redact_users && !asked.cut.wants("users"));
        assert!(asked.events.unwrap().topics.contain(Topic::Node));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "interval=0",
            "interval=61",
            "interval=5s",
            "interval=",
            "interval=1&interval=2",
            "mode=all",
            "redact_users=yes",
            "rate_limit_summary=2",
            "events=node,nodes",
        ] {
            assert!(status(wrong).is_err(), "{wrong}");
        }
        assert!(events("last_event_id=7", None).is_err());
        assert!(events("", Some("seven")).is_err());
    }

    #[test]
    fn events_are_all_or_those_of_the_list_and_go_on_where_the_header_says() {
        let all = events("events=", None).unwrap();
        assert!(all.topics.contain(Topic::Runtime) && all.after.is_none());
        let some = events("events=service,Node,", None).unwrap();
        assert!(!some.topics.contain(Topic::Runtime) && some.topics.contain(Topic::Service));
        let in_query = format!("last_event_id={OTHER_ID}");
        let after = |header| events(&in_query, header).unwrap().after;
        assert_eq!(after(None), EventId::parse(OTHER_ID));
        assert_eq!(after(Some(ID)), EventId::parse(ID));
    }
}
