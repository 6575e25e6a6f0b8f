//! The engine without sockets: what a message costs in a shard's core, and between two cores.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pushflo_engine::accounts::{App, AppRecord, AppSettings, ChannelMeta, Key, Plan, Role, Usage};
use pushflo_engine::clock::{Now, TICK_MS};
use pushflo_engine::ids::{AppId, ChannelKey, ConnectionKey, ShardId, TailKey};
use pushflo_engine::mail::{Mail, Message, ToEdge};
use pushflo_engine::proxies::TrustedProxies;
use pushflo_engine::retention::{Durability, Retention};
use pushflo_engine::runtime::mailbox::{Inbox, Mailbox, mailbox};
use pushflo_engine::settings::{
    AllowedOrigins, HistoryLimits, Limits, PresenceTimes, Settings, Timeouts,
};
use pushflo_engine::shard::{Envelope, Shard};
use pushflo_engine::shared::Shared;
use pushflo_protocol::{ChannelSlug, Epoch, MessageId, Offset, Parts, Record};

/// The server's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEY: &str = "sec_0123456789abcdef0123";

/// One shard with its connections, of which `publisher` speaks HTTP.
struct Bench {
    shard: Shard,
    publisher: ConnectionKey,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        let settings = Settings {
            origins: AllowedOrigins::All,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            has_log: false,
            history: HistoryLimits { recent_bytes_max: 64 << 20, ..HistoryLimits::default() },
            presence: PresenceTimes::default(),
            proxies: TrustedProxies::default(),
            metrics_on_main_port: true,
        };
        let now = Now::start(1_700_000_000_000);
        let shared = Arc::new(Shared::new(1, 1));
        let mut shard = Shard::new(ShardId(0), Arc::new(settings), shared, 1, now);
        let keys = vec![Key::new(KEY, Role::Secret, None, 0)];
        let retention =
            Retention { age_ms_max: 60_000, messages_max: 100, channel_bytes_max: 1 << 20 };
        shard.load_app(App {
            id: AppId::DEFAULT,
            record: AppRecord::new("default", "unlimited", AppSettings::default(), keys, 0),
            plan: Plan::unlimited(retention, Durability::Memory),
            usage: Arc::new(Usage::default()),
        });
        let publisher = shard.accept(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        Self { shard, publisher, now }
    }

    /// A WebSocket connection.
    fn connect(&mut self) -> ConnectionKey {
        let connection = self.shard.accept(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        let request = format!(
            "GET /ws?token={KEY} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.shard.received(connection, &mut request.into_bytes());
        self.drain();
        connection
    }

    fn say(&mut self, connection: ConnectionKey, command: &str) {
        self.shard.received(connection, &mut frame(command));
    }

    /// The end of a turn: everything is written, as a socket with room would take it.
    fn drain(&mut self) -> usize {
        self.shard.flush();
        let mut writes = 0;
        while let Some((connection, batch)) = self.shard.next_write() {
            let bytes = black_box(&batch).len();
            self.shard.written(connection, batch, bytes);
            writes += 1;
        }
        writes
    }
}

/// A client's text frame, masked with zeros.
fn frame(text: &str) -> Vec<u8> {
    let length = text.len() as u16;
    let mut frame = vec![0x81];
    if length < 126 {
        frame.push(0x80 | length as u8);
    } else {
        frame.push(0x80 | 126);
        frame.extend(length.to_be_bytes());
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

fn publish(channel: &str) -> Vec<u8> {
    let body = format!(r#"{{"channel":"{channel}","data":{{"pad":"{}"}}}}"#, "x".repeat(190));
    format!(
        "POST /api/v1/publish HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One channel with many subscribers, from the publisher's bytes to the last batch.
fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan-out");
    for (subscribers, gathered) in [(1_000, 1), (1_000, 64), (10_000, 1)] {
        let mut bench = Bench::new();
        for _ in 0..subscribers {
            let connection = bench.connect();
            bench.say(connection, r#"{"type":"subscribe","channel":"orders"}"#);
        }
        bench.drain();
        let request = publish("orders");
        group.throughput(Throughput::Elements(subscribers * gathered));
        let id = BenchmarkId::new(format!("{gathered} a turn"), subscribers);
        group.bench_function(id, |b| {
            b.iter(|| {
                for _ in 0..gathered {
                    bench.shard.received(bench.publisher, &mut request.clone());
                }
                bench.drain()
            });
        });
    }
}

/// Ten thousand channels with one subscriber each: look-ups, and a cursor that moves.
fn personal(c: &mut Criterion) {
    let mut bench = Bench::new();
    let channels: Vec<String> = (0..10_000).map(|n| format!("user-{n}")).collect();
    for channel in &channels {
        let connection = bench.connect();
        bench.say(connection, &format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#));
    }
    bench.drain();
    let requests: Vec<Vec<u8>> = channels.iter().map(|channel| publish(channel)).collect();
    let mut group = c.benchmark_group("personal");
    group.throughput(Throughput::Elements(requests.len() as u64));
    group.bench_function("publish to each of 10000 channels", |b| {
        b.iter(|| {
            let mut writes = 0;
            for turn in requests.chunks(200) {
                for request in turn {
                    bench.shard.received(bench.publisher, &mut request.clone());
                }
                writes += bench.drain();
            }
            writes
        });
    });
}

/// The registry: names become tails and homes, and go again.
fn subscriptions(c: &mut Criterion) {
    let mut bench = Bench::new();
    let connection = bench.connect();
    let commands: Vec<(String, String)> = (0..1_000)
        .map(|n| {
            let command =
                |what: &str| format!(r#"{{"type":"{what}","channel":"orders:user-{n}"}}"#);
            (command("subscribe"), command("unsubscribe"))
        })
        .collect();
    let mut group = c.benchmark_group("registry");
    group.throughput(Throughput::Elements(commands.len() as u64));
    group.bench_function("subscribe and unsubscribe", |b| {
        b.iter(|| {
            for (subscribe, _) in &commands {
                bench.say(connection, subscribe);
            }
            for (_, unsubscribe) in &commands {
                bench.say(connection, unsubscribe);
            }
            bench.drain()
        });
    });
    group.bench_function("a tick without work", |b| {
        b.iter(|| {
            bench.now = bench.now.after(TICK_MS);
            bench.shard.advance(bench.now);
        });
    });
}

/// A record of 200 bytes.
fn record() -> Record {
    Record {
        id: MessageId(1),
        offset: Offset(1),
        prev: Offset(0),
        timestamp_ms: 1,
        parts: Parts::new("e", None, &format!("\"{}\"", "x".repeat(197))),
    }
}

fn envelope(record: &Record) -> Envelope {
    Envelope::Mail(Mail::Edge(ToEdge::Message(Message {
        tail: TailKey::default(),
        epoch: Epoch(1),
        record: record.clone(),
    })))
}

/// Waits for the next envelope without sleeping, as a busy shard does.
fn take(inbox: &Inbox) -> Envelope {
    loop {
        if let Some(envelope) = inbox.pop() {
            return envelope;
        }
        std::hint::spin_loop();
    }
}

/// Between two cores: a queue that is always full of work, and one envelope back and forth.
fn mailboxes(c: &mut Criterion) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [here, there, ..] = cores.as_slice() else {
        eprintln!("the mailbox benches need two cores");
        return;
    };
    core_affinity::set_for_current(*here);
    let there = *there;
    let mut group = c.benchmark_group("mailbox");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one way", |b| {
        b.iter_custom(|count| {
            elsewhere(there, count, drop, |to, count| {
                let record = record();
                for _ in 0..count {
                    let mut next = envelope(&record);
                    while let Err(full) = to.post(next) {
                        next = full;
                        std::hint::spin_loop();
                    }
                    to.wake();
                }
            })
        });
    });
    group.bench_function("there and back", |b| {
        b.iter_custom(|count| {
            let (back, inbox) = mailbox(16).unwrap();
            let answer = move |envelope: Envelope| {
                back.post(envelope).unwrap();
            };
            elsewhere(there, count, answer, |to, count| {
                let record = record();
                for _ in 0..count {
                    to.post(envelope(&record)).unwrap();
                    black_box(take(&inbox));
                }
            })
        });
    });
}

/// The time that `send` and a thread on another core, which does `each` with what arrives, need for
/// `count` envelopes.
fn elsewhere(
    core: core_affinity::CoreId,
    count: u64,
    each: impl Fn(Envelope) + Send + 'static,
    send: impl FnOnce(&Mailbox, u64),
) -> Duration {
    let (to, inbox) = mailbox(4096).unwrap();
    let (ready, started) = crossbeam_channel::bounded(1);
    let thread = std::thread::spawn(move || {
        core_affinity::set_for_current(core);
        ready.send(()).unwrap();
        for _ in 0..count {
            let envelope = take(&inbox);
            each(envelope);
        }
    });
    started.recv().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    let start = Instant::now();
    send(&to, count);
    thread.join().unwrap();
    start.elapsed()
}

/// A channel of ten thousand members, all of whom are told of each other: one that comes, of which
/// all are told within the second, and who gets the whole list.
fn presence(c: &mut Criterion) {
    const MEMBERS: u64 = 10_000;
    let join = |bench: &mut Bench| {
        let connection = bench.connect();
        bench.say(connection, r#"{"type":"subscribe","channel":"room","presence":true}"#);
        bench.drain();
    };
    let second = |bench: &mut Bench| {
        bench.now = bench.now.after(1_000);
        bench.shard.advance(bench.now);
        bench.drain()
    };
    // A room of its own for every join: nobody answers pings here, so an old one would empty.
    let room = || {
        let mut bench = Bench::new();
        let channel = ChannelKey { app: AppId::DEFAULT, slug: ChannelSlug::parse("room").unwrap() };
        let meta = ChannelMeta {
            name: "room".into(),
            description: None,
            is_private: false,
            presence: true,
            metadata: None,
            created_ms: 0,
            updated_ms: 0,
        };
        bench.shard.load_meta(&channel, meta);
        for _ in 0..MEMBERS {
            join(&mut bench);
        }
        second(&mut bench);
        bench
    };
    let mut group = c.benchmark_group("presence of 10,000");
    group.throughput(Throughput::Elements(MEMBERS));
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(100));
    group.measurement_time(Duration::from_millis(500));
    group.bench_function("one joins, all are told", |b| {
        b.iter_batched(
            room,
            |mut bench| {
                join(&mut bench);
                let writes = second(&mut bench);
                assert!(writes as u64 > MEMBERS, "only {writes} were told");
                bench
            },
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, fan_out, personal, subscriptions, presence, mailboxes);
criterion_main!(benches);
