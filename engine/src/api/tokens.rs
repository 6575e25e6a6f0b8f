//! `POST /api/v1/auth/token`: short-lived connection tokens.

use std::borrow::Cow;

use pushflo_protocol::answer::{self, Iso8601, Token};
use pushflo_protocol::{ErrorCode, MessageId, Refusal, json};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::action::Action;
use super::reply::Reply;
use super::{Call, bearer};
use crate::accounts::token::{
    AUDIENCE, AudienceClaim, Claims, NumericDate, check_client_id, check_data, parse_patterns, sign,
};
use crate::accounts::{Access, Role};
use crate::context::Context;

/// How long a token holds if the request does not say, and at most, in seconds.
const TTL_DEFAULT_S: u64 = 3_600;
const TTL_MAX_S: u64 = 86_400;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(borrow)]
    publish_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    client_id: Option<Cow<'a, str>>,
    channels: Option<Vec<Box<str>>>,
    publish: Option<Vec<Box<str>>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "json::unsigned_if_given")]
    ttl: Option<u64>,
}

pub(super) fn issue_token(cx: &mut Context, call: &Call<'_>) -> Result<Action, Refusal> {
    let request = call.request;
    let is_empty = request.body.trim_ascii().is_empty();
    let body: &[u8] = if is_empty { b"{}" } else { &request.body };
    // Who asks is found out before what is wrong with the question is told.
    let access = match bearer(request) {
        Ok(key) => call.authorize_key(cx, key, Role::Publish)?,
        Err(refusal) => {
            let key = json::parse::<Body<'_>>(body, "the body").ok();
            let key = key.and_then(|body| body.publish_key).ok_or(refusal)?;
            call.authorize_key(cx, &key, Role::Publish)?
        }
    };
    let body: Body<'_> = json::parse(body, "the body")?;
    let ttl_s = body.ttl.unwrap_or(TTL_DEFAULT_S);
    if !(1..=TTL_MAX_S).contains(&ttl_s) {
        return Err(Refusal::field("ttl", format!("must be from 1 to {TTL_MAX_S} seconds")));
    }
    let expires_s = cx.now.unix_ms / 1000 + ttl_s;
    let (claims, client_id) = claims(cx, &access, body, expires_s)?;
    let token = sign(&access, &claims)
        .map_err(|error| Refusal::new(ErrorCode::ServerError, error.to_string()))?;
    let host = request.header("host").and_then(|host| str::from_utf8(host).ok());
    let scheme = if is_encrypted(call) { "wss" } else { "ws" };
    let endpoint = format!("{scheme}://{}/ws", host.unwrap_or("localhost"));
    let token = Token {
        token: &token,
        expires_at: Iso8601(expires_s * 1000),
        endpoint: &endpoint,
        client_id: &client_id,
    };
    Ok(Action::Reply(Reply::json(200, answer::success(token))))
}

/// Whether the client came to the proxy before us through TLS. Only a trusted proxy is believed.
fn is_encrypted(call: &Call<'_>) -> bool {
    let told = call.request.header("x-forwarded-proto").filter(|_| call.peer.proxy.is_some());
    // The client's own comes first where proxies stand in a row.
    let first = told.and_then(|value| value.split(|&byte| byte == b',').next());
    first.is_some_and(|scheme| scheme.trim_ascii().eq_ignore_ascii_case(b"https"))
}

fn claims(
    cx: &mut Context,
    access: &Access,
    body: Body<'_>,
    expires_s: u64,
) -> Result<(Claims, Box<str>), Refusal> {
    check_client_id(body.client_id.as_deref())?;
    check_data(body.data)?;
    for (field, patterns) in [("channels", &body.channels), ("publish", &body.publish)] {
        parse_patterns(field, patterns.as_deref().unwrap_or_default())?;
    }
    if access.role < Role::Secret && (body.publish.is_some() || body.data.is_some()) {
        let text = "publish and data are granted with a sec_ or mgmt_ key";
        return Err(Refusal::new(ErrorCode::Forbidden, text));
    }
    let generated = || MessageId::new(cx.now.unix_ms, cx.random.u128(..)).to_string();
    let client_id: Box<str> = body.client_id.map_or_else(generated, Cow::into_owned).into();
    let claims = Claims {
        aud: AudienceClaim::One(AUDIENCE.into()),
        exp: NumericDate::from_seconds(expires_s),
        nbf: None,
        sub: Some(client_id.clone()),
        channels: body.channels,
        publish: body.publish,
        data: body.data.map(RawValue::to_owned),
        // A private channel is entered only with a token that a secret key asked for; which key
        // that was is found out when the token is shown, and a revoked one grants nothing.
        key: Some(access.key.to_string().into()),
    };
    Ok((claims, client_id))
}
