//! A listener with routes of its own, over real sockets: what routes may do, and what they cannot.

use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};

use super::body::Meter;
use super::exchange::in_time;
use super::*;
use crate::base::supervise::{Ended, Kind, Supervisor};

/// Against hanging.
const LONG: Duration = Duration::from_mins(1);
/// The one stream of these tests has begun.
static ENTERED: Notify = Notify::const_new();
/// Well over what bodies may have, well under what those of bulk may have.
const LARGE: usize = 200 << 10;

fn routes() -> Router {
    let length = async |body: Bytes| body.len().to_string();
    let refuses = async || -> Result<(), HttpError> {
        Err(HttpError::internal("the cause that only the log is told"))
    };
    let streams = async |Extension(client): Extension<Client>| match client.become_stream() {
        Ok(()) => {
            client.authenticated();
            ENTERED.notify_one();
            client.shutdown().requested().await;
            "good-bye"
        }
        Err(_) => "no",
    };
    Router::new()
        .route("/small", post(length))
        .route("/bulk", post(length).layer(axum::middleware::from_fn(bulk)))
        .route("/panics", get(async || -> () { panic!("of a route") }))
        .route("/fails", get(refuses))
        .route("/streams", get(streams))
}

/// Runs what is to be asked of a listener, then stops it in order.
async fn with_listener(asked: impl AsyncFnOnce(SocketAddr)) -> Ended {
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let listener = Listener {
        name: "http",
        address,
        tls: None,
        hosts: Vec::new(),
        router: routes(),
        admission: Admission::default(),
    };
    let mut supervisor = Supervisor::new();
    supervisor
        .tasks()
        .task("http", Kind::Essential, move |shutdown, _| {
            listener.clone().run(shutdown, || {})
        });
    let (done, stop) = oneshot::channel::<()>();
    let asked = async {
        while TcpStream::connect(address).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        asked(address).await;
        drop(done);
    };
    let stop = async { drop(stop.await) };
    let ((), ended) = tokio::time::timeout(LONG, async {
        tokio::join!(asked, supervisor.run(stop, Duration::from_secs(15)))
    })
    .await
    .unwrap();
    ended
}

/// Sends a head and a body and reads to the end.
async fn ask(address: SocketAddr, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{head}\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut answer = Vec::new();
    stream.write_all(head.as_bytes()).await.unwrap();
    // A refusal may come before all is sent.
    let _ = stream.write_all(body).await;
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn only_a_bulk_route_takes_a_large_body() {
    with_listener(async |at| {
        let small = ask(at, "POST /small HTTP/1.1", &[b'x'; 1000]).await;
        assert!(
            small.starts_with("HTTP/1.1 200 ") && small.ends_with("\r\n1000"),
            "{small}"
        );
        let bulk = ask(at, "POST /bulk HTTP/1.1", &vec![b'x'; LARGE]).await;
        assert!(bulk.ends_with(&format!("\r\n{LARGE}")), "{bulk}");
        // Only the head: nothing is sent that the refusal could be lost over.
        let mut stream = TcpStream::connect(at).await.unwrap();
        let head = format!("POST /small HTTP/1.1\r\nhost: {at}\r\ncontent-length: {LARGE}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut large = String::new();
        stream.read_to_string(&mut large).await.unwrap();
        assert!(large.starts_with("HTTP/1.1 413 "), "{large}");
        assert!(
            large.ends_with(r#""message":"the body is larger than 65536 bytes"}"#),
            "{large}"
        );
    })
    .await;
}

#[tokio::test]
async fn who_waits_to_be_asked_for_a_body_is_asked_by_the_route_or_not_at_all() {
    with_listener(async |at| {
        let head = |path: &str| {
            format!(
                "POST {path} HTTP/1.1\r\nhost: {at}\r\nexpect: 100-continue\r\n\
                 content-length: 5\r\n\r\n"
            )
        };
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(head("/small").as_bytes()).await.unwrap();
        let mut asked = [0; 25];
        stream.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"12345").await.unwrap();
        let mut answered = [0; 12];
        stream.read_exact(&mut answered).await.unwrap();
        assert_eq!(&answered, b"HTTP/1.1 200");
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(head("/nowhere").as_bytes()).await.unwrap();
        let mut refused = String::new();
        stream.read_to_string(&mut refused).await.unwrap();
        assert!(refused.starts_with("HTTP/1.1 404 "), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn a_route_that_panics_or_fails_is_answered_for_and_tells_the_client_nothing() {
    let ended = with_listener(async |at| {
        for path in ["/panics", "/fails", "/panics"] {
            let answer = ask(at, &format!("GET {path} HTTP/1.1"), b"").await;
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
            assert!(answer.contains(r#""message":"internal error;"#), "{answer}");
            assert!(
                !answer.contains("of a route") && !answer.contains("cause"),
                "{answer}"
            );
            assert!(answer.contains("x-request-id: "), "{answer}");
        }
    })
    .await;
    assert_eq!(ended, Ended::Stopped);
}

#[tokio::test]
async fn a_stream_is_told_of_the_stop_and_ends_in_its_own_words() {
    let mut stream = None;
    let ended = with_listener(async |at| {
        let mut opened = TcpStream::connect(at).await.unwrap();
        let head = format!("GET /streams HTTP/1.1\r\nhost: {at}\r\n\r\n");
        opened.write_all(head.as_bytes()).await.unwrap();
        ENTERED.notified().await;
        stream = Some(opened);
    })
    .await;
    assert_eq!(ended, Ended::Stopped);
    let mut said = String::new();
    stream.unwrap().read_to_string(&mut said).await.unwrap();
    assert!(
        said.starts_with("HTTP/1.1 200 ") && said.ends_with("good-bye"),
        "{said}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_due_so_long_after_the_end_of_the_body() {
    let began = Instant::now();
    let meter = Meter::new();
    meter.none();
    assert_eq!(in_time(&meter, pending::<()>()).await, None);
    assert_eq!(began.elapsed().as_secs(), 30);
    let began = Instant::now();
    let meter = Meter::new();
    let ends_late = async {
        sleep(Duration::from_secs(19)).await;
        meter.none();
    };
    let (late, ()) = tokio::join!(in_time(&meter, pending::<()>()), ends_late);
    assert_eq!(late, None);
    assert_eq!(
        began.elapsed().as_secs(),
        50,
        "looked at again when it was due at the latest"
    );
    let in_time = in_time(&Meter::new(), sleep(Duration::from_secs(49))).await;
    assert!(in_time.is_some());
}
