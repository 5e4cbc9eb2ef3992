//! TLS 1.3 between a user and the origin, inside whatever the proxy does: Vision hands a connection
//! to the kernel only when it has seen that version inside.
use std::sync::Arc;

use anyhow::Result;
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

/// The origin's certificate of `localhost` (to the year 2120); a test's own.
const CERTIFICATE: &[u8] = include_bytes!("tls/origin.crt");
const CERTIFICATE_KEY: &[u8] = include_bytes!("tls/origin.key");

/// The origin's side.
pub fn acceptor() -> Result<TlsAcceptor> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(CERTIFICATE)?],
            PrivateKeyDer::from_pem_slice(CERTIFICATE_KEY)?,
        )?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The user's side, on a connection to the origin.
pub async fn connect(stream: TcpStream) -> Result<client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CERTIFICATE)?)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost")?;
    Ok(TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?)
}
