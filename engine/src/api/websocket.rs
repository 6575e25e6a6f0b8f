//! `GET /ws`: the way from HTTP to a WebSocket.

use pushflo_protocol::limits::TOKEN_BYTES_MAX;
use pushflo_protocol::websocket::{self, CloseCode};
use pushflo_protocol::{ErrorCode, Refusal};

use super::action::{Action, Admitted, Upgrade};
use super::{Call, bearer, unknown_key};
use crate::accounts::token::{self, TokenError};
use crate::accounts::{Access, Grant};
use crate::context::Context;
use crate::proxies::ProxyProtocol;

pub(super) fn upgrade(cx: &mut Context, call: &Call<'_>) -> Result<Action, Refusal> {
    let accept = websocket::accept(call.request)?;
    if call.is_pipelined {
        let text = "a WebSocket handshake must not be pipelined behind other requests";
        return Err(Refusal::new(ErrorCode::ValidationError, text));
    }
    let is_forwarded = call.peer.proxy == Some(ProxyProtocol::ForwardedFor);
    let client = call.forwarded_for(cx).filter(|_| is_forwarded);
    let admitted = admit(cx, call)?;
    Ok(Action::Upgrade(Box::new(Upgrade { accept, client, admitted })))
}

/// What the key or token of a handshake grants, or what is said after the upgrade.
///
/// # Errors
/// What is said before it: the address comes with wrong keys again and again.
fn admit(cx: &mut Context, call: &Call<'_>) -> Result<Admitted, Refusal> {
    let shown = match call.request.query_parameter("token") {
        Some(token) => Some(token.into_owned()),
        None => bearer(call.request).ok().map(Into::into),
    };
    let Some(shown) = shown else {
        let refusal = Refusal::new(ErrorCode::Unauthorized, "a token is required: /ws?token=KEY");
        return Ok(Err((refusal, CloseCode::Unauthorized)));
    };
    let admitted = check_shown(cx, &shown);
    // A token that was good once is no guess.
    let is_guess =
        |error: &TokenError| !matches!(error, TokenError::Expired | TokenError::TooEarly);
    if admitted.as_ref().is_err_and(is_guess) {
        if !cx.knows_all_keys() {
            return Err(unknown_key());
        }
        call.count_wrong_key(cx)?;
    }
    let admitted = admitted.map_err(|error| {
        let refusal = Refusal::new(ErrorCode::Unauthorized, error.to_string());
        (refusal, CloseCode::Unauthorized)
    });
    Ok(admitted.and_then(|(access, grant)| {
        let origin = call.request.header("origin");
        let allowed = cx.settings.origins.allows(origin)
            && access.app.record.settings.allowed_origins.allows(origin);
        if !allowed {
            let refusal = Refusal::new(ErrorCode::Forbidden, "this origin may not connect");
            return Err((refusal, CloseCode::Forbidden));
        }
        Ok((access, grant))
    }))
}

/// A key, or a connection token: a JWT has two dots, a key has none.
fn check_shown(cx: &Context, shown: &str) -> Result<(Access, Option<Grant>), TokenError> {
    if shown.len() <= TOKEN_BYTES_MAX && shown.bytes().filter(|&byte| byte == b'.').count() == 2 {
        let verified = token::verify(&cx.directory, shown, cx.now.unix_ms);
        return verified.map(|(access, grant)| (access, Some(grant)));
    }
    let access = cx.directory.find(shown).ok_or(TokenError::Unknown)?;
    Ok((access, None))
}
