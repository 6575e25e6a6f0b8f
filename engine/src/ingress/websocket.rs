//! `GET /ws`: the way from HTTP to a WebSocket.

use pushflo_protocol::http::{Request, Response};
use pushflo_protocol::websocket::{self, CloseCode};
use pushflo_protocol::{ErrorCode, Refusal};

use crate::auth::{Access, Role};
use crate::connection::Answering;
use crate::shard::{RequestId, Shard};

impl Shard {
    pub(super) fn upgrade(
        &mut self,
        id: RequestId,
        request: &Request<'_>,
        unanswered: bool,
    ) -> Result<Answering, Refusal> {
        let accept = websocket::accept(request)?;
        if unanswered {
            let text = "a WebSocket handshake must not be pipelined behind other requests";
            return Err(Refusal::new(ErrorCode::ValidationError, text));
        }
        let access = self.admit_websocket(request);
        let date = self.date().to_owned();
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
        self.open_websocket(id.connection, bytes.into(), access);
        Ok(Answering::Upgraded)
    }

    fn admit_websocket(&self, request: &Request<'_>) -> Result<Access, (Refusal, CloseCode)> {
        let unauthorized =
            |text| (Refusal::new(ErrorCode::Unauthorized, text), CloseCode::Unauthorized);
        if !self.settings.origins.allows(request.header("origin")) {
            let refusal = Refusal::new(ErrorCode::Forbidden, "this origin may not connect");
            return Err((refusal, CloseCode::Forbidden));
        }
        match request.query_parameter("token") {
            Some(token) => self
                .settings
                .keys
                .find(&token)
                .ok_or_else(|| unauthorized("the token is not known")),
            None if request.header("authorization").is_some() => self
                .authorize(request, Role::Publish)
                .map_err(|refusal| (refusal, CloseCode::Unauthorized)),
            None => Err(unauthorized("a token is required: /ws?token=KEY")),
        }
    }
}
