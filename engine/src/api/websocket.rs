//! `GET /ws`: the way from HTTP to a WebSocket.

use pushflo_protocol::http::{Request, Response};
use pushflo_protocol::limits::TOKEN_BYTES_MAX;
use pushflo_protocol::websocket::{self, CloseCode};
use pushflo_protocol::{ErrorCode, Refusal};

use super::bearer;
use crate::accounts::{Access, Grant};
use crate::accounts::{token, token::TokenError};
use crate::context::Context;
use crate::edge::Answering;
use crate::edge::Edge;
use crate::ids::RequestId;
use crate::proxies::ProxyProtocol;

/// What a handshake's key or token grants, or why it is refused after the upgrade.
type Admitted = Result<(Access, Option<Grant>), (Refusal, CloseCode)>;

impl Edge {
    pub(super) fn upgrade(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        unanswered: bool,
    ) -> Result<Answering, Refusal> {
        let accept = websocket::accept(request)?;
        if unanswered {
            let text = "a WebSocket handshake must not be pipelined behind other requests";
            return Err(Refusal::new(ErrorCode::ValidationError, text));
        }
        let access = self.admit_websocket(cx, id, request)?;
        let date = self.date(cx).to_owned();
        let accept = format!("Sec-WebSocket-Accept: {accept}");
        let mut bytes = Vec::new();
        Response {
            status: 101,
            content_type: None,
            headers: &["Upgrade: websocket", "Connection: Upgrade", &accept],
            body: &[],
            keep_alive: true,
            head_only: false,
        }
        .encode(&date, &mut bytes);
        self.open_websocket(cx, id.connection, bytes.into(), access);
        Ok(Answering::Upgraded)
    }

    /// What the key or token of a handshake grants, or what is said after the upgrade.
    ///
    /// # Errors
    /// What is said before it: the address comes with wrong keys again and again, or through a proxy
    /// with too many connections.
    fn admit_websocket(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<Admitted, Refusal> {
        let proxy = self.connections.get(id.connection).and_then(|c| c.proxy);
        let is_forwarded = proxy == Some(ProxyProtocol::ForwardedFor);
        if is_forwarded
            && let Some(client) = self.forwarded_for(cx, request)
            && !self.count_client(cx, id.connection, client)
        {
            let most = cx.settings.limits.connections_per_address_max;
            let text = format!("the address has {most} connections, as many as it may");
            return Err(Refusal::limit(ErrorCode::RateLimited, "connectionsPerAddress", 5, text));
        }
        let shown = match request.query_parameter("token") {
            Some(token) => Some(token.into_owned()),
            None => bearer(request).ok().map(Into::into),
        };
        let Some(shown) = shown else {
            let refusal =
                Refusal::new(ErrorCode::Unauthorized, "a token is required: /ws?token=KEY");
            return Ok(Err((refusal, CloseCode::Unauthorized)));
        };
        let admitted = self.check_shown(cx, &shown);
        // A token that was good once is no guess.
        let is_guess =
            |error: &TokenError| !matches!(error, TokenError::Expired | TokenError::TooEarly);
        if admitted.as_ref().is_err_and(is_guess) {
            self.count_wrong_key(cx, id, request)?;
        }
        let admitted = admitted.map_err(|error| {
            let refusal = Refusal::new(ErrorCode::Unauthorized, error.to_string());
            (refusal, CloseCode::Unauthorized)
        });
        Ok(admitted.and_then(|(access, grant)| {
            let origin = request.header("origin");
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
    fn check_shown(
        &self,
        cx: &Context,
        shown: &str,
    ) -> Result<(Access, Option<Grant>), TokenError> {
        if shown.len() <= TOKEN_BYTES_MAX && shown.bytes().filter(|&byte| byte == b'.').count() == 2
        {
            let verified = token::verify(&cx.directory, shown, cx.now.unix_ms);
            return verified.map(|(access, grant)| (access, Some(grant)));
        }
        let access = cx.directory.find(shown).ok_or(TokenError::Unknown)?;
        Ok((access, None))
    }
}
