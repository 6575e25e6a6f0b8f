//! `pushflo apps`: the tenants of a running server.

use std::error::Error;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::ManagedServer;
use super::api::{data, text};
use super::keys::show_key;
use super::output::{complain, say};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all apps
    List(ManagedServer),
    /// Make an app with a key of each role; the keys are shown this once
    Create {
        /// What it is called
        name: String,
        #[command(flatten)]
        properties: Properties,
        #[command(flatten)]
        server: ManagedServer,
    },
    /// Show one app
    Show {
        /// The app's id
        app: String,
        #[command(flatten)]
        server: ManagedServer,
    },
    /// Change an app
    Change {
        /// The app's id
        app: String,
        /// What it is called from now on
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        properties: Properties,
        #[command(flatten)]
        server: ManagedServer,
    },
    /// Delete an app with its channels and history; its connections are closed
    Delete {
        /// The app's id
        app: String,
        #[command(flatten)]
        server: ManagedServer,
    },
}

#[derive(Debug, Args)]
struct Properties {
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

impl Properties {
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
        Action::List(server) => {
            let apps = server.api().all("/api/v1/apps")?;
            say(format_args!("{:<14} {:<12} NAME", "APP", "PLAN"))?;
            for app in apps {
                let column = |field| text(&app, field);
                let (id, plan) = (column("id"), column("plan"));
                say(format_args!("{id:<14} {plan:<12} {}", column("name")))?;
            }
        }
        Action::Create { name, properties, server } => {
            let body = properties.body(Some(name));
            let answer = server.api().call("POST", "/api/v1/apps", Some(body))?;
            let app = data(&answer);
            let keys = app.get("keys").and_then(Value::as_array);
            let keys: Vec<String> = keys.into_iter().flatten().map(show_key).collect();
            let id = text(app, "id");
            say(format_args!(
                "App {id} was made. Its keys are shown this once:\n\n{}",
                keys.join("\n")
            ))
            .inspect_err(|_| {
                complain(format_args!("the app was made all the same; pushflo apps delete {id}"));
            })?;
        }
        Action::Show { app, server } => {
            let answer = server.api().call("GET", &format!("/api/v1/apps/{app}"), None)?;
            print_app(&answer)?;
        }
        Action::Change { app, name, properties, server } => {
            let body = properties.body(name.as_deref());
            let path = format!("/api/v1/apps/{app}");
            print_app(&server.api().call("PATCH", &path, Some(body))?)?;
        }
        Action::Delete { app, server } => {
            server.api().call("DELETE", &format!("/api/v1/apps/{app}"), None)?;
            say(format_args!("App {app} was deleted."))?;
        }
    }
    Ok(())
}

fn print_app(answer: &Value) -> Result<(), Box<dyn Error>> {
    say(serde_json::to_string_pretty(data(answer))?)?;
    Ok(())
}
