//! The connection to NATS.

use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use tokio::time::sleep;

use super::ClusterPlan;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Connects, and goes on until it is connected. What is lost later is connected again by itself.
pub(super) async fn connect(plan: &ClusterPlan) -> Client {
    let servers: Vec<&str> = plan.nats.split(',').map(str::trim).collect();
    let mut told = 0u32;
    loop {
        let options = ConnectOptions::new()
            .name(format!("pushflo {}", plan.node))
            .max_reconnects(None)
            .reconnect_delay_callback(|attempts| {
                Duration::from_millis(100 * (attempts as u64).clamp(1, 20))
            })
            .subscription_capacity(64 * 1024);
        match options.connect(&servers[..]).await {
            Ok(client) => return client,
            Err(error) => {
                // Once in ten seconds is enough.
                if told.is_multiple_of(20) {
                    tracing::error!(
                        nats = without_passwords(&plan.nats),
                        %error,
                        "NATS cannot be reached; it is tried until it is there"
                    );
                }
                told = told.wrapping_add(1);
                sleep(PAUSE).await;
            }
        }
    }
}

/// Addresses as they may be told.
pub(super) fn without_passwords(addresses: &str) -> String {
    let shown = addresses.split(',').map(|address| {
        let address = address.trim();
        let (scheme, rest) = address.split_once("://").unwrap_or(("nats", address));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://{host}")
    });
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_told() {
        let shown = without_passwords("nats://me:s@cret@10.0.0.1:4222, tls://b, token@c:1");
        assert_eq!(shown, "nats://10.0.0.1:4222,tls://b,nats://c:1");
    }
}
