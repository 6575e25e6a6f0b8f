//! Apps and keys: `/api/v1/apps…`, and what an app uses: `/api/v1/usage`.
//!
//! What is asked is answered from the shard's own directory; what changes goes to the accounts.

use std::borrow::Cow;
use std::sync::Arc;

use pushflo_protocol::http::Request;
use pushflo_protocol::json::Object;
use pushflo_protocol::limits::NAME_BYTES_MAX;
use pushflo_protocol::origin::AllowedOrigins;
use pushflo_protocol::{ErrorCode, Refusal, json};
use serde::Deserialize;

use super::messages::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, page, page_size};
use crate::accounts::plan::Plan;
use crate::accounts::{AccountsCall, App, AppChange, KeyId, Role, SettingsChange};
use crate::context::Context;
use crate::edge::Edge;
use crate::edge::{Answering, Reply};
use crate::ids::{AppId, RequestId};
use crate::pages::page_end;

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

impl Edge {
    pub(super) fn list_apps(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<Answering, Refusal> {
        self.authorize_operator(cx, id, request)?;
        let (page, size) = (page(request)?, page_size(request, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?);
        let mut apps: Vec<&Arc<App>> = cx.directory.apps().collect();
        apps.sort_unstable_by_key(|app| app.id);
        let skip = usize::try_from((page - 1).saturating_mul(size)).unwrap_or(usize::MAX);
        let shown = apps.iter().skip(skip).take(size as usize);
        let shown: Vec<String> = shown.map(|app| app.to_json()).collect();
        let end = page_end(page, size, apps.len() as u64);
        let body = format!(r#"{{"success":true,"data":[{}],{end}}}"#, shown.join(","));
        Ok(Answering::Now(Reply::json(200, body)))
    }

    pub(super) fn create_app(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<Answering, Refusal> {
        self.authorize_operator(cx, id, request)?;
        let change = app_change(&request.body)?;
        if change.name.is_none() {
            return Err(Refusal::field("name", "name is required"));
        }
        cx.ask_accounts(AppId::DEFAULT, AccountsCall::CreateApp { request: id, change })?;
        Ok(Answering::Later)
    }

    pub(super) fn app(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        app: &str,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize_for_app(cx, id, request, app)?.0;
        let body = format!(r#"{{"success":true,"data":{}}}"#, app.to_json());
        Ok(Answering::Now(Reply::json(200, body)))
    }

    pub(super) fn change_app(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        app: &str,
    ) -> Result<Answering, Refusal> {
        let (app, is_operator) = self.authorize_for_app(cx, id, request, app)?;
        let change = app_change(&request.body)?;
        if change.plan.is_some() && !is_operator {
            let text = "an app's plan is changed with an mgmt_ key of the app default";
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        }
        cx.ask_accounts(app.id, AccountsCall::ChangeApp { request: id, app: app.id, change })?;
        Ok(Answering::Later)
    }

    pub(super) fn delete_app(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        app: &str,
    ) -> Result<Answering, Refusal> {
        self.authorize_operator(cx, id, request)?;
        let app = self.authorize_for_app(cx, id, request, app)?.0.id;
        if app == AppId::DEFAULT {
            let text = "the app default cannot be deleted";
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        }
        cx.ask_accounts(app, AccountsCall::DeleteApp { request: id, app })?;
        Ok(Answering::Later)
    }

    pub(super) fn list_keys(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        app: &str,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize_for_app(cx, id, request, app)?.0;
        let keys: Vec<String> = app.record.keys.iter().map(|key| key.to_json(None)).collect();
        let body = format!(r#"{{"success":true,"data":[{}]}}"#, keys.join(","));
        Ok(Answering::Now(Reply::json(200, body)))
    }

    pub(super) fn create_key(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        app: &str,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize_for_app(cx, id, request, app)?.0.id;
        let body: KeyBody<'_> = json::parse(&request.body, "the body")?;
        let role = body.role.as_deref();
        let role = role.and_then(|role| Role::ALL.into_iter().find(|known| known.name() == role));
        let role = role.ok_or_else(|| Refusal::field("role", "must be publish, secret or mgmt"))?;
        let name = name(body.name)?;
        cx.ask_accounts(app, AccountsCall::CreateKey { request: id, app, role, name })?;
        Ok(Answering::Later)
    }

    pub(super) fn revoke_key(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        app: &str,
        key: &str,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize_for_app(cx, id, request, app)?.0.id;
        let no_key = || Refusal::new(ErrorCode::NotFound, "the app has no such key");
        let key = KeyId::parse(key).ok_or_else(no_key)?;
        cx.ask_accounts(app, AccountsCall::RevokeKey { request: id, app, key })?;
        Ok(Answering::Later)
    }

    pub(super) fn usage(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(cx, id, request, Role::Secret)?.app;
        let month = cx.month();
        let (usage, plan) = (&app.usage, serde_json::json!(app.record.plan));
        let mut body = format!(
            r#"{{"success":true,"data":{{"plan":{plan},"month":"{month}","connections":{},"channels":{},"messagesThisMonth":{},"limits":"#,
            usage.connections(),
            usage.channels(),
            usage.messages(month)
        );
        Plan::push_json(&app.plan, &mut body);
        body.push_str("}}");
        Ok(Answering::Now(Reply::json(200, body)))
    }

    /// One who administers the server: a management key of the default app.
    fn authorize_operator(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<(), Refusal> {
        let access = self.authorize(cx, id, request, Role::Manage)?;
        if access.app.id == AppId::DEFAULT {
            return Ok(());
        }
        let text = "this needs an mgmt_ key of the app default, which administers the server";
        Err(Refusal::new(ErrorCode::Forbidden, text))
    }

    /// One who manages this app, and whether it is one who administers the server. To others it is
    /// not even said whether the app exists.
    fn authorize_for_app(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        app: &str,
    ) -> Result<(Arc<App>, bool), Refusal> {
        let access = self.authorize(cx, id, request, Role::Manage)?;
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
