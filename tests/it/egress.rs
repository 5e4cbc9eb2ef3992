//! URLs that a user sets never reach a forbidden address (promise J2), and what a caller is told of
//! a call's end.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use http::{HeaderValue, Method};
use url::Url;
use xray_agent::config::Proxy;
use xray_agent::egress::{Cause, Class, EgressClient, EgressError, End, Own, Policy, Target, Why};

use crate::egress_stage::{Forbidden, Scripted, Server, call, client, plain_client, post};

/// For calls that are to end by their limit: nothing comes however long one waits.
const SHORT: Duration = Duration::from_millis(300);

/// Why it was refused, and after how many redirects.
fn refused<T: std::fmt::Debug>(outcome: Result<T, EgressError>) -> (Why, u32) {
    match outcome {
        Err(EgressError::Refused { refusal, redirects }) => (refusal.why, redirects),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_called_where_it_was_judged() -> Result<()> {
    let server = Server::answering("200 OK", "", "hello");
    let url = format!("http://Rebinding.example:{}/path", server.at.port());
    let names = Scripted::default().and("rebinding.example", &["127.0.0.1", "169.254.169.254"]);
    let client = client(Own::default(), &names);
    let answer = client.send(call(Method::GET, &url)).await?;
    ensure!(
        answer.from == Some(server.at) && answer.body == "hello",
        "{answer:?}"
    );
    ensure!(answer.end == End::Whole && names.left("rebinding.example") == 1);
    let host = format!("host: rebinding.example:{}", server.at.port());
    let asked = server.asked();
    ensure!(asked.len() == 1 && asked[0].contains(&host), "{asked:?}");
    let (why, redirects) = refused(client.send(call(Method::GET, &url)).await);
    ensure!(matches!(why, Why::Closed(..)) && redirects == 0, "{why}");
    ensure!(server.asked().is_empty(), "the second call was made");
    Ok(())
}

#[tokio::test]
async fn a_connection_that_was_kept_is_not_used_once_its_name_is_refused() -> Result<()> {
    let server = Server::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        // Open until the client hangs up.
        std::io::copy(stream, &mut std::io::sink()).map(drop)
    });
    let url = format!("http://kept.example:{}/", server.at.port());
    let names = Scripted::default().and("kept.example", &["127.0.0.1", "fe80::1"]);
    let client = client(Own::default(), &names);
    let answer = client.send(call(Method::GET, &url)).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let (why, _) = refused(client.send(call(Method::GET, &url)).await);
    ensure!(matches!(why, Why::Closed(..)), "{why}");
    Ok(())
}

#[tokio::test]
async fn two_calls_to_one_name_do_not_share_an_answer() -> Result<()> {
    let server = Server::answering("200 OK", "", "");
    let ours = Forbidden::bind("127.0.0.1:0");
    // What may be reached at one port must not be given out for another, where it is ours.
    let names = Scripted::default().and("two.example", &["127.0.0.1", "127.0.0.2"]);
    let client = client(Own::default().listener(ours.at()), &names);
    let at = |port: u16| call(Method::GET, &format!("http://two.example:{port}/"));
    let (good, other) = tokio::join!(
        client.send(at(server.at.port())),
        client.send(at(ours.at().port())),
    );
    ensure!(good?.from == Some(server.at));
    ensure!(
        matches!(other, Err(EgressError::NotSent { .. })),
        "{other:?}"
    );
    ensure!(ours.is_untouched());
    Ok(())
}

#[tokio::test]
async fn no_redirect_leads_to_a_forbidden_address() -> Result<()> {
    let ours = Forbidden::bind("127.0.0.1:0");
    let port = ours.at().port();
    let places = [
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "//2852039166/".to_owned(),
        "http://[::ffff:169.254.169.254]/".to_owned(),
        "http://bad.example/".to_owned(),
        "http://0.0.0.0/".to_owned(),
        "file:///etc/passwd".to_owned(),
        format!("http://127.0.0.1:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://ours.example:{port}/"),
    ];
    for place in places {
        for status in ["301 M", "302 F", "303 S", "307 T", "308 P"] {
            let server = Server::redirecting(status, &place);
            let names = Scripted::default()
                .and("bad.example", &["169.254.169.254"])
                .and("ours.example", &["127.0.0.1"]);
            let client = client(Own::default().listener(ours.at()), &names);
            let outcome = client.send(post(&server.url("/"), "body")).await;
            let error = outcome.unwrap_err();
            ensure!(error.class() == Class::Permanent, "{place}: {error}");
            let (_, redirects) = refused::<()>(Err(error));
            ensure!(redirects == 1 && server.asked().len() == 1, "{place}");
        }
    }
    ensure!(ours.is_untouched());
    Ok(())
}

#[tokio::test]
async fn each_hop_is_looked_up_and_judged_anew() -> Result<()> {
    let server = Server::start(|request, stream| {
        let to = if request.starts_with("GET /first") {
            "/second"
        } else {
            "/third"
        };
        write!(
            stream,
            "HTTP/1.1 302 F\r\nConnection: close\r\nLocation: {to}\r\n\r\n"
        )
    });
    let url = format!("http://hops.example:{}/first", server.at.port());
    let names = Scripted::default().and("hops.example", &["127.0.0.1", "127.0.0.1", "::"]);
    let mut follows = call(Method::GET, &url);
    follows.redirects = 10;
    let (why, redirects) = refused(client(Own::default(), &names).send(follows).await);
    ensure!(matches!(why, Why::Closed(..)) && redirects == 2, "{why}");
    ensure!(server.asked().len() == 2 && names.left("hops.example") == 0);
    Ok(())
}

#[tokio::test]
async fn a_chain_of_redirects_ends_at_the_calls_limit() -> Result<()> {
    let server = Server::redirecting("302 Found", "/again");
    for (limit, asked) in [(0, 1), (1, 2), (10, 11)] {
        let mut call = call(Method::GET, &server.url("/"));
        call.redirects = limit;
        let answer = plain_client().send(call).await?;
        ensure!(
            answer.status == 302 && answer.redirects == limit,
            "{answer:?}"
        );
        ensure!(server.asked().len() == asked, "{limit}");
    }
    Ok(())
}

#[tokio::test]
async fn no_credential_follows_a_redirect_to_another_origin() -> Result<()> {
    let other = Server::answering("200 OK", "", "");
    let first = Server::redirecting("307 Temporary", &other.url("/there"));
    let url = format!("http://user:canary@{}/", first.at);
    let mut call = post(&url, "the body");
    let canary = HeaderValue::from_static("canary");
    for name in ["cookie", "x-api-key", "transfer-encoding", "connection"] {
        call.headers.insert(name, canary.clone());
    }
    call.headers
        .insert("content-type", HeaderValue::from_static("text/plain"));
    call.own_headers
        .insert("x-run", HeaderValue::from_static("1"));
    let answer = plain_client().send(call).await?;
    ensure!(
        answer.status == 200 && answer.from == Some(other.at),
        "{answer:?}"
    );
    let asked = first.asked().concat();
    for kept in [
        "authorization: Basic dXNlcjpjYW5hcnk=",
        "x-api-key: canary",
        "x-run: 1",
    ] {
        ensure!(asked.contains(kept), "{asked}");
    }
    ensure!(!asked.contains("transfer-encoding") && !asked.contains("connection: canary"));
    let asked = other.asked().concat();
    for kept in [
        "POST /there",
        "content-type: text/plain",
        "x-run: 1",
        "\r\n\r\nthe body",
    ] {
        ensure!(asked.contains(kept), "{asked}");
    }
    ensure!(
        !asked.contains("canary") && !asked.contains("authorization"),
        "{asked}"
    );
    Ok(())
}

#[tokio::test]
async fn a_body_that_never_ends_is_read_as_far_as_the_call_wants() -> Result<()> {
    let server = Server::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        loop {
            stream.write_all(&[b'x'; 1000])?;
        }
    });
    let mut call = call(Method::GET, &server.url("/"));
    call.body_bytes_max = 2500;
    let answer = plain_client().send(call).await?;
    ensure!(
        answer.end == End::TooLong && answer.body == "x".repeat(2500),
        "{:?}",
        answer.end
    );
    Ok(())
}

#[tokio::test]
async fn a_body_that_does_not_come_leaves_the_answer_it_belongs_to() -> Result<()> {
    let silent = Server::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nbegin")?;
        std::io::copy(stream, &mut std::io::sink()).map(drop)
    });
    let mut late = call(Method::GET, &silent.url("/"));
    late.timeout = SHORT;
    let answer = plain_client().send(late).await?;
    ensure!(answer.status == 201 && answer.body == "begin", "{answer:?}");
    ensure!(
        answer.end == End::Broken(Cause::Timeout(SHORT)),
        "{answer:?}"
    );
    let short = Server::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nbegin")
    });
    let answer = plain_client()
        .send(call(Method::GET, &short.url("/")))
        .await?;
    ensure!(
        matches!(answer.end, End::Broken(Cause::Transport(_))),
        "{answer:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_sender_is_told_whether_a_call_may_have_arrived() -> Result<()> {
    let nobody = Forbidden::bind("127.0.0.1:0");
    let free = nobody.at();
    drop(nobody);
    for method in [Method::GET, Method::POST] {
        let mut call = post(&format!("http://{free}/"), "body");
        call.method = method;
        let error = plain_client().send(call).await.unwrap_err();
        ensure!(matches!(error, EgressError::NotSent { .. }), "{error:?}");
    }
    let error = plain_client()
        .send(post("http://nobody.example/", ""))
        .await
        .unwrap_err();
    ensure!(
        matches!(
            error,
            EgressError::NotSent {
                cause: Cause::Name { .. },
                ..
            }
        ),
        "{error:?}"
    );
    let hangs_up = Server::start(|_, _| Ok(()));
    let error = plain_client()
        .send(post(&hangs_up.url("/canary?canary"), "body"))
        .await;
    let error = error.unwrap_err();
    ensure!(
        matches!(error, EgressError::Lost { .. }) && !error.is_timeout(),
        "{error:?}"
    );
    ensure!(hangs_up.asked().len() == 1, "it was sent again");
    ensure!(
        !format!("{error} {error:?}").contains("canary"),
        "{error:?}"
    );
    let silent = Server::start(|_, stream| std::io::copy(stream, &mut std::io::sink()).map(drop));
    let mut late = post(&silent.url("/"), "body");
    late.timeout = SHORT;
    let error = plain_client().send(late).await.unwrap_err();
    ensure!(
        matches!(error, EgressError::Lost { .. }) && error.is_timeout(),
        "{error:?}"
    );
    // Speaks no TLS: nothing of the request is sent before that is agreed on.
    let speaks_first = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("https://tls.example:{}/", speaks_first.local_addr()?.port());
    let speaking = std::thread::spawn(move || speaks_first.accept()?.0.write_all(b"no TLS here"));
    let names = Scripted::default().and("tls.example", &["127.0.0.1"]);
    let error = client(Own::default(), &names)
        .send(post(&url, "body"))
        .await
        .unwrap_err();
    ensure!(matches!(error, EgressError::NotSent { .. }), "{error:?}");
    ensure!(error.to_string().contains("corrupt message"), "{error}");
    speaking.join().unwrap()?;
    // The first hop has been answered: it is not safe to send all of it again.
    let redirects = Server::redirecting("307 T", &format!("http://{free}/"));
    let error = plain_client()
        .send(post(&redirects.url("/"), "body"))
        .await
        .unwrap_err();
    ensure!(matches!(error, EgressError::Lost { .. }), "{error:?}");
    ensure!(error.class() == Class::Transient);
    Ok(())
}

#[tokio::test]
async fn our_own_listener_is_called_by_no_name() -> Result<()> {
    let ours = Forbidden::bind("0.0.0.0:0");
    let port = ours.at().port();
    let api = Forbidden::bind("127.0.0.1:0");
    let api_port = api.at().port();
    let own = Own::default()
        .listener(ours.at())
        .api(&Target::parse(&format!("localhost:{api_port}"))?);
    for host in [
        "127.0.0.1",
        "127.9.9.9",
        "0",
        "017700000001",
        "[::ffff:7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "localhost",
        "any.example",
    ] {
        for port in [port, api_port] {
            let names = Scripted::default()
                .and("any.example", &["127.0.0.1"])
                .and("localhost", &["127.0.0.1", "127.0.0.1"]);
            let client = client(own.clone(), &names);
            let url = format!("http://{host}:{port}/");
            let (why, _) = refused(client.send(call(Method::GET, &url)).await);
            ensure!(matches!(why, Why::Own(_) | Why::Closed(..)), "{url}: {why}");
        }
    }
    ensure!(ours.is_untouched() && api.is_untouched());
    Ok(())
}

#[tokio::test]
async fn a_proxy_is_asked_for_names_and_never_for_a_forbidden_address() -> Result<()> {
    let proxy = Server::answering("200 OK", "", "by proxy");
    let names = Scripted::default().and("proxy.example", &["127.0.0.1"]);
    let address = Url::parse(&format!("http://proxy.example:{}", proxy.at.port()))?;
    // The proxy's own address is the configuration's, and no list need hold it.
    let policy = Policy::listed(Own::default(), Vec::new());
    let client = EgressClient::with_names(policy, Some(&Proxy(address)), names.clone()).unwrap();
    let answer = client
        .send(call(Method::GET, "http://far.example/x"))
        .await?;
    ensure!(answer.body == "by proxy", "{answer:?}");
    let asked = proxy.asked().concat();
    ensure!(
        asked.starts_with("GET http://far.example/x HTTP/1.1"),
        "{asked}"
    );
    for url in [
        "http://169.254.169.254/",
        "http://0x7f.1/",
        "https://[::ffff:10.0.0.1]/",
        "http://localhost/",
    ] {
        refused(client.send(call(Method::GET, url)).await);
    }
    ensure!(proxy.asked().is_empty(), "the proxy was asked for it");
    Ok(())
}

#[tokio::test]
async fn a_socks_proxy_is_given_a_judged_address_or_looks_up_the_name_itself() -> Result<()> {
    // What it is to connect to: IPv4 127.0.0.1, or a name.
    let address = [&[5, 1, 0, 1, 127, 0, 0, 1][..], &[0, 80]].concat();
    let name = [&[5, 1, 0, 3, 11][..], b"far.example", &[0, 80]].concat();
    for (scheme, url, expected) in [
        ("socks5", "http://far.example/", &address),
        ("socks5", "http://127.0.0.1/", &address),
        ("socks5h", "http://127.0.0.1/", &address),
        ("socks5h", "http://far.example/", &name),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let proxy = Url::parse(&format!(
            "{scheme}://proxy.example:{}",
            listener.local_addr()?.port()
        ))?;
        let length = expected.len();
        let asked = std::thread::spawn(move || socks_request(&listener, length));
        let names = Scripted::default()
            .and("proxy.example", &["127.0.0.1"])
            .and("far.example", &["127.0.0.1"]);
        let policy = Policy::near(Own::default());
        let client = EgressClient::with_names(policy, Some(&Proxy(proxy)), names).unwrap();
        let outcome = client.send(call(Method::GET, url)).await;
        ensure!(outcome.is_err(), "the proxy connects to nothing");
        ensure!(asked.join().unwrap()? == *expected, "{scheme} {url}");
    }
    Ok(())
}

/// What a SOCKS5 proxy is asked for (RFC 1928), which is refused.
fn socks_request(listener: &TcpListener, length: usize) -> std::io::Result<Vec<u8>> {
    let (mut stream, _) = listener.accept()?;
    let mut methods = [0; 2];
    stream.read_exact(&mut methods)?;
    stream.read_exact(&mut vec![0; usize::from(methods[1])])?;
    stream.write_all(&[5, 0])?;
    let mut request = vec![0; length];
    stream.read_exact(&mut request)?;
    stream.write_all(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0])?;
    Ok(request)
}
