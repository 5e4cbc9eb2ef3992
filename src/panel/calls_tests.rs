//! An operator's calls against a server of bare TCP: what is sent, what is taken from an answer, and
//! that no error tells the token or a user.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Booked, PanelClient, PanelError, Reason, Registration, Verdict};
use crate::base::secret::Secret;
use crate::config::Panel;
use crate::model::ids::{NodeId, UserId};

const TOKEN: &str = "canary-token-canary";
const USER: &str = "aaaaaaaa-0000-4000-8000-00000000000b";
/// A bound against hanging.
const LONG: Duration = Duration::from_secs(20);

/// A panel that answers each request with this, and what it was asked.
fn panel(status: &str, body: &str) -> (PanelClient, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (seen, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            let mut request = Vec::new();
            while !is_whole(&request) {
                let mut part = [0; 4096];
                let read = stream.read(&mut part).unwrap();
                request.extend_from_slice(&part[..read]);
            }
            let _ = seen.send(String::from_utf8(request).unwrap());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let config = Panel {
        url: url.parse().unwrap(),
        token: Secret::new(TOKEN),
        timeout: LONG,
        proxy: None,
        body_bytes_max: 4096,
        users_max: 10,
    };
    (PanelClient::new(config).unwrap(), requests)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

fn user() -> UserId {
    UserId::parse(USER).unwrap()
}

fn node() -> Registration {
    Registration {
        name: "a node".to_owned(),
        address: "node.example.org".to_owned(),
        port: 443,
        protocol: "vless".to_owned(),
        config: json!({"sni": "example.org"}),
        status: None,
        sort_order: None,
        plan_ids: Vec::new(),
    }
}

fn success(data: &Value) -> String {
    json!({"code": 200, "message": "success", "data": data}).to_string()
}

async fn verdict_of(data: &Value) -> Result<Verdict, PanelError> {
    let (panel, _requests) = panel("200 OK", &success(data));
    panel.auth(user(), NodeId(3)).await
}

async fn booked_of(data: &Value) -> Result<Booked, PanelError> {
    let (panel, _requests) = panel("200 OK", &success(data));
    panel.booked(user()).await
}

async fn id_of(data: &Value) -> Result<NodeId, PanelError> {
    let (panel, _requests) = panel("200 OK", &success(data));
    panel.register(&node()).await
}

#[tokio::test]
async fn each_call_is_one_plain_request_with_the_token() {
    let (panel, requests) = panel("200 OK", &success(&json!({"allow": true, "id": 9})));
    panel.auth(user(), NodeId(3)).await.unwrap();
    panel.booked(user()).await.unwrap();
    assert_eq!(panel.register(&node()).await.unwrap(), NodeId(9));
    for begins in [
        format!("GET /base/api/internal/auth?uuid={USER}&node_id=3 HTTP/1.1\r\n"),
        format!("GET /base/api/internal/user-traffic?uuid={USER} HTTP/1.1\r\n"),
        "POST /base/api/internal/register-node HTTP/1.1\r\n".to_owned(),
    ] {
        let request = requests.recv_timeout(LONG).unwrap();
        assert!(request.starts_with(&begins), "{request}");
        assert!(request.contains(&format!("x-internal-token: {TOKEN}\r\n")));
        if let Some((_, body)) = request
            .split_once("\r\n\r\n")
            .filter(|(_, b)| !b.is_empty())
        {
            let sent: Value = serde_json::from_str(body).unwrap();
            // What was not said is left out: the panel has its own defaults.
            let right = json!({
                "name": "a node", "address": "node.example.org", "port": 443,
                "protocol": "vless", "config": {"sni": "example.org"},
            });
            assert_eq!(sent, right);
            assert!(request.contains("content-type: application/json\r\n"));
        }
    }
}

#[tokio::test]
async fn amounts_are_taken_as_numbers_and_as_text_and_may_lack() {
    let data = json!({
        "user_id": 4, "status": 1, "traffic_total": "18446744073709551615", "traffic_used": 7,
        "upload_24h": null,
    });
    let booked = booked_of(&data).await.unwrap();
    assert_eq!(booked.traffic_total, Some(u64::MAX));
    assert_eq!((booked.traffic_used, booked.upload_24h), (Some(7), None));
    assert_eq!(booked.status.as_deref(), Some("1"));
    assert_eq!(booked.download_24h, None);
}

#[tokio::test]
async fn what_is_not_plainly_an_answer_is_an_error() {
    for data in [
        json!(null),
        json!([]),
        json!([true, "x"]),
        json!({}),
        json!({"allow": "true"}),
        json!({"allow": 1}),
        json!({"allow": null}),
        json!({"allow": true, "user_id": -1}),
    ] {
        assert!(verdict_of(&data).await.is_err(), "{data}");
    }
    for data in [
        json!(null),
        json!([]),
        json!({"traffic_used": -1}),
        json!({"traffic_used": 1.5}),
        json!({"traffic_used": "much"}),
        json!({"traffic_used": "18446744073709551616"}),
        json!({"status": {}}),
    ] {
        assert!(booked_of(&data).await.is_err(), "{data}");
    }
    for data in [
        json!(null),
        json!({}),
        json!({"id": "7"}),
        json!({"id": -7}),
        json!({"id": 0.5}),
    ] {
        assert!(id_of(&data).await.is_err(), "{data}");
    }
}

#[tokio::test]
async fn no_error_and_no_reason_tells_the_token_or_a_user() {
    let spoiled = format!("{TOKEN} {USER} \u{1b}[31m");
    let refusal = json!({"code": 403, "message": spoiled}).to_string();
    let unfit = success(&json!({"allow": spoiled, "status": [spoiled], "id": spoiled}));
    let bodies = [
        ("403 Forbidden", refusal.as_str()),
        ("502 Bad Gateway", spoiled.as_str()),
        ("200 OK", spoiled.as_str()),
        ("200 OK", unfit.as_str()),
        ("302 Found", ""),
        ("404 Not Found", ""),
    ];
    for (status, body) in bodies {
        let (panel, _requests) = panel(status, body);
        for told in [
            panel.auth(user(), NodeId(3)).await.unwrap_err().to_string(),
            panel.booked(user()).await.unwrap_err().to_string(),
            panel.register(&node()).await.unwrap_err().to_string(),
        ] {
            let is_safe = !told.contains(TOKEN) && !told.contains(USER) && !told.contains('\u{1b}');
            assert!(is_safe, "{told}");
            assert!(told.contains("/base/api/internal/"), "{told}");
        }
    }
    let verdict = verdict_of(&json!({"allow": false, "reason": spoiled})).await;
    let reason = verdict.unwrap().reason.unwrap();
    assert!(
        reason.starts_with("*** aaaaaaaa…") && !reason.contains('\u{1b}'),
        "{reason}"
    );
    let booked = booked_of(&json!({"status": spoiled})).await.unwrap();
    assert!(!booked.status.unwrap().contains(USER));
}

#[tokio::test]
async fn a_panel_that_is_away_and_an_endless_answer_are_errors_without_the_user() {
    let (panel, _requests) = panel("200 OK", &"x".repeat(5000));
    let error = panel.auth(user(), NodeId(3)).await.unwrap_err();
    assert!(
        matches!(error.reason, Reason::TooLarge { .. }),
        "{:?}",
        error.reason
    );
    let mut config = panel.config.clone();
    config.url = "http://127.0.0.1:9".parse().unwrap();
    let away = PanelClient::new(config).unwrap();
    let told = away.auth(user(), NodeId(3)).await.unwrap_err().to_string();
    assert!(
        told.contains("refused") && !told.contains(&USER[..8]),
        "{told}"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(json in r#"[\[\]{}",:0-9a-z_\\ ]{0,60}"#) {
        let _ = serde_json::from_str::<Verdict>(&json);
        let _ = serde_json::from_str::<Booked>(&json);
    }
}
