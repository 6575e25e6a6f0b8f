//! `pushflo keys`: keys of an app, on a running server or, where no management key is left, in the
//! data folder of one that is stopped.

use std::error::Error;
use std::path::Path;

use clap::{Args, Subcommand};
use pushflo_engine::accounts::Role;
use pushflo_engine::ids::AppId;
use pushflo_engine::startup;
use serde_json::{Value, json};

use super::api::{data, text};
use super::output::{self, OutputError, complain, say};
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
        #[arg(long, value_parser = Role::ALL.map(Role::name))]
        role: String,
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
        let key = data(&answer);
        let shown = show_key(key);
        say(format_args!("The key was made. It is shown this once:\n\n{shown}")).inspect_err(
            |_| {
                let id = text(key, "id");
                complain(format_args!("the key was made all the same; pushflo keys revoke {id}"));
            },
        )?;
        Ok(())
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    match &arguments.action {
        Action::List(target) => {
            let keys = target.keys()?;
            say(format_args!("{:<22} {:<8} {:<26} NAME", "KEY", "ROLE", "CREATED"))?;
            for key in keys {
                let column = |field| text(&key, field);
                let (id, role, created) = (column("id"), column("role"), column("createdAt"));
                say(format_args!("{id:<22} {role:<8} {created:<26} {}", column("name")))?;
            }
        }
        Action::Create { role, name, target } => target.create(role, name.as_deref())?,
        Action::Rotate { id, target } => {
            let keys = target.keys()?;
            let old = keys.iter().find(|key| text(key, "id") == id);
            let old = old.ok_or_else(|| format!("the app has no key {id}"))?;
            target.create(text(old, "role"), old.get("name").and_then(Value::as_str))?;
            say(format_args!(
                "\nOnce everybody uses it, revoke the old one: pushflo keys revoke {id}"
            ))?;
        }
        Action::Revoke { id, target } => {
            target.call("DELETE", &format!("/{id}"), None)?;
            say(format_args!("Key {id} was revoked."))?;
        }
        Action::Recover(arguments) => {
            let config = arguments.load()?;
            let key = startup::recover_key(&config, AppId::DEFAULT, Role::Manage)?;
            let (folder, role) = (config.data_dir.display(), Role::Manage.name());
            let said = say(format_args!(
                "A management key was made in {folder}. It is shown this once:\n\n  {role:<8} {key}"
            ));
            keep_unread(said, &config.data_dir, &[(Role::Manage, key)])?;
        }
    }
    Ok(())
}

/// The line that shows a key that was made just now.
pub(super) fn show_key(key: &Value) -> String {
    format!("  {:<8} {}", text(key, "role"), text(key, "key"))
}

/// Keeps keys that were made just now in a file where nobody could read them: they exist nowhere else.
pub(super) fn keep_unread(
    said: Result<(), OutputError>,
    data_dir: &Path,
    keys: &[(Role, String)],
) -> Result<(), OutputError> {
    if keys.is_empty() || (said.is_ok() && !output::is_discarded()) {
        return said;
    }
    complain(match startup::keep_keys(data_dir, keys) {
        Ok(path) => format!(
            "nobody reads standard output, so the keys that were made are in {}; move them to a safe \
             place",
            path.display()
        ),
        Err(error) => format!(
            "the keys that were made could not be shown, nor kept in {}: {error}; pushflo keys \
             recover makes another one",
            data_dir.display()
        ),
    });
    said
}
