//! Connections to a server, over TLS where its address says so.
//!
//! A server's certificate is checked against the authorities that Mozilla trusts, which are part of the
//! program, or against those of the file that `SSL_CERT_FILE` names, as other programs take it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::http::Uri;

/// What bytes go through.
pub(super) trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Connects to the host of an address; reading fails with [`ErrorKind::WouldBlock`] after a silence of
/// `silence`.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] where the address or the file of authorities is no such; otherwise the
/// host cannot be reached.
pub(super) fn connect(address: &Uri, silence: Duration) -> io::Result<Box<dyn Stream>> {
    let invalid = |text: &str| io::Error::new(ErrorKind::InvalidInput, text.to_owned());
    let is_secure = match address.scheme_str() {
        Some("https" | "wss") => true,
        Some("http" | "ws") => false,
        _ => return Err(invalid("the address must begin with http:// or https://")),
    };
    let host = address.host().ok_or_else(|| invalid("the address has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = address.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    // Before the connection, so that what nobody can change by waiting is told at once.
    let tls = is_secure.then(|| begin_tls(host)).transpose()?;
    let stream = TcpStream::connect((host, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(silence))?;
    Ok(match tls {
        Some(tls) => Box::new(StreamOwned::new(tls, stream)),
        None => Box::new(stream),
    })
}

/// The authorities that were named; `None`: those that are part of the program.
///
/// # Errors
/// [`ErrorKind::InvalidInput`]: their file cannot be read, or has none.
pub(super) fn named_authorities() -> io::Result<Option<Vec<CertificateDer<'static>>>> {
    let Some(file) = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty()) else {
        return Ok(None);
    };
    let read = || CertificateDer::pem_file_iter(&file)?.collect::<Result<Vec<_>, _>>();
    let problem = match read() {
        Ok(authorities) if !authorities.is_empty() => return Ok(Some(authorities)),
        Ok(_) => "it has no certificate".to_owned(),
        Err(error) => error.to_string(),
    };
    let text = format!("cannot use {}, which SSL_CERT_FILE names: {problem}", file.display());
    Err(io::Error::new(ErrorKind::InvalidInput, text))
}

fn begin_tls(host: &str) -> io::Result<ClientConnection> {
    let invalid = |error| io::Error::new(ErrorKind::InvalidInput, error);
    let name = ServerName::try_from(host.to_owned()).map_err(invalid)?;
    let mut authorities = RootCertStore::empty();
    match named_authorities()? {
        Some(named) => {
            authorities.add_parsable_certificates(named);
        }
        None => authorities.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)
}
