//! The opening handshake (RFC 6455 section 4.2), over a parsed HTTP request.

use tungstenite::handshake::derive_accept_key;

use crate::error::{ErrorCode, Refusal};
use crate::http::Request;

/// Whether the request asks for a WebSocket at all.
pub fn is_upgrade(request: &Request<'_>) -> bool {
    request.header_has_token("upgrade", "websocket")
}

/// Checks the handshake and returns the `Sec-WebSocket-Accept` value of the answer.
///
/// # Errors
/// A validation error that names the header at fault.
pub fn accept(request: &Request<'_>) -> Result<String, Refusal> {
    let fail = |message: &'static str| Refusal::new(ErrorCode::ValidationError, message);
    if request.method != "GET" {
        return Err(fail("a WebSocket handshake is a GET request"));
    }
    if request.http_10 {
        return Err(fail("a WebSocket handshake needs HTTP/1.1"));
    }
    let upgrade = |message: &'static str| Refusal::new(ErrorCode::UpgradeRequired, message);
    if !is_upgrade(request) {
        return Err(upgrade(
            "this is a WebSocket address: the header 'Upgrade: websocket' is missing",
        ));
    }
    if !request.header_has_token("connection", "upgrade") {
        return Err(fail("the header 'Connection: Upgrade' is missing"));
    }
    if !request.body.is_empty() {
        return Err(fail("a WebSocket handshake has no body"));
    }
    if request.header("sec-websocket-version") != Some(b"13") {
        return Err(upgrade("the header 'Sec-WebSocket-Version: 13' is missing"));
    }
    let mut keys = request.headers("sec-websocket-key");
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(fail("there must be exactly one Sec-WebSocket-Key header"));
    };
    if !is_key(key) {
        return Err(fail("Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    Ok(derive_accept_key(key))
}

/// 16 bytes in base64 are 22 digits and two pads.
fn is_key(key: &[u8]) -> bool {
    let digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|digits| digits.iter().all(digit))
}
