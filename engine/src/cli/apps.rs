//! `pushflo apps`: the tenants of a running server.

use std::error::Error;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::api::{Api, text};
use super::keys::print_key;
use super::{ManagementKey, ServerAddress};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all apps
    List(Target),
    /// Make an app with a key of each role; the keys are shown this once
    Create {
        /// What it is called
        name: String,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        target: Target,
    },
    /// Show one app
    Show {
        /// The app's id
        app: String,
        #[command(flatten)]
        target: Target,
    },
    /// Change an app
    Change {
        /// The app's id
        app: String,
        /// What it is called from now on
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        target: Target,
    },
    /// Delete an app with its channels and history; its connections are closed
    Delete {
        /// The app's id
        app: String,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Args)]
struct Change {
    /// Name of its plan, such as unlimited, free or starter
    #[arg(long)]
    plan: Option<String>,
    /// Browsers' origins that may connect and call, such as `https://example.com`; `all` allows all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    allowed_origins: Option<Vec<String>>,
    /// Whether channels must be created before they are used
    #[arg(long, value_name = "true|false")]
    require_channels: Option<bool>,
    /// Whether clients may publish over their WebSocket where their token grants it
    #[arg(long, value_name = "true|false")]
    client_publish: Option<bool>,
}

#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    key: ManagementKey,
    #[command(flatten)]
    server: ServerAddress,
}

impl Target {
    fn api(&self) -> Api<'_> {
        Api { url: &self.server.url, key: &self.key.key }
    }
}

impl Change {
    fn body(&self, name: Option<&str>) -> String {
        let mut settings = serde_json::Map::new();
        if let Some(origins) = &self.allowed_origins {
            let all = origins.iter().any(|origin| origin == "all");
            settings
                .insert("allowedOrigins".into(), if all { Value::Null } else { json!(origins) });
        }
        if let Some(required) = self.require_channels {
            settings.insert("requireChannels".into(), required.into());
        }
        if let Some(allowed) = self.client_publish {
            settings.insert("clientPublish".into(), allowed.into());
        }
        json!({ "name": name, "plan": self.plan, "settings": settings }).to_string()
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    match &arguments.action {
        Action::List(target) => {
            println!("{:<14} {:<12} NAME", "APP", "PLAN");
            for app in target.api().all("/api/v1/apps")? {
                println!(
                    "{:<14} {:<12} {}",
                    text(&app, "id"),
                    text(&app, "plan"),
                    text(&app, "name")
                );
            }
        }
        Action::Create { name, change, target } => {
            let body = change.body(Some(name));
            let answer = target.api().call("POST", "/api/v1/apps", Some(body))?;
            let app = answer.get("data").cloned().unwrap_or_default();
            println!("App {} was made. Its keys are shown this once:\n", text(&app, "id"));
            let keys = app.get("keys").and_then(Value::as_array).cloned().unwrap_or_default();
            keys.iter().for_each(print_key);
        }
        Action::Show { app, target } => {
            let answer = target.api().call("GET", &format!("/api/v1/apps/{app}"), None)?;
            print_app(&answer)?;
        }
        Action::Change { app, name, change, target } => {
            let body = change.body(name.as_deref());
            let path = format!("/api/v1/apps/{app}");
            print_app(&target.api().call("PATCH", &path, Some(body))?)?;
        }
        Action::Delete { app, target } => {
            target.api().call("DELETE", &format!("/api/v1/apps/{app}"), None)?;
            println!("App {app} was deleted.");
        }
    }
    Ok(())
}

fn print_app(answer: &Value) -> Result<(), Box<dyn Error>> {
    let app = answer.get("data").cloned().unwrap_or_default();
    println!("{}", serde_json::to_string_pretty(&app)?);
    Ok(())
}
