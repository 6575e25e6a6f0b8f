//! The connection to NATS: where it is, who this is to it, and what it is believed by.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use tokio::time::sleep;

use super::ClusterPlan;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// How often it is told that there is no connection, in attempts.
const TELL_AGAIN: u32 = 20;

/// Where NATS is, and what is shown to it.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsPlan {
    /// Addresses without users: `nats://host:port`, or `tls://host:port` for a connection that must be TLS.
    pub servers: Vec<String>,
    /// A user and a password.
    pub user: Option<(String, String)>,
    /// A token, which is a user without a password.
    pub token: Option<String>,
    /// A credentials file of NATS: a JWT and the seed of an nkey.
    pub credentials: Option<PathBuf>,
    /// Authorities in PEM form by which the servers are known, instead of those that everybody knows.
    pub tls_ca: Option<PathBuf>,
    /// A certificate of this node and its key, in PEM form.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
}

/// Why addresses are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NatsAddressError {
    /// Another scheme.
    #[error(
        "must be addresses such as nats://10.0.0.1:4222 or tls://nats.example:4222; `{0}` is none"
    )]
    Scheme(String),
    /// More than one user.
    #[error("must name the same user and password for all servers, or name them once")]
    Users,
}

impl NatsPlan {
    /// Reads addresses, separated by commas. A user stands before a host, as `nats://user:password@host`.
    ///
    /// # Errors
    /// [`NatsAddressError`].
    pub fn parse(addresses: &str) -> Result<Self, NatsAddressError> {
        let mut plan = Self {
            servers: Vec::new(),
            user: None,
            token: None,
            credentials: None,
            tls_ca: None,
            tls_identity: None,
        };
        let mut named: Option<String> = None;
        for address in addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            let (scheme, rest) = address.split_once("://").unwrap_or(("nats", address));
            let (user, host) = rest
                .rsplit_once('@')
                .map_or((None, rest), |(user, host)| (Some(user.to_owned()), host));
            if !matches!(scheme, "nats" | "tls") || host.is_empty() {
                return Err(NatsAddressError::Scheme(format!("{scheme}://{host}")));
            }
            if named.is_some() && user.is_some() && named != user {
                return Err(NatsAddressError::Users);
            }
            named = named.or(user);
            plan.servers.push(format!("{scheme}://{host}"));
        }
        match named.as_deref().map(|user| (user, user.split_once(':'))) {
            Some((_, Some((user, password)))) => plan.user = Some((user.into(), password.into())),
            Some((token, None)) => plan.token = Some(token.into()),
            None => {}
        }
        Ok(plan)
    }

    /// What the connection is made by.
    async fn options(&self, name: &str) -> std::io::Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .name(format!("pushflo {name}"))
            .max_reconnects(None)
            .reconnect_delay_callback(|attempts| {
                Duration::from_millis(100 * (attempts as u64).clamp(1, 20))
            })
            .subscription_capacity(64 * 1024)
            .require_tls(self.servers.iter().any(|server| server.starts_with("tls://")));
        if let Some((user, password)) = &self.user {
            options = options.user_and_password(user.clone(), password.clone());
        }
        if let Some(token) = &self.token {
            options = options.token(token.clone());
        }
        if let Some(file) = &self.credentials {
            options = options.credentials_file(file).await?;
        }
        if let Some(file) = &self.tls_ca {
            options = options.add_root_certificates(file.clone());
        }
        if let Some((certificate, key)) = &self.tls_identity {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options)
    }
}

impl std::fmt::Debug for NatsPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.servers.join(","))
    }
}

/// Connects, and goes on until it is connected. What is lost later is connected again by itself.
pub(super) async fn connect(plan: &ClusterPlan) -> Client {
    let mut attempts = 0u32;
    loop {
        let error = match plan.nats.options(&plan.node).await {
            Ok(options) => match options.connect(&plan.nats.servers[..]).await {
                Ok(client) => return client,
                Err(error) => cause(&error),
            },
            Err(error) => format!("cluster.credentials: {error}"),
        };
        if attempts.is_multiple_of(TELL_AGAIN) {
            tracing::error!(
                nats = ?plan.nats,
                error,
                "NATS cannot be reached; it is tried until it is there"
            );
        }
        attempts = attempts.wrapping_add(1);
        sleep(PAUSE).await;
    }
}

/// An error with what it comes from, as far as that says more.
fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_passwords_are_not_told() {
        let plan = NatsPlan::parse("nats://me:s@cret@10.0.0.1:4222, tls://b,c:1").unwrap();
        assert_eq!(plan.servers, ["nats://10.0.0.1:4222", "tls://b", "nats://c:1"]);
        assert_eq!(plan.user, Some(("me".into(), "s@cret".into())));
        assert_eq!(format!("{plan:?}"), "nats://10.0.0.1:4222,tls://b,nats://c:1");
        assert_eq!(NatsPlan::parse("nats://t0k3n@a").unwrap().token.as_deref(), Some("t0k3n"));
        let same = NatsPlan::parse("nats://a:b@one,nats://a:b@two").unwrap();
        assert_eq!(same.user, Some(("a".into(), "b".into())));
        assert_eq!(NatsPlan::parse("nats://a:b@one,c:d@two"), Err(NatsAddressError::Users));
        for bad in ["http://a", "nats://", "nats://a:b@"] {
            assert!(matches!(NatsPlan::parse(bad), Err(NatsAddressError::Scheme(_))), "{bad}");
        }
        let error = NatsPlan::parse("http://a:secret@b").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
