//! Publishers and subscribers that go on over crashes and failures of the server, and note all that
//! they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::client::{Stream, Subscriber};
use crate::http::{HttpClient, publish_body, request};
use crate::server::{PUBLISH_KEY, SECRET_KEY};

pub const CHANNELS: [&str; 3] = ["a", "b", "c"];
const PUBLISHERS: usize = 3;
const SUBSCRIBERS: usize = 4;

/// How long nothing may come before a subscriber takes what it has for all there is.
const QUIET: Duration = Duration::from_millis(700);

/// How long anybody waits for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// After what silence a subscriber looks for another server: its own may be out of reach.
const SILENCE: Duration = Duration::from_secs(8);

/// How often a history is read to which something is added meanwhile.
const READS_MAX: usize = 20;

/// How long a publisher waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Publishers and subscribers at work.
pub struct Load {
    world: Arc<World>,
    publishers: Vec<JoinHandle<Published>>,
    subscribers: Vec<(&'static str, JoinHandle<Vec<View>>)>,
}

/// What the threads share.
struct World {
    /// Where the servers are, and where they listen at the moment.
    servers: Box<[(IpAddr, AtomicU16)]>,
    /// No more publishes.
    done: AtomicBool,
    /// All publishers were answered, or wait no more.
    over: AtomicBool,
}

/// What a publisher was told.
#[derive(Default)]
struct Published {
    acknowledged: Vec<Acknowledged>,
    refused: Vec<String>,
    unknown: Vec<String>,
}

/// A message as its publisher was told of it.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub channel: &'static str,
    pub epoch: String,
    pub offset: u64,
    pub content: String,
}

/// What a subscriber saw without having been told of a gap.
#[derive(Clone, Debug)]
pub struct View {
    pub epoch: String,
    /// The offset behind which it begins.
    pub after: u64,
    pub messages: Vec<(u64, String)>,
}

impl View {
    pub fn last(&self) -> u64 {
        self.messages.last().map_or(self.after, |(offset, _)| *offset)
    }
}

/// All that was told.
pub struct Told {
    pub acknowledged: Vec<Acknowledged>,
    /// Contents that were refused.
    pub refused: Vec<String>,
    /// Contents of which nobody could say whether they were published.
    pub unknown: Vec<String>,
    /// Each subscriber's channel, and what it saw.
    pub views: Vec<(&'static str, Vec<View>)>,
}

impl Load {
    pub fn start(address: SocketAddr) -> Self {
        Self::start_on(&[address])
    }

    /// On several servers; whoever cannot reach one tries the next.
    pub fn start_on(addresses: &[SocketAddr]) -> Self {
        let servers = addresses
            .iter()
            .map(|address| (address.ip(), AtomicU16::new(address.port())))
            .collect();
        let world =
            Arc::new(World { servers, done: AtomicBool::new(false), over: AtomicBool::new(false) });
        let publisher = |index| {
            let world = Arc::clone(&world);
            thread::spawn(move || publish(&world, index))
        };
        let subscriber = |index: usize| {
            let (world, channel) = (Arc::clone(&world), CHANNELS[index % CHANNELS.len()]);
            (channel, thread::spawn(move || follow(&world, index, channel)))
        };
        let publishers = (0..PUBLISHERS).map(publisher).collect();
        let subscribers = (0..SUBSCRIBERS).map(subscriber).collect();
        Self { world, publishers, subscribers }
    }

    /// Tells everybody where the server is now.
    pub fn moved(&self, address: SocketAddr) {
        self.world.servers[0].1.store(address.port(), Ordering::Relaxed);
    }

    /// Ends publishing and waits until all have seen what there is.
    pub fn stop(self) -> Told {
        self.world.done.store(true, Ordering::Relaxed);
        let mut published = Published::default();
        for publisher in self.publishers {
            let of_one = publisher.join().unwrap();
            published.acknowledged.extend(of_one.acknowledged);
            published.refused.extend(of_one.refused);
            published.unknown.extend(of_one.unknown);
        }
        self.world.over.store(true, Ordering::Relaxed);
        let Published { acknowledged, refused, unknown } = published;
        let join = |(channel, thread): (&'static str, JoinHandle<_>)| (channel, thread.join());
        let views = self.subscribers.into_iter().map(join);
        let views = views.map(|(channel, views)| (channel, views.unwrap())).collect();
        Told { acknowledged, refused, unknown, views }
    }
}

impl World {
    /// Connects to one after the other with each `attempt`.
    fn connect(&self, attempt: &mut usize) -> Option<(SocketAddr, TcpStream)> {
        let (ip, port) = &self.servers[*attempt % self.servers.len()];
        *attempt += 1;
        let address = SocketAddr::from((*ip, port.load(Ordering::Relaxed)));
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            Ok(stream) => Some((address, stream)),
            Err(_) => {
                thread::sleep(Duration::from_millis(5));
                None
            }
        }
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Publishes messages, each with a content of its own; after a crash it goes on with the next.
fn publish(world: &World, index: usize) -> Published {
    let (mut published, mut number, mut attempt) = (Published::default(), 0usize, index);
    while !world.is_done() {
        let Some((_, stream)) = world.connect(&mut attempt) else { continue };
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        let mut client = HttpClient::on(stream);
        'connection: while !world.is_done() {
            // A few at a time, so that groups hold several.
            let batch = (0..5).map(|_| {
                number += 1;
                (CHANNELS[number % CHANNELS.len()], format!("{index}-{number}"))
            });
            let batch: Vec<_> = batch.collect();
            let bytes = batch.iter().flat_map(|(channel, content)| {
                let body = publish_body(channel, &json!(content));
                request("POST", "/api/v1/publish", Some(SECRET_KEY), &body)
            });
            let bytes: Vec<u8> = bytes.collect();
            if client.stream.write_all(&bytes).is_err() {
                break;
            }
            for (channel, content) in batch {
                let Some(answer) = client.try_answer() else { break 'connection };
                if answer.status == 503 {
                    let is_unknown = answer.json()["code"] == "UNKNOWN_OUTCOME";
                    let list = match is_unknown {
                        true => &mut published.unknown,
                        false => &mut published.refused,
                    };
                    list.push(content);
                    thread::sleep(Duration::from_millis(2));
                    continue;
                }
                assert_eq!(answer.status, 200, "{}", answer.text());
                let told = answer.json()["data"].clone();
                let (epoch, offset) = (text(&told["epoch"]), told["offset"].as_u64().unwrap());
                published.acknowledged.push(Acknowledged { channel, epoch, offset, content });
            }
        }
    }
    published
}

/// Follows one channel over everything that happens.
fn follow(world: &World, index: usize, channel: &'static str) -> Vec<View> {
    let (mut views, mut attempt): (Vec<View>, _) = (Vec::new(), index);
    let mut last_news = Instant::now();
    while !(world.is_over() && last_news.elapsed() > QUIET) {
        let Some((address, stream)) = world.connect(&mut attempt) else { continue };
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let url = format!("ws://{address}/ws?token={PUBLISH_KEY}");
        let Ok((mut socket, _)) = tungstenite::client(url, Stream(stream)) else { continue };
        let ask = match views.last() {
            None => json!({ "type": "subscribe", "channel": channel, "replay": { "since": 0 } }),
            Some(view) => json!({
                "type": "subscribe", "channel": channel,
                "recover": { "epoch": view.epoch, "offset": view.last() },
            }),
        };
        if socket.send(Message::text(ask.to_string())).is_err() {
            continue;
        }
        let mut last_heard = Instant::now();
        loop {
            let event: Value = match socket.read() {
                Ok(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
                Ok(_) => continue,
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    let is_over = world.is_over() && last_news.elapsed() > QUIET;
                    if is_over {
                        let (news, heard) = (last_news.elapsed(), last_heard.elapsed());
                        let last = views.last().map_or(0, View::last);
                        println!(
                            "subscriber {index} of {channel} ends at {address} with {last}, {news:?} after the \
                             last message and {heard:?} after anything"
                        );
                    }
                    if is_over || last_heard.elapsed() > SILENCE {
                        break;
                    }
                    continue;
                }
                Err(_) => break,
            };
            last_heard = Instant::now();
            match event["type"].as_str().unwrap() {
                // It is asked again, of another one where there are several.
                "error" => {
                    thread::sleep(Duration::from_millis(50));
                    break;
                }
                "subscribed" => subscribed(&mut views, &event),
                "message" => {
                    last_news = Instant::now();
                    let offset = event["offset"].as_u64().unwrap();
                    let before = event["prev"].as_u64().unwrap_or(offset - 1);
                    let view = views.last_mut().unwrap();
                    assert_eq!(view.last(), before, "a gap or a duplicate: {event}");
                    view.messages.push((offset, text(&event["data"])));
                }
                _ => {}
            }
        }
    }
    views
}

/// Notes what a subscriber is told of its past: it goes on, or it is told of a gap.
fn subscribed(views: &mut Vec<View>, event: &Value) {
    let (epoch, after) = (text(&event["epoch"]), event["offset"].as_u64().unwrap());
    match views.last() {
        // What is kept is replayed from the first message on.
        None => views.push(View { epoch, after: 0, messages: Vec::new() }),
        Some(view) if event["recovered"] == true => {
            assert_eq!(epoch, view.epoch, "whole, but in another epoch: {event}");
        }
        Some(_) => {
            assert_eq!((&event["recovered"], &event["replayed"]), (&json!(false), &json!(0)));
            views.push(View { epoch, after, messages: Vec::new() });
        }
    }
}

impl Told {
    /// All that was acknowledged is in history, in one epoch, once and in order; every subscriber saw all of it
    /// without a gap, and what was refused is nowhere.
    pub fn check_all(&self, address: SocketAddr) {
        let histories = histories(address);
        let (all, refused, unknown) =
            (self.acknowledged.len(), self.refused.len(), self.unknown.len());
        println!("{all} acknowledged, {refused} refused, {unknown} unknown");
        self.check_offsets(&histories);
        assert_eq!(self.check_kept(&histories), all, "all of it is in one epoch");
        self.check_refused(&histories);
        self.check_seen(&histories);
        for (channel, views) in &self.views {
            assert_eq!(views.len(), 1, "a subscriber of {channel} was told of a gap");
        }
    }

    /// No offset of an epoch was ever told with two contents, to anybody, and none in history.
    pub fn check_offsets(&self, histories: &BTreeMap<&str, History>) {
        let acknowledged = self.acknowledged.iter().map(|told| {
            ("acknowledged", told.channel, told.epoch.as_str(), told.offset, &told.content)
        });
        let seen = self.views.iter().flat_map(|(channel, views)| {
            views.iter().flat_map(move |view| {
                let epoch = view.epoch.as_str();
                view.messages
                    .iter()
                    .map(move |(offset, content)| ("seen", *channel, epoch, *offset, content))
            })
        });
        let kept = histories.iter().flat_map(|(channel, history)| {
            let epoch = history.epoch.as_str();
            history
                .messages
                .iter()
                .map(move |(offset, content)| ("kept", *channel, epoch, *offset, content))
        });
        let mut known: BTreeMap<(&str, &str, u64), (&str, &str)> = BTreeMap::new();
        let mut twice = Vec::new();
        for (by, channel, epoch, offset, content) in acknowledged.chain(seen).chain(kept) {
            let (first_by, first) =
                *known.entry((channel, epoch, offset)).or_insert((by, content.as_str()));
            if first != content {
                twice.push(format!(
                    "{channel} {offset} of {epoch}: {first_by} as {first}, {by} as {content}"
                ));
            }
        }
        let first: Vec<_> = twice.iter().take(20).collect();
        assert!(twice.is_empty(), "{} offsets were given twice: {first:#?}", twice.len());
    }

    /// Everything acknowledged in the epochs that history is of is there. Returns how much that is.
    pub fn check_kept(&self, histories: &BTreeMap<&str, History>) -> usize {
        let mut count = 0;
        for acknowledged in &self.acknowledged {
            let Acknowledged { channel, epoch, offset, content } = acknowledged;
            let history = &histories[channel];
            if *epoch == history.epoch {
                assert_eq!(history.at(*offset), Some(content), "not kept: {acknowledged:?}");
                count += 1;
            }
        }
        count
    }

    /// What was refused is nowhere.
    pub fn check_refused(&self, histories: &BTreeMap<&str, History>) {
        let kept = histories.values().flat_map(|history| &history.messages);
        let kept: BTreeSet<&String> = kept.map(|(_, content)| content).collect();
        let lies: Vec<_> = self.refused.iter().filter(|content| kept.contains(content)).collect();
        assert!(lies.is_empty(), "refused, and published: {lies:?}");
    }

    /// Every subscriber's last view is all of history behind the place where it begins, and none
    /// leaves out anything in its middle.
    pub fn check_seen(&self, histories: &BTreeMap<&str, History>) {
        for (channel, views) in &self.views {
            let (view, history) = (views.last().unwrap(), &histories[channel]);
            assert_eq!(view.epoch, history.epoch, "{channel}");
            let behind = history.messages.iter().filter(|(offset, _)| *offset > view.after);
            let (mut behind, seen): (Vec<_>, Vec<_>) =
                (behind.collect(), view.messages.iter().collect());
            // What nobody waited for any more may have come when it had left.
            while behind.len() > seen.len()
                && behind.last().is_some_and(|(_, content)| self.unknown.contains(content))
            {
                behind.pop();
            }
            let same = behind.iter().zip(&seen).take_while(|(one, other)| one == other).count();
            assert!(
                behind == seen,
                "a subscriber of {channel} saw otherwise: of {} it saw {}, {same} as they are; then {:?}, and it \
                 saw {:?}",
                behind.len(),
                seen.len(),
                behind.get(same),
                seen.get(same)
            );
            for view in views.iter().filter(|view| view.epoch == history.epoch) {
                let within = |offset: &u64| (view.after + 1..=view.last()).contains(offset);
                let seen: BTreeSet<u64> = view.messages.iter().map(|(offset, _)| *offset).collect();
                let mut kept = history.messages.iter().map(|(offset, _)| offset);
                assert!(
                    kept.all(|offset| !within(offset) || seen.contains(offset)),
                    "a subscriber of {channel} was not told of a gap"
                );
            }
        }
    }
}

/// A channel's history, oldest first.
#[derive(Debug)]
pub struct History {
    pub epoch: String,
    pub messages: Vec<(u64, String)>,
}

impl History {
    /// The content at an offset.
    pub fn at(&self, offset: u64) -> Option<&String> {
        let at = self.messages.binary_search_by_key(&offset, |(offset, _)| *offset);
        at.ok().map(|at| &self.messages[at].1)
    }
}

/// All channels' histories: in order, and with nothing twice.
pub fn histories(address: SocketAddr) -> BTreeMap<&'static str, History> {
    let mut all = BTreeMap::new();
    for channel in CHANNELS {
        let history = history(address, channel);
        let messages = &history.messages;
        assert!(messages.windows(2).all(|pair| pair[0].0 < pair[1].0), "{channel} out of order");
        let mut contents: Vec<&String> = messages.iter().map(|(_, content)| content).collect();
        contents.sort();
        contents.dedup();
        assert_eq!(contents.len(), messages.len(), "{channel} has something twice");
        all.insert(channel, history);
    }
    all
}

/// All of a channel's history, page by page. What nobody waits for any more may still come meanwhile, as from a
/// connection that was cut off: then it is read again.
pub fn history(address: SocketAddr, channel: &str) -> History {
    let command = json!({ "type": "subscribe", "channel": channel });
    let epoch = text(&Subscriber::subscribed_soon(address, &command).1["epoch"]);
    let messages = (0..READS_MAX).find_map(|_| read_pages(address, channel));
    let mut messages = messages.expect("a history that nobody adds to");
    messages.reverse();
    History { epoch, messages }
}

/// All pages, the newest message first; `None` where one was added in between.
fn read_pages(address: SocketAddr, channel: &str) -> Option<Vec<(u64, String)>> {
    let mut client = HttpClient::connect(address);
    let (mut messages, mut newest) = (Vec::new(), None);
    for page in 1.. {
        let target = format!("/api/v1/channels/{channel}/messages?pageSize=100&page={page}");
        client.send(&request("GET", &target, Some(SECRET_KEY), ""));
        let data = client.answer().expect("an answer").json()["data"].clone();
        for item in data["items"].as_array().unwrap() {
            messages.push((item["offset"].as_u64().unwrap(), text(&item["content"])));
        }
        let total = data["pagination"]["total"].as_u64().unwrap();
        if *newest.get_or_insert(total) != total {
            return None;
        }
        if page >= data["pagination"]["totalPages"].as_u64().unwrap() {
            assert_eq!(messages.len() as u64, total);
            break;
        }
    }
    Some(messages)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
