//! One run with every parameter in it.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use crate::driver::Driver;
use crate::options::{Options, Parameters, Rate, Scenario, Size};
use crate::payload::PAYLOAD_BYTES_MIN;

/// Connections for each thread: its file table holds 20,000 on a machine with a usual limit.
const CONNECTIONS_PER_THREAD: usize = 15_000;

/// Most messages of a request: what the server takes.
const BATCH_MAX: usize = 1_000;

/// Everything a run is told.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) scenario: &'static str,
    pub(crate) driver: Driver,
    pub(crate) server: SocketAddr,
    /// Where publishes go, if not to the same port.
    pub(crate) publish_to: SocketAddr,
    pub(crate) subscribe_path: Option<String>,
    pub(crate) publish_path: Option<String>,
    #[serde(skip)]
    pub(crate) publish_key: String,
    #[serde(skip)]
    pub(crate) secret_key: String,
    pub(crate) server_pid: Option<u32>,
    pub(crate) subscribers: usize,
    pub(crate) channels: usize,
    /// Publishes per second; `None`: as fast as they are answered.
    pub(crate) rate: Option<f64>,
    pub(crate) payload_bytes: usize,
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) publishers: usize,
    pub(crate) pipeline: usize,
    /// Messages in each request.
    pub(crate) batch: usize,
    /// Messages that all subscribers miss in a storm; 0: no storm.
    pub(crate) missed: u64,
    /// What is done between that and their return.
    pub(crate) before_return: Option<String>,
    pub(crate) channel_prefix: String,
    pub(crate) threads: usize,
    pub(crate) cores: Vec<usize>,
    pub(crate) connecting_max: usize,
}

/// Why there is no plan.
#[derive(Debug, Error)]
pub(crate) enum PlanError {
    #[error("{0}: the address must look like http://127.0.0.1:7070")]
    Address(String),
    #[error("--{0}")]
    Parameter(String),
    #[error("set --publish-key or PUSHFLO_PUBLISH_KEY")]
    PublishKey,
    #[error("this scenario publishes: set --secret-key or PUSHFLO_SECRET_KEY")]
    SecretKey,
}

/// What a scenario and size stand for.
struct Defaults {
    subscribers: usize,
    channels: usize,
    rate: Rate,
    seconds: f64,
    publishers: usize,
    pipeline: usize,
    missed: u64,
}

fn defaults(scenario: &Scenario, size: Size) -> Defaults {
    let pick = |small, reference, large| match size {
        Size::Small => small,
        Size::Reference => reference,
        Size::Large => large,
    };
    let seconds = match size {
        Size::Small => 3.0,
        Size::Reference => 15.0,
        Size::Large => 60.0,
    };
    let base = Defaults {
        subscribers: pick(100, 1_000, 100_000),
        channels: 1,
        rate: Rate::PerSecond(20.0),
        seconds,
        publishers: 1,
        pipeline: 64,
        missed: 0,
    };
    match scenario {
        Scenario::Fanout(_) => base,
        Scenario::Personal(_) => {
            let many = pick(500, 10_000, 100_000);
            let rate = Rate::Max;
            Defaults {
                subscribers: many,
                channels: many,
                rate,
                publishers: 16,
                pipeline: 32,
                ..base
            }
        }
        Scenario::Idle(_) => {
            Defaults { subscribers: pick(1_000, 15_000, 100_000), publishers: 0, ..base }
        }
        Scenario::Storm(_) => {
            Defaults { subscribers: pick(500, 10_000, 50_000), channels: 10, missed: 20, ..base }
        }
        Scenario::Latency(_) => {
            Defaults { subscribers: pick(10, 100, 1_000), rate: Rate::PerSecond(100.0), ..base }
        }
        Scenario::Ingress(_) => {
            let (channels, rate) = (pick(100, 1_000, 10_000), Rate::Max);
            Defaults { subscribers: 0, channels, rate, publishers: 16, pipeline: 32, ..base }
        }
    }
}

impl Plan {
    pub(crate) fn new(options: &Options) -> Result<(Self, &Parameters), PlanError> {
        let (name, given) = match &options.scenario {
            Scenario::Fanout(p) => ("fanout", p),
            Scenario::Personal(p) => ("personal", p),
            Scenario::Idle(p) => ("idle", p),
            Scenario::Storm(p) => ("storm", p),
            Scenario::Latency(p) => ("latency", p),
            Scenario::Ingress(p) => ("ingress", p),
        };
        let d = defaults(&options.scenario, given.size);
        let subscribers = given.subscribers.unwrap_or(d.subscribers);
        let publishers = given.publishers.unwrap_or(d.publishers);
        let threads = (subscribers + publishers).div_ceil(CONNECTIONS_PER_THREAD).max(1);
        let seconds = |name: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds)
                .map_err(|_| PlanError::Parameter(format!("{name} must be a time in seconds")))
        };
        let plan = Self {
            scenario: name,
            driver: given.driver,
            server: address(&given.url)?,
            publish_to: address(given.publish_url.as_ref().unwrap_or(&given.url))?,
            subscribe_path: given.subscribe_path.clone(),
            publish_path: given.publish_path.clone(),
            publish_key: given.publish_key.clone(),
            secret_key: given.secret_key.clone(),
            server_pid: given.server_pid,
            subscribers,
            channels: given.channels.unwrap_or(d.channels),
            rate: match given.rate.unwrap_or(d.rate) {
                Rate::PerSecond(rate) => Some(rate),
                Rate::Max => None,
            },
            payload_bytes: given.payload.unwrap_or(200),
            duration: seconds("duration", given.duration.unwrap_or(d.seconds))?,
            warm_up: seconds("warm-up", given.warm_up.unwrap_or(2.0))?,
            publishers,
            // Servers of the Pusher protocol may end a connection with any answer.
            pipeline: match given.driver {
                Driver::Pusher => 1,
                _ => given.pipeline.unwrap_or(d.pipeline),
            },
            batch: given.batch.unwrap_or(1),
            missed: given.missed.unwrap_or(d.missed),
            before_return: given.before_return.clone(),
            channel_prefix: given.channel_prefix.clone(),
            threads: given.threads.unwrap_or(threads),
            cores: given.cores.clone(),
            connecting_max: given.connecting,
        };
        plan.check()?;
        Ok((plan, given))
    }

    /// The grain of what is told over time.
    pub(crate) fn interval(&self) -> Duration {
        (self.duration / 50).max(Duration::from_millis(100))
    }

    fn check(&self) -> Result<(), PlanError> {
        let least = [
            ("channels", self.channels),
            ("threads", self.threads),
            ("pipeline", self.pipeline),
            ("connecting", self.connecting_max),
            ("batch", self.batch),
        ];
        if let Some((name, _)) = least.into_iter().find(|(_, value)| *value == 0) {
            return Err(PlanError::Parameter(format!("{name} must be at least 1")));
        }
        if !(PAYLOAD_BYTES_MIN..=1 << 20).contains(&self.payload_bytes) {
            let text = format!("payload must be from {PAYLOAD_BYTES_MIN} to 1048576");
            return Err(PlanError::Parameter(text));
        }
        if self.batch > BATCH_MAX || (self.batch > 1 && self.driver != Driver::Pushflo) {
            let text = format!("batch may be at most {BATCH_MAX}, and 1 with other drivers");
            return Err(PlanError::Parameter(text));
        }
        if self.before_return.is_some() && self.missed == 0 {
            let text = "before-return: nobody returns in this scenario";
            return Err(PlanError::Parameter(text.into()));
        }
        if self.driver == Driver::Pushflo {
            if self.publishers > 0 && self.secret_key.is_empty() {
                return Err(PlanError::SecretKey);
            }
            if self.publish_key.is_empty() {
                return Err(PlanError::PublishKey);
            }
        } else if self.publishers > 1 || self.missed > 0 {
            let text = "driver: without offsets only one publisher can be checked, and no recovery";
            return Err(PlanError::Parameter(text.into()));
        }
        Ok(())
    }

    /// The name of a channel.
    pub(crate) fn channel(&self, index: usize) -> String {
        format!("{}{index}", self.channel_prefix)
    }
}

fn address(url: &str) -> Result<SocketAddr, PlanError> {
    let wrong = || PlanError::Address(url.into());
    let authority = url.strip_prefix("http://").ok_or_else(wrong)?.trim_end_matches('/');
    authority.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(wrong)
}
