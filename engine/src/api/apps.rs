//! Apps and keys: `/api/v1/apps…`, and what an app uses: `/api/v1/usage`.
//!
//! What is asked is answered from the shard's own directory; what changes goes to the accounts.

use std::borrow::Cow;
use std::sync::Arc;

use pushflo_protocol::answer::{self, Pagination, Usage, UsageLimits};
use pushflo_protocol::json::Object;
use pushflo_protocol::limits::NAME_BYTES_MAX;
use pushflo_protocol::origin::AllowedOrigins;
use pushflo_protocol::{ErrorCode, Refusal, json};
use serde::Deserialize;

use super::Call;
use super::action::{self, Action, ListQuery};
use super::messages::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, page, page_size};
use super::reply::Reply;
use crate::accounts::plan::UNLIMITED;
use crate::accounts::{AccountsCall, App, AppChange, KeyId, Role, SettingsChange};
use crate::context::Context;
use crate::ids::AppId;

#[derive(Deserialize)]
struct AppBody<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    plan: Option<Cow<'a, str>>,
    #[serde(borrow)]
    settings: Option<Object<SettingsBody<'a>>>,
}

/// Settings of which any may be absent; `null` for the origins allows all.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SettingsBody<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    allowed_origins: Option<Option<Vec<Cow<'a, str>>>>,
    require_channels: Option<bool>,
    client_publish: Option<bool>,
}

#[derive(Deserialize)]
struct KeyBody<'a> {
    #[serde(borrow)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
}

pub(super) fn list_apps(cx: &mut Context, call: &Call<'_>) -> Result<Action, Refusal> {
    authorize_operator(cx, call)?;
    let page = page(call.request)?;
    let size = page_size(call.request, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
    let mut apps: Vec<&Arc<App>> = cx.directory.apps().collect();
    apps.sort_unstable_by_key(|app| app.id);
    let skip = usize::try_from((page - 1).saturating_mul(size)).unwrap_or(usize::MAX);
    let shown = apps.iter().skip(skip).take(size as usize);
    let shown: Vec<_> = shown.map(|app| action::app(app, vec![])).collect();
    let pagination = Pagination::new(page, size, apps.len() as u64);
    Ok(Action::Reply(Reply::json(200, answer::success_page(shown, pagination))))
}

pub(super) fn create_app(cx: &mut Context, call: &Call<'_>) -> Result<Action, Refusal> {
    authorize_operator(cx, call)?;
    let change = app_change(&call.request.body)?;
    if change.name.is_none() {
        return Err(Refusal::field("name", "name is required"));
    }
    let create = AccountsCall::CreateApp { request: call.id, change };
    Ok(Action::Accounts(AppId::DEFAULT, create))
}

pub(super) fn app(cx: &mut Context, call: &Call<'_>, app: &str) -> Result<Action, Refusal> {
    let app = authorize_for_app(cx, call, app)?.0;
    Ok(Action::Reply(Reply::json(200, answer::success(action::app(&app, vec![])))))
}

pub(super) fn change_app(cx: &mut Context, call: &Call<'_>, app: &str) -> Result<Action, Refusal> {
    let (app, is_operator) = authorize_for_app(cx, call, app)?;
    let change = app_change(&call.request.body)?;
    if change.plan.is_some() && !is_operator {
        let text = "an app's plan is changed with an mgmt_ key of the app default";
        return Err(Refusal::new(ErrorCode::Forbidden, text));
    }
    let change = AccountsCall::ChangeApp { request: call.id, app: app.id, change };
    Ok(Action::Accounts(app.id, change))
}

pub(super) fn delete_app(cx: &mut Context, call: &Call<'_>, app: &str) -> Result<Action, Refusal> {
    authorize_operator(cx, call)?;
    let app = authorize_for_app(cx, call, app)?.0.id;
    if app == AppId::DEFAULT {
        let text = "the app default cannot be deleted";
        return Err(Refusal::new(ErrorCode::Forbidden, text));
    }
    Ok(Action::Accounts(app, AccountsCall::DeleteApp { request: call.id, app }))
}

pub(super) fn list_keys(cx: &mut Context, call: &Call<'_>, app: &str) -> Result<Action, Refusal> {
    let app = authorize_for_app(cx, call, app)?.0;
    let keys: Vec<_> = app.record.keys.iter().map(action::key).collect();
    Ok(Action::Reply(Reply::json(200, answer::success(keys))))
}

pub(super) fn create_key(cx: &mut Context, call: &Call<'_>, app: &str) -> Result<Action, Refusal> {
    let app = authorize_for_app(cx, call, app)?.0.id;
    let body: KeyBody<'_> = json::parse(&call.request.body, "the body")?;
    let role = body.role.as_deref();
    let role = role.and_then(|role| Role::ALL.into_iter().find(|known| known.name() == role));
    let role = role.ok_or_else(|| Refusal::field("role", "must be publish, secret or mgmt"))?;
    let name = name(body.name)?;
    Ok(Action::Accounts(app, AccountsCall::CreateKey { request: call.id, app, role, name }))
}

pub(super) fn revoke_key(
    cx: &mut Context,
    call: &Call<'_>,
    app: &str,
    key: &str,
) -> Result<Action, Refusal> {
    let app = authorize_for_app(cx, call, app)?.0.id;
    let no_key = || Refusal::new(ErrorCode::NotFound, "the app has no such key");
    let key = KeyId::parse(key).ok_or_else(no_key)?;
    Ok(Action::Accounts(app, AccountsCall::RevokeKey { request: call.id, app, key }))
}

pub(super) fn usage(cx: &mut Context, call: &Call<'_>) -> Result<Action, Refusal> {
    let app = call.authorize(cx, Role::Secret)?.app;
    if cx.is_cluster() {
        // Channels that nobody uses just now are known to the streams alone.
        let (app, is_usage) = (app.id, true);
        return Ok(Action::List(ListQuery { app, after: None, page: 1, page_size: 0, is_usage }));
    }
    Ok(Action::Reply(usage_reply(cx, &app, app.usage.channels())))
}

/// What an app uses that has so many channels.
pub(crate) fn usage_reply(cx: &Context, app: &App, channels: u64) -> Reply {
    let (month, usage, plan) = (cx.month(), &app.usage, &app.plan);
    let limit = |most: u64| Some(most).filter(|most| *most != UNLIMITED);
    let usage = Usage {
        plan: &app.record.plan,
        month: month.to_string(),
        connections: usage.connections(),
        channels,
        messages_this_month: usage.messages(month),
        limits: UsageLimits {
            connections: limit(plan.connections_max),
            messages_per_month: limit(plan.messages_per_month_max),
            channels: limit(plan.channels_max),
            publishes_per_second: limit(plan.publishes_per_second_max),
            subscribes_per_second: limit(plan.subscribes_per_second_max),
            payload_bytes: limit(plan.payload_bytes_max),
            subscriptions_per_connection: limit(plan.subscriptions_per_connection_max),
            history_age_ms: plan.retention.age_ms_max,
        },
    };
    Reply::json(200, answer::success(usage))
}

/// One who administers the server: a management key of the default app.
pub(super) fn authorize_operator(cx: &mut Context, call: &Call<'_>) -> Result<(), Refusal> {
    let access = call.authorize(cx, Role::Manage)?;
    if access.app.id == AppId::DEFAULT {
        return Ok(());
    }
    let text = "this needs an mgmt_ key of the app default, which administers the server";
    Err(Refusal::new(ErrorCode::Forbidden, text))
}

/// One who manages this app, and whether it is one who administers the server. To others it is
/// not even said whether the app exists.
fn authorize_for_app(
    cx: &mut Context,
    call: &Call<'_>,
    app: &str,
) -> Result<(Arc<App>, bool), Refusal> {
    let access = call.authorize(cx, Role::Manage)?;
    let is_operator = access.app.id == AppId::DEFAULT;
    if app == "self" {
        return Ok((access.app, is_operator));
    }
    let wanted = AppId::parse(app).filter(|wanted| is_operator || *wanted == access.app.id);
    let found = wanted.and_then(|wanted| cx.directory.app(wanted));
    match found {
        Some(found) => Ok((Arc::clone(found), is_operator)),
        None => Err(Refusal::new(ErrorCode::NotFound, "there is no such app")),
    }
}

fn app_change(body: &[u8]) -> Result<AppChange, Refusal> {
    let body: AppBody<'_> = json::parse(body, "the body")?;
    let settings = body.settings.map(|Object(given)| settings(given)).transpose()?;
    let settings = settings.unwrap_or_default();
    Ok(AppChange { name: name(body.name)?, plan: body.plan.map(Into::into), settings })
}

fn settings(given: SettingsBody<'_>) -> Result<SettingsChange, Refusal> {
    let allowed_origins = match given.allowed_origins {
        None => None,
        Some(None) => Some(AllowedOrigins::All),
        Some(Some(origins)) => {
            let wrong = |error| Refusal::field("settings", format!("allowedOrigins: {error}"));
            Some(AllowedOrigins::parse(&origins).map_err(wrong)?)
        }
    };
    let SettingsBody { require_channels, client_publish, .. } = given;
    Ok(SettingsChange { allowed_origins, require_channels, client_publish })
}

fn name(name: Option<Cow<'_, str>>) -> Result<Option<Box<str>>, Refusal> {
    match name {
        Some(name) if name.is_empty() || name.len() > NAME_BYTES_MAX => {
            Err(Refusal::field("name", format!("must have 1 to {NAME_BYTES_MAX} bytes")))
        }
        name => Ok(name.map(Into::into)),
    }
}

/// A field whose `null` says something else than its absence.
pub(super) fn given<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    d: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(d).map(Some)
}
