//! Another process in the place of this one, with all its connections.
//!
//! The old process starts the new one with a way to it as standard input. What is said over that way, in this
//! order:
//!
//! | the old one | the new one |
//! | --- | --- |
//! | `Offer`: its version, the format of what it hands over | |
//! | | `Accepted`, or `Refused` and why |
//! | | `Prepared`: it has done what can be done beforehand |
//! | stands still, closes the log and the accounts; `Take`, with ways to its shards | |
//! | its shards send what they have | opens the log and the accounts; its shards begin with what comes |
//! | | `Ready`: nothing is missing but the word to begin |
//! | `Commit` | |
//! | | goes on with the connections; `Running` |
//! | ends | |
//!
//! Until `Commit` the old one can take everything back: whatever fails, it ends the new one, opens its log and its
//! accounts again and goes on. A new one whose predecessor is gone before that goes on with what it has got.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::StartupError;
use super::machine::choose_cores;
use super::server::Server;
use super::services::{OpenedData, Services};
use crate::clock::Clock;
use crate::config::Config;
use crate::handover::{ChannelState, FORMAT, FRAME_BYTES, SharedState, decode, encode};
use crate::host::Host;
use crate::runtime::{Command, Courier, Done, Heritage, Order, Stillness};

/// The variable that tells a process that it is to take the place of the one that started it.
const HANDOVER_VARIABLE: &str = "PUSHFLO_HANDOVER";

/// How long the new process may take until it is prepared. The old one goes on meanwhile.
const PREPARATION: Duration = Duration::from_secs(15);

/// How long what is under way may take when nothing comes in any more.
const STANDSTILL: Duration = Duration::from_secs(5);

/// How long the new process may take from there until it is ready. Nobody is served meanwhile.
const TAKEOVER: Duration = Duration::from_secs(10);

/// How long the new process waits for a word of the old one.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long the shards are given to begin to stand still, or to go on.
const OBEDIENCE: Duration = Duration::from_secs(10);

/// How long a process that has failed may take to say why.
const LAST_WORD: Duration = Duration::from_millis(200);

/// How long a node of a cluster waits until others own its slots, and the one that comes until it is part of the
/// cluster; how often it looks.
const LEAVING: Duration = Duration::from_secs(5);
const JOINING: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long what other nodes asked of one that had slots until now is still answered: they hear of the new owners
/// meanwhile.
const FAREWELL: Duration = Duration::from_millis(300);

/// Why no other process is in the place of this one. This one goes on, if nothing else is said.
#[derive(Debug, Error)]
pub enum HandOverError {
    /// The server is going away.
    #[error("the server drains")]
    Draining,
    /// It is the first process of its container, which ends with it.
    #[error(
        "this is process 1 of a container, which ends with it: restart the container; its connections are drained"
    )]
    Init,
    /// The program cannot be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The new process does not want to.
    #[error("the new process refuses: {0}")]
    Refused(String),
    /// The new process cannot start.
    #[error("the new process cannot start: {0}")]
    Failed(String),
    /// The new process has ended.
    #[error("the new process has ended ({0}); what it said stands before this")]
    Ended(String),
    /// The new process is too slow.
    #[error("the new process {what} within {} s", .within.as_secs())]
    Late {
        /// What it did not do.
        what: &'static str,
        /// How long it had.
        within: Duration,
    },
    /// What is under way does not end.
    #[error("what is under way did not end within {} s: the log or another node does not answer", STANDSTILL.as_secs())]
    Busy,
    /// A shard cannot hand over what it has.
    #[error("connections cannot be handed over: {0}")]
    Connections(io::Error),
    /// A shard does not do what it is told.
    #[error("a shard does not do what it is told")]
    Stuck,
    /// Kernel and new process cannot be talked to.
    #[error("cannot talk to the new process: {0}")]
    Way(#[from] io::Error),
}

/// What has become of a server that was handed over.
#[derive(Clone, Copy, Debug)]
pub struct HandedOver {
    /// How many connections went.
    pub connections: usize,
    /// How long nobody was served.
    pub pause: Duration,
    /// By which the kernel knows the new one.
    pub process: u32,
}

/// A word of one process to the other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "camelCase")]
enum Word {
    #[serde(rename_all = "camelCase")]
    Offer {
        version: String,
        format: u32,
        data_dir: PathBuf,
    },
    Accepted {
        version: String,
    },
    Refused {
        reason: String,
    },
    Failed {
        reason: String,
    },
    Prepared {
        shards: usize,
    },
    Take(Box<Taking>),
    Ready,
    Commit,
    Running,
}

/// What comes with the word to take over. Its descriptor is the listener of metrics, if there is one; frames with a
/// way to each shard follow.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Taking {
    shared: SharedState,
    shards: usize,
    /// Where it was told to listen, and where it does.
    listen: SocketAddr,
    address: SocketAddr,
    metrics_listen: Option<SocketAddr>,
}

/// What a process takes over; nothing of one that begins by itself.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) shared: Option<SharedState>,
    pub(super) channels: Vec<ChannelState>,
    /// For each shard.
    pub(super) heritage: Vec<Option<Heritage>>,
    /// Where the process before listens, if the configuration says the same.
    pub(super) address: Option<SocketAddr>,
    pub(super) metrics: Option<TcpListener>,
}

fn say(way: &mut Courier, word: &Word) -> io::Result<()> {
    way.send(&serde_json::to_vec(word)?, &[])
}

fn hear(way: &mut Courier) -> io::Result<(Word, Vec<OwnedFd>)> {
    let frame = way.receive()?;
    Ok((serde_json::from_slice(&frame.bytes)?, frame.descriptors))
}

fn unexpected(word: &Word) -> io::Error {
    io::Error::other(format!("it said {word:?} where that has no meaning"))
}

/// The process before, for the one that takes its place.
#[derive(Debug)]
pub struct Predecessor {
    way: Courier,
    /// It has ended before anything was taken over.
    is_gone: bool,
}

impl Predecessor {
    /// The process before, if this one was started to take its place: then standard input is a way to it.
    ///
    /// # Errors
    /// It is none.
    pub fn of_environment() -> io::Result<Option<Self>> {
        if std::env::var_os(HANDOVER_VARIABLE).is_none() {
            return Ok(None);
        }
        let way = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        way.peer_addr()?;
        Courier::over(way, PATIENCE).map(|way| Some(Self { way, is_gone: false }))
    }

    /// Says why nothing comes of it.
    pub fn fail(&mut self, reason: &impl std::fmt::Display) {
        let _ = say(&mut self.way, &Word::Failed { reason: reason.to_string() });
    }

    /// Hears what is offered, and says whether it is wanted.
    fn meet(&mut self, config: &Config) -> io::Result<Result<(), String>> {
        let offered = match hear(&mut self.way) {
            Err(error) if Courier::is_gone(&error) => {
                self.is_gone = true;
                return Ok(Ok(()));
            }
            offered => offered?.0,
        };
        let Word::Offer { version, format, data_dir } = offered else {
            return Err(unexpected(&offered));
        };
        let same = |one: &Path, other: &Path| {
            one == other
                || matches!((one.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
        };
        let refusal = if format != FORMAT {
            Some(format!(
                "version {version} hands connections over in format {format}, and version {} takes format {FORMAT}; \
                 restart the server instead: its connections are drained",
                env!("CARGO_PKG_VERSION")
            ))
        } else if !same(&data_dir, &config.data_dir) {
            let (theirs, ours) = (data_dir.display(), config.data_dir.display());
            Some(format!(
                "its data folder would be {ours} instead of {theirs}; that takes a restart"
            ))
        } else {
            None
        };
        let answer = match &refusal {
            Some(reason) => Word::Refused { reason: reason.clone() },
            None => Word::Accepted { version: env!("CARGO_PKG_VERSION").into() },
        };
        say(&mut self.way, &answer)?;
        Ok(refusal.map_or(Ok(()), Err))
    }

    /// Says that all is prepared, and waits for what there is to take over. If the process before is gone, that is
    /// nothing.
    pub(super) fn take(&mut self, config: &Config, shards: usize) -> Result<Taken, StartupError> {
        let taken = say(&mut self.way, &Word::Prepared { shards })
            .and_then(|()| self.receive(config, shards));
        match taken {
            Err(error) if Courier::is_gone(&error) => {
                tracing::warn!(
                    "the process before is gone; this one begins as if that had stopped"
                );
                self.is_gone = true;
                Ok(Taken::default())
            }
            taken => taken.map_err(StartupError::HandOver),
        }
    }

    fn receive(&mut self, config: &Config, shards: usize) -> io::Result<Taken> {
        let (word, mut descriptors) = hear(&mut self.way)?;
        let Word::Take(taking) = word else { return Err(unexpected(&word)) };
        let mut ways = Vec::new();
        for _ in 0..taking.shards {
            let way = self.way.receive()?.descriptors.pop();
            ways.push(way.ok_or_else(|| io::Error::other("a way to a shard is missing"))?);
        }
        // Channels follow, until none do.
        let mut channels = Vec::new();
        loop {
            let states: Vec<ChannelState> =
                decode(&self.way.receive()?.bytes).map_err(io::Error::other)?;
            if states.is_empty() {
                break;
            }
            channels.extend(states);
        }
        let metrics = descriptors.pop().filter(|_| taking.metrics_listen == config.metrics_listen);
        let with_listeners = taking.listen == config.listen;
        // Also who takes over from nobody stands still until all others may go on.
        let heir = || Heritage { ways: Vec::new(), with_listeners };
        let mut heritage: Vec<Heritage> = (0..shards).map(|_| heir()).collect();
        for (at, way) in ways.into_iter().enumerate() {
            let Some(heir) = heritage.get_mut(at % shards.max(1)) else { continue };
            heir.ways.push(Courier::over(UnixStream::from(way), PATIENCE)?);
        }
        Ok(Taken {
            shared: Some(taking.shared),
            channels,
            heritage: heritage.into_iter().map(Some).collect(),
            address: with_listeners.then_some(taking.address),
            metrics: metrics.map(TcpListener::from),
        })
    }

    /// Says that nothing is missing, and waits for the word to begin.
    fn await_commit(&mut self) -> io::Result<()> {
        let word = say(&mut self.way, &Word::Ready).and_then(|()| hear(&mut self.way));
        match word {
            Ok((Word::Commit, _)) => Ok(()),
            Ok((word, _)) => Err(unexpected(&word)),
            Err(error) if Courier::is_gone(&error) => {
                tracing::warn!("the process before is gone; this one goes on with what it had");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl Server {
    /// Starts a server in the place of the process that started this one, with all its connections.
    ///
    /// # Errors
    /// [`StartupError`]; the other process goes on then.
    pub fn succeed(
        config: &Config,
        host: Host,
        mut before: Predecessor,
    ) -> Result<Self, StartupError> {
        Self::try_to_succeed(config, host, &mut before).inspect_err(|error| before.fail(error))
    }

    fn try_to_succeed(
        config: &Config,
        host: Host,
        before: &mut Predecessor,
    ) -> Result<Self, StartupError> {
        let cores = choose_cores(config)?;
        before
            .meet(config)
            .and_then(|met| met.map_err(io::Error::other))
            .map_err(StartupError::HandOver)?;
        let server = Self::begin(config, host, &cores, Some(before))?;
        if before.is_gone {
            return Ok(server);
        }
        let failed = |error: HandOverError| StartupError::HandOver(io::Error::other(error));
        // What the shards said to each other to begin with is done before others hear of them.
        server.await_standstill(TAKEOVER).map_err(failed)?;
        server.await_cluster();
        before.await_commit().map_err(StartupError::HandOver)?;
        server.thaw(false).map_err(failed)?;
        // Whether it is heard does not matter any more.
        let _ = say(&mut before.way, &Word::Running);
        Ok(server)
    }

    /// Has another process, of the same program with the same arguments, take the place of this one. When it has,
    /// this one is to end at once.
    ///
    /// # Errors
    /// [`HandOverError`]; this server goes on then.
    ///
    /// # Panics
    /// The log or the accounts cannot be opened again after that.
    pub fn hand_over(
        &mut self,
        config: &Config,
        launch: &Launch,
        mut told: impl FnMut(&str),
    ) -> Result<HandedOver, HandOverError> {
        if self.shared.is_draining() {
            return Err(HandOverError::Draining);
        }
        if std::process::id() == 1 {
            return Err(HandOverError::Init);
        }
        told(&format!("starting {}", launch.program.display()));
        let mut successor = Successor::launch(launch)?;
        let version = successor.offer(config)?;
        told(&format!("process {} of version {version} is prepared", successor.process.id()));
        self.hand_over_slots();
        let clock = Clock::start();
        let handed = self.hand_over_to(config, &mut successor);
        match handed {
            Ok(connections) => {
                let process = successor.process.id();
                Ok(HandedOver { connections, pause: clock.elapsed(), process })
            }
            Err(error) => {
                let error = successor.end(error);
                self.take_back(config);
                Err(error)
            }
        }
    }

    fn hand_over_to(
        &mut self,
        config: &Config,
        successor: &mut Successor,
    ) -> Result<usize, HandOverError> {
        self.order_all(|| Order::Freeze)?;
        self.await_standstill(STANDSTILL)?;
        let channels = self.let_go()?;
        if let Some(metrics) = self.metrics.take() {
            metrics.close();
        }
        let metrics = self.metrics_listener.as_ref();
        let taking = Taking {
            shared: self.shared.state(),
            shards: self.shards,
            listen: config.listen,
            address: self.address,
            metrics_listen: config.metrics_listen,
        };
        let clock = Clock::start();
        let left = || TAKEOVER.saturating_sub(clock.elapsed());
        let ways = self.uplinks.iter().map(|_| Courier::pair(TAKEOVER));
        let (here, there): (Vec<_>, Vec<_>) =
            ways.collect::<io::Result<Vec<_>>>()?.into_iter().unzip();
        successor.give(taking, there, metrics, &channels)?;
        // Right before the shards are to take them: one that nobody takes would be the next upgrade's.
        for (uplink, way) in self.uplinks.iter_mut().zip(here) {
            uplink.send(&[], &[way.as_fd()])?;
        }
        let handing = self.give_orders(|| Order::HandOver)?;
        let mut connections = 0;
        for done in handing {
            match done.recv_timeout(left()) {
                Ok(Done::HandedOver(Ok(sent))) => connections += sent,
                Ok(Done::HandedOver(Err(error))) => return Err(HandOverError::Connections(error)),
                _ => return Err(successor.late("did not take all connections", TAKEOVER)),
            }
        }
        successor.commit(left())?;
        Ok(connections)
    }

    /// As a node of a cluster, has others own its slots, while all are served still.
    fn hand_over_slots(&self) {
        let Some(owners) = &self.shared.owners else { return };
        if let Some(cluster) = self.services.as_ref().and_then(|services| services.cluster.as_ref())
        {
            cluster.leave();
        }
        // If there is nobody else, the new process owns them.
        wait_for(LEAVING, || !owners.owns_some());
        std::thread::sleep(FAREWELL);
    }

    /// Closes the services. Returns what the shards have of channels in memory alone.
    fn let_go(&mut self) -> Result<Vec<ChannelState>, HandOverError> {
        let mut channels = Vec::new();
        for done in self.order_all(|| Order::LetGo)? {
            let Done::Channels(states) = done else { return Err(HandOverError::Stuck) };
            channels.extend(states);
        }
        if let Some(services) = self.services.take() {
            services.close();
        }
        Ok(channels)
    }

    /// Waits, as a node of a cluster, until this is part of it, but not for long: who subscribes or publishes is
    /// told to come again until then.
    fn await_cluster(&self) {
        let Some(owners) = &self.shared.owners else { return };
        wait_for(JOINING, || owners.is_reached() && owners.is_informed() && !owners.is_ownerless());
    }

    /// Goes on after all.
    fn take_back(&mut self, config: &Config) {
        // A node has begun to leave its cluster, and comes back as one that is new.
        if self.shared.owners.is_some()
            && let Err(error) = self.let_go()
        {
            panic!("cannot go on after a hand-over that failed: {error}");
        }
        if self.services.is_none() {
            let opened = OpenedData::open(config, &self.lasting).and_then(|mut opened| {
                opened.directory.adopt(&self.lasting.usages);
                let log = opened.log.map(|(log, _)| log);
                Services::start(
                    config,
                    opened.lock,
                    opened.directory,
                    log,
                    &self.shared,
                    &self.lasting,
                )
            });
            match opened {
                Ok(services) => self.services = Some(services),
                Err(error) => panic!("cannot go on after a hand-over that failed: {error}"),
            }
            let listener = self.metrics_listener.take();
            if let Err(error) = self.start_metrics(listener) {
                tracing::error!(%error, "metrics are not served any more");
            }
        }
        if let Err(error) = self.thaw(true) {
            panic!("cannot go on after a hand-over that failed: {error}");
        }
    }

    /// Has all shards go on, with new ways to the services where these are others.
    fn thaw(&self, with_ways: bool) -> Result<(), HandOverError> {
        let ways = || self.services.as_ref().filter(|_| with_ways).map(Services::ways);
        self.order_all(|| Order::Thaw(ways())).map(drop)
    }

    /// Waits until nothing is under way in shards that take nothing in, nor between them.
    fn await_standstill(&self, patience: Duration) -> Result<(), HandOverError> {
        let clock = Clock::start();
        let mut before: Option<Vec<Stillness>> = None;
        loop {
            let all = self.order_all(|| Order::Report)?.into_iter().map(|done| match done {
                Done::Still(stillness) => Ok(stillness),
                _ => Err(HandOverError::Stuck),
            });
            let now = all.collect::<Result<Vec<_>, _>>()?;
            let is_quiet = now.iter().all(|shard| shard.is_quiet);
            if is_quiet && before.as_ref() == Some(&now) {
                return Ok(());
            }
            if clock.elapsed() > patience {
                return Err(HandOverError::Busy);
            }
            if !is_quiet {
                std::thread::sleep(Duration::from_millis(1));
            }
            before = Some(now);
        }
    }

    fn give_orders(&self, order: impl Fn() -> Order) -> Result<Vec<Receiver<Done>>, HandOverError> {
        let give = |mailbox: &crate::runtime::mailbox::Mailbox| {
            let (done, obeyed) = bounded(1);
            let command = Command { order: order(), done };
            mailbox.command(command).map_err(|_| HandOverError::Stuck)?;
            Ok(obeyed)
        };
        self.lasting.mailboxes.iter().map(give).collect()
    }

    /// Has all shards do something, and waits until they have.
    fn order_all(&self, order: impl Fn() -> Order) -> Result<Vec<Done>, HandOverError> {
        let obeyed = self.give_orders(order)?.into_iter();
        obeyed.map(|done| done.recv_timeout(OBEDIENCE).map_err(|_| HandOverError::Stuck)).collect()
    }
}

/// Waits until something is so, but not for longer than that.
fn wait_for(most: Duration, is_so: impl Fn() -> bool) {
    let clock = Clock::start();
    while !is_so() && clock.elapsed() < most {
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// How the program is started that takes the place of this one.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The file that is run.
    pub program: PathBuf,
    /// What follows its name on the command line.
    pub arguments: Vec<std::ffi::OsString>,
}

impl Launch {
    /// As this process was started; the program is the file of that name, which may be another one by now.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn of_this() -> io::Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Self { program, arguments: std::env::args_os().skip(1).collect() })
    }
}

/// The process that takes the place of this one, until it has.
struct Successor {
    process: Child,
    way: Courier,
}

impl Successor {
    fn launch(launch: &Launch) -> Result<Self, HandOverError> {
        let failed = |source| HandOverError::Start { program: launch.program.clone(), source };
        let (way, theirs) = Courier::pair(PREPARATION)?;
        let process = Program::new(&launch.program)
            .args(&launch.arguments)
            .env(HANDOVER_VARIABLE, "stdin")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .map_err(failed)?;
        Ok(Self { process, way })
    }

    /// Offers it what there is, and waits until it is prepared. Returns its version.
    fn offer(&mut self, config: &Config) -> Result<String, HandOverError> {
        let (version, data_dir) = (env!("CARGO_PKG_VERSION").into(), config.data_dir.clone());
        let offered = say(&mut self.way, &Word::Offer { version, format: FORMAT, data_dir })
            .and_then(|()| hear(&mut self.way))
            .and_then(|(answer, _)| match answer {
                Word::Accepted { .. } => Ok((answer, hear(&mut self.way)?.0)),
                _ => Ok((answer, Word::Ready)),
            });
        let error = match offered {
            Ok((Word::Accepted { version }, Word::Prepared { .. })) => return Ok(version),
            Ok((Word::Refused { reason }, _)) => HandOverError::Refused(reason),
            Ok((Word::Failed { reason }, _) | (_, Word::Failed { reason })) => {
                HandOverError::Failed(reason)
            }
            Ok((word, _)) => HandOverError::Way(unexpected(&word)),
            Err(error) if is_late(&error) => self.late("was not prepared", PREPARATION),
            Err(error) => HandOverError::Way(error),
        };
        Err(self.end(error))
    }

    fn give(
        &mut self,
        taking: Taking,
        ways: Vec<Courier>,
        metrics: Option<&TcpListener>,
        channels: &[ChannelState],
    ) -> Result<(), HandOverError> {
        let metrics: Vec<_> = metrics.map(TcpListener::as_fd).into_iter().collect();
        let word = serde_json::to_vec(&Word::Take(Box::new(taking))).map_err(io::Error::other)?;
        self.way.send(&word, &metrics)?;
        // One in each frame: there may be more shards than descriptors that travel at a time.
        for way in ways {
            self.way.send(&[], &[way.as_fd()])?;
        }
        let (mut begin, mut bytes) = (0, 0);
        for (at, channel) in channels.iter().enumerate() {
            bytes += channel.kept_bytes();
            if bytes > FRAME_BYTES || at + 1 == channels.len() {
                self.way.send(&encode(&channels.get(begin..=at).unwrap_or_default()), &[])?;
                (begin, bytes) = (at + 1, 0);
            }
        }
        let none: &[ChannelState] = &[];
        self.way.send(&encode(&none), &[])?;
        Ok(())
    }

    /// Waits until it is ready, and gives it the word. From here on there is no way back.
    fn commit(&mut self, left: Duration) -> Result<(), HandOverError> {
        self.way.set_patience(left.max(Duration::from_millis(1)))?;
        match hear(&mut self.way) {
            Ok((Word::Ready, _)) => {}
            Ok((Word::Failed { reason }, _)) => return Err(HandOverError::Failed(reason)),
            Ok((word, _)) => return Err(unexpected(&word).into()),
            Err(error) if is_late(&error) => return Err(self.late("was not ready", TAKEOVER)),
            Err(error) => return Err(error.into()),
        }
        say(&mut self.way, &Word::Commit)?;
        // It runs, or it has ended as any process may: what is to be written may have been.
        let _ = hear(&mut self.way);
        Ok(())
    }

    fn late(&self, what: &'static str, within: Duration) -> HandOverError {
        HandOverError::Late { what, within }
    }

    /// Ends it, and tells how it ended where that is the reason.
    fn end(&mut self, error: HandOverError) -> HandOverError {
        let is_late = matches!(error, HandOverError::Late { .. } | HandOverError::Busy);
        let reason = if is_late { None } else { self.last_word() };
        let ended = match &error {
            HandOverError::Way(error) | HandOverError::Connections(error) => {
                Courier::is_gone(error)
            }
            _ => false,
        };
        if !ended {
            let _ = self.process.kill();
        }
        let status = self.process.wait();
        match (reason, status) {
            (Some(reason), _) => HandOverError::Failed(reason),
            (None, Ok(status)) if ended => HandOverError::Ended(status.to_string()),
            _ => error,
        }
    }

    /// Why it has failed, if it says so.
    fn last_word(&mut self) -> Option<String> {
        self.way.set_patience(LAST_WORD).ok()?;
        while let Ok((word, _)) = hear(&mut self.way) {
            if let Word::Failed { reason } = word {
                return Some(reason);
            }
        }
        None
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
