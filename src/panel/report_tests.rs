//! Reports against servers of bare TCP, which misbehave to the byte: what was not sent, what was
//! lost, and what was answered.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use super::PanelClient;
use crate::base::secret::Secret;
use crate::config::{Panel, Proxy};
use crate::model::ids::{NodeId, UserId};
use crate::model::report::{Answer, Envelope, Reply, Report, ReportId};

const TOKEN: &str = "canary-token-canary";
const USER: &str = "aaaaaaaa-0000-4000-8000-00000000000b";
/// A bound against hanging.
const LONG: Duration = Duration::from_secs(20);
/// Until a client gives up where it is to.
const SOON: Duration = Duration::from_millis(400);
const TAKEN: &str = r#"{"code":200,"message":"ok","data":null}"#;

fn report() -> Report {
    Report {
        id: ReportId(uuid::Uuid::from_u128(7)),
        node: NodeId(3),
        user: UserId::parse(USER).unwrap(),
        up: 1,
        down: u64::MAX,
        inbound: None,
        until: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn panel(url: &str) -> Panel {
    Panel {
        url: url.parse().unwrap(),
        token: Secret::new(TOKEN),
        timeout: LONG,
        proxy: None,
        body_bytes_max: 1 << 20,
        users_max: 10,
    }
}

fn client(address: SocketAddr) -> PanelClient {
    PanelClient::for_reports(panel(&format!("http://{address}/base"))).unwrap()
}

/// Hands each connection, one after the other, to `each`.
fn serve(mut each: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            each(stream);
        }
    });
    address
}

/// A whole request as it came; nothing where the connection ended before one.
fn request(stream: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        text += std::str::from_utf8(&buffer[..read]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            return Some(text);
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let line = head.lines().find_map(|line| {
        let (left, value) = line.split_once(':')?;
        left.eq_ignore_ascii_case(name).then_some(value)
    });
    line.map(str::trim)
}

fn http(head: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What a report comes to where its whole request is answered with these bytes and the end.
async fn answered(bytes: impl Into<Vec<u8>>) -> Answer {
    let bytes = bytes.into();
    let address = serve(move |mut stream| {
        if request(&mut stream).is_some() {
            // Who has read enough may have gone.
            let _ = stream.write_all(&bytes);
        }
    });
    client(address).report(&report()).await
}

async fn replied(bytes: impl Into<Vec<u8>>) -> Reply {
    match answered(bytes).await {
        Answer::Replied(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn not_sent(answer: Answer) -> String {
    match answer {
        Answer::NotSent { why } => why,
        other => panic!("{other:?}"),
    }
}

fn lost(answer: Answer) -> String {
    match answer {
        Answer::Lost { why } => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_report_is_one_plain_request_of_known_length() {
    let (seen, requests) = mpsc::channel();
    let address = serve(move |mut stream| {
        seen.send(request(&mut stream).unwrap()).unwrap();
        stream.write_all(http("200 OK", TAKEN).as_bytes()).unwrap();
    });
    let answer = client(address).report(&report()).await;
    assert!(matches!(answer, Answer::Replied(_)), "{answer:?}");
    let request = requests.recv().unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /base/api/internal/report-traffic HTTP/1.1\r\n"));
    let right = format!(
        r#"{{"uuid":"{USER}","node_id":3,"upload":1,"download":{}}}"#,
        u64::MAX
    );
    assert_eq!(body, right);
    let headers = [
        ("content-length", right.len().to_string()),
        ("content-type", "application/json".to_owned()),
        ("x-internal-token", TOKEN.to_owned()),
        ("idempotency-key", report().id.to_string()),
    ];
    for (name, value) in headers {
        assert_eq!(header(head, name), Some(&*value), "{name}");
    }
    assert_eq!(header(head, "transfer-encoding"), None);
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = listener.local_addr().unwrap();
    drop(listener);
    let why = not_sent(client(refused).report(&report()).await);
    assert!(
        why.contains(&refused.to_string()) && why.contains("refused"),
        "{why}"
    );
    let unknown = PanelClient::for_reports(panel("http://panel.invalid")).unwrap();
    not_sent(unknown.report(&report()).await);
    // Neither of these speaks TLS; the second says nothing at all.
    let plain = serve(|mut stream| {
        let _ = stream.write_all(http("400 Bad Request", "").as_bytes());
    });
    let tls = PanelClient::for_reports(panel(&format!("https://{plain}"))).unwrap();
    not_sent(tls.report(&report()).await);
    let (keep, open) = mpsc::channel();
    let silent = serve(move |stream| keep.send(stream).unwrap());
    let mut impatient = panel(&format!("https://{silent}"));
    impatient.timeout = SOON;
    let why = not_sent(
        PanelClient::for_reports(impatient)
            .unwrap()
            .report(&report())
            .await,
    );
    assert!(why.contains("no connection in time"), "{why}");
    drop(open);
}

#[tokio::test]
async fn reports_go_by_http_1_only() {
    let (seen, hellos) = mpsc::channel();
    let address = serve(move |mut stream| {
        let mut hello = vec![0; 1 << 14];
        let read = stream.read(&mut hello).unwrap();
        hello.truncate(read);
        seen.send(hello).unwrap();
    });
    let tls = PanelClient::for_reports(panel(&format!("https://{address}"))).unwrap();
    not_sent(tls.report(&report()).await);
    let hello = hellos.recv().unwrap();
    // The list of protocols: its length, then each with its own before it.
    let only = b"\x00\x09\x08http/1.1";
    assert!(hello.windows(only.len()).any(|part| part == only));
}

#[tokio::test]
async fn what_the_proxy_refuses_was_not_sent() {
    let (seen, requests) = mpsc::channel();
    let proxy = serve(move |mut stream| {
        seen.send(request(&mut stream).unwrap()).unwrap();
        let _ = stream.write_all(http("502 Bad Gateway", TAKEN).as_bytes());
    });
    let mut panel = panel("https://panel.invalid");
    panel.proxy = Some(Proxy(format!("http://{proxy}").parse().unwrap()));
    not_sent(
        PanelClient::for_reports(panel)
            .unwrap()
            .report(&report())
            .await,
    );
    let asked = requests.recv().unwrap();
    assert!(asked.starts_with("CONNECT panel.invalid:443"), "{asked}");
    assert!(!asked.contains(TOKEN), "{asked}");
}

#[tokio::test]
async fn what_was_begun_and_not_answered_whole_is_lost() {
    let first_byte = serve(|mut stream| stream.read_exact(&mut [0]).unwrap());
    lost(client(first_byte).report(&report()).await);
    let half = &http("200 OK", TAKEN)[..60];
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"cod";
    for bytes in ["", "HTTP/1.1 200", half, chunked, "nonsense\r\n\r\n"] {
        let why = lost(answered(bytes).await);
        assert!(!why.is_empty(), "{bytes}");
    }
    let not_gzip = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc";
    lost(answered(not_gzip).await);
}

#[tokio::test]
async fn a_connection_that_is_closed_unread_brings_no_answer() {
    let address = serve(drop);
    let answer = client(address).report(&report()).await;
    assert!(!matches!(answer, Answer::Replied(_)), "{answer:?}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_lost() {
    for begun in ["", "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{\"code\""] {
        let (keep, open) = mpsc::channel();
        let address = serve(move |mut stream| {
            request(&mut stream).unwrap();
            stream.write_all(begun.as_bytes()).unwrap();
            keep.send(stream).unwrap();
        });
        let mut panel = panel(&format!("http://{address}"));
        panel.timeout = SOON;
        let why = lost(
            PanelClient::for_reports(panel)
                .unwrap()
                .report(&report())
                .await,
        );
        assert!(why.contains("in time"), "{why}");
        drop(open);
    }
}

/// The panel's server closes what is idle; whoever bills must not be in doubt for that.
#[tokio::test]
async fn a_connection_that_the_panel_closed_while_idle_loses_nothing() {
    const TIMES: usize = 200;
    let (seen, requests) = mpsc::channel();
    let (tell_close, close) = mpsc::channel::<()>();
    let (tell_closed, closed) = mpsc::channel();
    let address = serve(move |mut stream| {
        while request(&mut stream).is_some() {
            seen.send(()).unwrap();
            stream.write_all(http("200 OK", TAKEN).as_bytes()).unwrap();
            close.recv().unwrap();
            stream.shutdown(std::net::Shutdown::Both).unwrap();
            tell_closed.send(()).unwrap();
        }
    });
    let client = client(address);
    let mut replies = 0;
    for _ in 0..TIMES {
        match client.report(&report()).await {
            Answer::Replied(_) => {
                replies += 1;
                // The runtime is held up meanwhile: it hears of the end only when it looks.
                tell_close.send(()).unwrap();
                closed.recv_timeout(LONG).unwrap();
            }
            Answer::NotSent { .. } => {}
            other => panic!("after {replies}: {other:?}"),
        }
    }
    assert_eq!(requests.try_iter().count(), replies);
    assert!(replies > TIMES / 2, "{replies}");
}

#[tokio::test]
async fn the_panels_word_is_read_whole() {
    let head = "404 Not Found\r\nRetry-After: 7200\r\nIdempotency-Key: ";
    let body = r#" {"data":{"a":[]},"message":" uuid not found ","code":404} "#;
    let reply = replied(http(&format!("{head}{}", report().id), body)).await;
    let envelope = Envelope {
        code: 404,
        message: " uuid not found ".to_owned(),
    };
    assert_eq!(reply.envelope, Some(envelope));
    assert_eq!((reply.status, reply.echoes_key), (404, true));
    assert_eq!(reply.retry_after, Some(Duration::from_hours(1)));
    assert!(
        reply.shown.ends_with("with code 404: \" uuid not found\""),
        "{}",
        reply.shown
    );
    let old = replied(format!(
        "HTTP/1.0 200 OK\r\nIdempotency-Key: other\r\n\r\n{TAKEN}"
    ))
    .await;
    assert_eq!(
        (old.status, old.echoes_key, old.retry_after),
        (200, false, None)
    );
    assert_eq!(old.envelope.map(|envelope| envelope.code), Some(200));
    let bare = replied(http("200 OK", r#"{"code":-1,"message":null}"#)).await;
    let envelope = bare.envelope.unwrap();
    assert_eq!((envelope.code, &*envelope.message), (-1, ""));
}

#[tokio::test]
async fn whatever_is_not_the_panels_word_is_none() {
    let bodies = [
        String::new(),
        "<html>".to_owned(),
        "null".to_owned(),
        "200".to_owned(),
        r#"[200,"ok",null]"#.to_owned(),
        "{}".to_owned(),
        r#"{"code":"200"}"#.to_owned(),
        r#"{"code":200.0}"#.to_owned(),
        r#"{"code":99999999999999999999}"#.to_owned(),
        r#"{"code":200,"message":5}"#.to_owned(),
        r#"{"code":200,"code":200}"#.to_owned(),
        r#"{"code":400,"message":"a","message":"b"}"#.to_owned(),
        format!("{TAKEN}{TAKEN}"),
        format!("{TAKEN},"),
        TAKEN[..TAKEN.len() - 1].to_owned(),
        format!(r#"{{"code":200,"message":"{}"}}"#, "x".repeat(64 << 10)),
    ];
    for body in bodies {
        let reply = replied(http("200 OK", &body)).await;
        assert_eq!(reply.envelope, None, "{body}");
        assert!(
            reply.shown.contains("answered 200 OK, but "),
            "{}",
            reply.shown
        );
    }
    let padded = format!("{TAKEN}{}", " ".repeat((64 << 10) - TAKEN.len()));
    assert!(replied(http("200 OK", &padded)).await.envelope.is_some());
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_tells_its_host_only() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let to = elsewhere.local_addr().unwrap();
    for status in [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
    ] {
        let head = format!("{status}\r\nLocation: http://u:{TOKEN}@{to}/p?q={TOKEN}");
        let reply = replied(http(&head, TAKEN)).await;
        assert_eq!(reply.envelope, None, "{status}");
        assert!(
            reply.shown.contains("a redirect to \"127.0.0.1\","),
            "{}",
            reply.shown
        );
        assert!(!reply.shown.contains(TOKEN), "{}", reply.shown);
    }
    let came = elsewhere.accept().map(drop).unwrap_err();
    assert_eq!(came.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn neither_token_nor_user_is_shown() {
    let words = format!("{TOKEN} {USER} {} end", "x".repeat(300));
    let bodies = [format!(r#"{{"code":500,"message":"{words}"}}"#), words];
    for body in bodies {
        let reply = replied(http("500 Oops", &body)).await;
        assert!(reply.shown.contains("*** aaaaaaaa… xxx"), "{}", reply.shown);
        assert!(!reply.shown.contains("end") && !reply.shown.contains(TOKEN));
        assert!(reply.shown.chars().count() < 400, "{}", reply.shown);
    }
}
