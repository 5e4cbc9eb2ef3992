//! What users reach through the proxy: an HTTP origin, an echo port and a port for
//! transfers of an exact size, on 127.0.0.1.
use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::transfer;

/// Serves until dropped; `GET /` is [`Origin::HELLO`], `GET /bytes/N` is [`Origin::bytes`] of N,
/// and `POST /upload` is answered with how many bytes the body had.
pub struct Origin {
    addr: SocketAddr,
    echo_addr: SocketAddr,
    transfer_addr: SocketAddr,
    tasks: JoinSet<()>,
}

impl Origin {
    pub const HELLO: &[u8] = b"hello";

    pub async fn start() -> Result<Self> {
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let transfers = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (addr, echo_addr) = (http.local_addr()?, echo.local_addr()?);
        let transfer_addr = transfers.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(http, serve_http));
        tasks.spawn(accept(echo, serve_echo));
        tasks.spawn(accept(transfers, transfer::serve));
        Ok(Self {
            addr,
            echo_addr,
            transfer_addr,
            tasks,
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn echo_addr(&self) -> SocketAddr {
        self.echo_addr
    }

    /// Where [`transfer::Transfer`] goes.
    pub fn transfer_addr(&self) -> SocketAddr {
        self.transfer_addr
    }

    /// A pattern of that length in which no byte can go missing unseen.
    pub fn bytes(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }
}

/// Accepts for ever; what `serve` does ends with the returned future.
pub async fn accept<S, F>(listener: TcpListener, serve: S)
where
    S: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_http(stream: TcpStream) {
    let answer = service_fn(answer);
    // The other side may go away at any moment: no fault of the origin.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/upload" && head.method == Method::POST {
        return Ok(uploaded(body).await);
    }
    Ok(download(head.uri.path()))
}

fn download(path: &str) -> Response<Full<Bytes>> {
    let length = path
        .strip_prefix("/bytes/")
        .and_then(|length| length.parse().ok());
    match length {
        Some(length) => Response::new(Origin::bytes(length).into()),
        None if path == "/" => Response::new(Origin::HELLO.into()),
        None => refusal(StatusCode::NOT_FOUND),
    }
}

async fn uploaded(mut body: Incoming) -> Response<Full<Bytes>> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Err(_) => return refusal(StatusCode::BAD_REQUEST),
        }
    }
    Response::new(bytes.to_string().into())
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut refusal = Response::new(Full::default());
    *refusal.status_mut() = status;
    refusal
}

async fn serve_echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
}
