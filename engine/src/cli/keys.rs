//! `pushflo keys`: keys of an app, on a running server or, where no management key is left, in the
//! data folder of one that is stopped.

use std::error::Error;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use pushflo_engine::auth::{AppId, Role};
use pushflo_engine::server;
use serde_json::{Value, json};

use super::api::{data, text};
use super::{ManagedServer, ServerArguments};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the keys of an app; the keys themselves are never shown again
    List(Target),
    /// Make a key; it is shown this once
    Create {
        /// What it may do
        #[arg(long, value_enum)]
        role: Role,
        /// What it is called
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Make a key of the same role as another, to take its place
    Rotate {
        /// The id of the key that is to be replaced
        id: String,
        #[command(flatten)]
        target: Target,
    },
    /// Revoke a key at once; its connections are closed
    Revoke {
        /// The key's id
        id: String,
        #[command(flatten)]
        target: Target,
    },
    /// Make a management key of the app default in the data folder of a stopped server, where none is
    /// left
    Recover(ServerArguments),
}

#[derive(Debug, Args)]
struct Target {
    /// The app's id; without it, the app of the management key
    #[arg(long, default_value = "self")]
    app: String,
    #[command(flatten)]
    server: ManagedServer,
}

impl Target {
    fn call(
        &self,
        method: &str,
        rest: &str,
        body: Option<String>,
    ) -> Result<Value, Box<dyn Error>> {
        self.server.api().call(method, &format!("/api/v1/apps/{}/keys{rest}", self.app), body)
    }

    fn keys(&self) -> Result<Vec<Value>, Box<dyn Error>> {
        let answer = self.call("GET", "", None)?;
        Ok(data(&answer).as_array().cloned().unwrap_or_default())
    }

    fn create(&self, role: &str, name: Option<&str>) -> Result<(), Box<dyn Error>> {
        let body = json!({ "role": role, "name": name }).to_string();
        let answer = self.call("POST", "", Some(body))?;
        println!("The key was made. It is shown this once:\n");
        print_key(data(&answer));
        Ok(())
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    match &arguments.action {
        Action::List(target) => {
            println!("{:<22} {:<8} {:<26} NAME", "KEY", "ROLE", "CREATED");
            for key in target.keys()? {
                let column = |field| text(&key, field);
                let (id, role, created) = (column("id"), column("role"), column("createdAt"));
                println!("{id:<22} {role:<8} {created:<26} {}", column("name"));
            }
        }
        Action::Create { role, name, target } => target.create(role.name(), name.as_deref())?,
        Action::Rotate { id, target } => {
            let keys = target.keys()?;
            let old = keys.iter().find(|key| text(key, "id") == id);
            let old = old.ok_or_else(|| format!("the app has no key {id}"))?;
            target.create(text(old, "role"), old.get("name").and_then(Value::as_str))?;
            println!("\nOnce everybody uses it, revoke the old one: pushflo keys revoke {id}");
        }
        Action::Revoke { id, target } => {
            target.call("DELETE", &format!("/{id}"), None)?;
            println!("Key {id} was revoked.");
        }
        Action::Recover(arguments) => {
            let config = arguments.load()?;
            let folder: PathBuf = config.data_dir.clone();
            let key = server::recover_key(&config, AppId::DEFAULT, Role::Manage)?;
            println!("A management key was made in {}. It is shown this once:\n", folder.display());
            println!("  {:<8} {key}", Role::Manage.name());
        }
    }
    Ok(())
}

/// Prints a key that was made just now.
pub(super) fn print_key(key: &Value) {
    println!("  {:<8} {}", text(key, "role"), text(key, "key"));
}
