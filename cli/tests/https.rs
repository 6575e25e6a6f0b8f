//! The commands that call a server do so over TLS as well, and only where the server's certificate is of
//! an authority that they trust.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tungstenite::Message;

/// Of `localhost`, made for these tests and trusted by nobody else; good until 2126.
const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/https/certificate.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/https/key.pem");

type Stream = StreamOwned<ServerConnection, TcpStream>;

/// A server for one connection, and its address.
fn serve<T: Send + 'static>(
    talk: impl FnOnce(Stream) -> T + Send + 'static,
) -> (String, JoinHandle<T>) {
    let chain = CertificateDer::pem_file_iter(CERTIFICATE).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(KEY).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        talk(StreamOwned::new(connection, stream))
    });
    (address, server)
}

/// The program as a user runs it, ended where it takes too long.
fn pushflo(arguments: &[&str], authorities: Option<&str>) -> Output {
    let mut command = Command::new("timeout");
    command.env_clear().args(["30", env!("CARGO_BIN_EXE_pushflo")]).args(arguments);
    command.envs(authorities.map(|file| ("SSL_CERT_FILE", file)));
    command.output().unwrap()
}

fn publish(address: &str, authorities: Option<&str>) -> Output {
    pushflo(&["publish", "news", "[1]", "--url", address, "--key", "sec_x"], authorities)
}

#[test]
fn publish_calls_over_tls() {
    let (address, server) = serve(|mut stream| {
        let mut request = String::new();
        while !request.ends_with("[1]}") {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).unwrap();
            assert_ne!(count, 0, "{request}");
            request += str::from_utf8(&bytes[..count]).unwrap();
        }
        let body = r#"{"success":true,"data":{"id":"m1"}}"#;
        let length = body.len();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        stream.flush().unwrap();
        request
    });
    let output = publish(&address, Some(CERTIFICATE));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"{\"id\":\"m1\"}\n");
    let request = server.join().unwrap();
    assert!(request.starts_with("POST /api/v1/publish HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("\r\nauthorization: bearer sec_x\r\n"), "{request}");
}

#[test]
fn subscribe_listens_over_tls() {
    let message = r#"{"type":"message","channel":"news","offset":1,"data":7}"#;
    let (address, server) = serve(move |stream| {
        let mut socket = tungstenite::accept(stream).unwrap();
        socket.send(Message::text(r#"{"type":"connected"}"#)).unwrap();
        let command = socket.read().unwrap();
        let subscribed = r#"{"type":"subscribed","channel":"news","epoch":"e","offset":0}"#;
        socket.send(Message::text(subscribed)).unwrap();
        socket.send(Message::text(message)).unwrap();
        command.into_text().unwrap().to_string()
    });
    let arguments = ["subscribe", "news", "--count", "1", "--url", &address, "--key", "pub_x"];
    let output = pushflo(&arguments, Some(CERTIFICATE));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, format!("{message}\n").as_bytes());
    assert_eq!(server.join().unwrap(), r#"{"channel":"news","type":"subscribe"}"#);
}

#[test]
fn subscribe_tells_where_it_is_sent_on_to() {
    let (address, server) = serve(|mut stream| {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        let head = "HTTP/1.1 301 Moved Permanently\r\nContent-Length: 0\r\n";
        write!(stream, "{head}Location: https://elsewhere/ws?token=pub_x\r\n\r\n").unwrap();
        stream.flush().unwrap();
    });
    let arguments = ["subscribe", "news", "--url", &address, "--key", "pub_x"];
    let output = pushflo(&arguments, Some(CERTIFICATE));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.ends_with("sends its clients on to https://elsewhere/ws\n"), "{told}");
    server.join().unwrap();
}

#[test]
fn a_server_whose_authority_is_unknown_gets_no_key() {
    let (address, server) = serve(|mut stream| stream.read(&mut [0; 1]).is_err());
    let output = publish(&address, None);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("invalid peer certificate: UnknownIssuer"), "{told}");
    assert!(server.join().unwrap());
}

#[test]
fn authorities_that_cannot_be_read_are_told() {
    for (file, words) in [("/nowhere", "No such file"), (KEY, "it has no certificate")] {
        for command in ["publish", "subscribe"] {
            let mut arguments = vec![command, "news", "--url", "https://localhost:1", "--key", "k"];
            arguments.extend((command == "publish").then_some("1"));
            let output = pushflo(&arguments, Some(file));
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let told = String::from_utf8(output.stderr).unwrap();
            assert!(told.contains(words) && told.contains("SSL_CERT_FILE"), "{command}: {told}");
        }
    }
}
