//! Simulated backends over HTTP: they publish, read, and change channels, apps and keys, in requests that
//! may be pipelined, and hold each answer against what they asked for and what the oracle knows.

use std::collections::VecDeque;

use pushflo_engine::accounts::Role;
use pushflo_engine::ids::AppId;
use pushflo_protocol::time::parse_iso8601;
use serde_json::{Value, json};

use super::network::{Link, find};
use super::oracle::{
    AppTruth, Change, Channel, Content, KeyTruth, Meta, Moment, Oracle, Place, Taken,
};
use super::trace::say;

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Call {
    Publish {
        content: Content,
        padding: usize,
        is_keyed: bool,
        is_message: bool,
    },
    Batch {
        contents: Vec<Content>,
        key: Option<u64>,
    },
    Page {
        channel: Channel,
        page: u64,
        page_size: u64,
        event: Option<u64>,
        after: Option<u64>,
        before: Option<u64>,
    },
    Describe {
        channel: Channel,
    },
    Members {
        channel: Channel,
    },
    List {
        page: u64,
        page_size: u64,
    },
    Change {
        channel: Channel,
        change: Change,
    },
    CreateApp,
    RenameApp,
    DeleteApp {
        app: usize,
    },
    CreateKey {
        role: Role,
    },
    RevokeKey {
        key: usize,
    },
    Token,
    Usage,
    Health,
    NoSuchThing,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Asked {
    call: Call,
    sent: Moment,
    key: usize,
    /// It was sent before; that it is refused now does not say that it was then.
    is_repeated: bool,
    /// It is the connection's last: what comes behind it is not done.
    is_last: bool,
    /// What was known of the channel, and how many changes had been sent.
    known: Option<(Option<Meta>, u64)>,
}

/// What a channel is told to be.
#[derive(Clone, Debug)]
pub struct Description {
    pub channel: Channel,
    pub messages: u64,
    pub subscribers: u64,
}

/// A backend over all its connections.
#[derive(Debug, Default)]
pub struct Backend {
    /// The first app, or one that comes and goes.
    pub slot: usize,
    pub app: usize,
    pub link: Option<Link>,
    waiting: VecDeque<Asked>,
    /// Publishes with a key whose answer a lost connection took.
    unanswered: Vec<Call>,
    is_ending: bool,
    /// What the last answers of their kinds told, for who asks when all is at rest.
    pub described: Option<Description>,
    pub members: Option<(u64, Vec<(String, bool)>)>,
    pub listed: Option<(u64, Vec<String>)>,
    pub page: Option<(u64, Vec<(u64, u64)>)>,
    pub delivered: Option<u64>,
}

impl Backend {
    pub fn new(slot: usize) -> Self {
        Self { slot, ..Self::default() }
    }

    pub fn begin(&mut self, link: Link, app: usize) {
        if self.app != app {
            self.unanswered.clear();
        }
        self.app = app;
        self.is_ending = false;
        self.link = Some(link);
    }

    /// Its connection is gone.
    pub fn lose(&mut self, oracle: &mut Oracle) {
        for asked in std::mem::take(&mut self.waiting) {
            match asked.call {
                Call::Change { channel, .. } => oracle.loses(channel),
                Call::Publish { is_keyed: true, .. } | Call::Batch { key: Some(_), .. } => {
                    self.unanswered.push(asked.call);
                }
                _ => {}
            }
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether it sends anything more on this connection.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Whether it waits for a change, whose answer a lost connection would take.
    pub fn is_changing(&self) -> bool {
        self.waiting.iter().any(|asked| {
            matches!(
                asked.call,
                Call::Change { .. }
                    | Call::CreateApp
                    | Call::DeleteApp { .. }
                    | Call::CreateKey { .. }
                    | Call::RevokeKey { .. }
            )
        })
    }

    /// Asks again for what was not answered.
    pub fn repeat(&mut self, oracle: &mut Oracle) {
        for call in std::mem::take(&mut self.unanswered) {
            oracle.count("publishes asked for again");
            self.send(call, true, false, false, oracle);
        }
    }

    pub fn ask(&mut self, call: Call, chunked: bool, is_last: bool, oracle: &mut Oracle) {
        self.send(call, false, chunked, is_last, oracle);
    }

    fn send(
        &mut self,
        call: Call,
        is_repeated: bool,
        chunked: bool,
        is_last: bool,
        oracle: &mut Oracle,
    ) {
        let (method, path, body, key) = request(&call, self.app, oracle);
        let mut known = None;
        match &call {
            Call::Publish { content, .. } => oracle.sends(*content),
            Call::Batch { contents, .. } => contents.iter().for_each(|c| oracle.sends(*c)),
            Call::Change { channel, change } => {
                known = Some((oracle.channel(*channel).meta, 0))
                    .filter(|_| oracle.channels[channel].is_certain());
                oracle.changes(*channel, *change);
            }
            Call::Describe { channel } => {
                let truth = oracle.channel(*channel);
                known = truth.is_certain().then_some((truth.meta, truth.changes));
            }
            Call::DeleteApp { app } => oracle.apps[*app].delete_sent = Some(oracle.now.step),
            Call::RevokeKey { key } => {
                oracle.apps[self.app].keys[*key].revoke_sent = Some(oracle.now.step);
            }
            _ => {}
        }
        let Some(link) = &mut self.link else { return };
        let manage = 2;
        let text = &oracle.apps[self.app].keys[manage].text;
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {text}\r\n");
        if let Some(key) = key {
            head += &format!("Idempotency-Key: {key}\r\n");
        }
        if is_last {
            head += "Connection: close\r\n";
            self.is_ending = true;
        }
        say(|| format!("  {} asks {method} {path} {body}", link.connection_name()));
        link.send(&if body.is_empty() {
            format!("{head}\r\n")
        } else if chunked {
            let (first, second) = body.split_at(body.len() / 3);
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
                first.len(),
                second.len()
            )
        } else {
            format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
        });
        let sent = oracle.now;
        self.waiting.push_back(Asked { call, sent, key: manage, is_repeated, is_last, known });
    }

    /// Takes up to `most` bytes off the network and acts on what is whole.
    pub fn read(&mut self, most: usize, oracle: &mut Oracle) {
        let Some(link) = &mut self.link else { return };
        link.receive(most);
        let mut received = std::mem::take(&mut link.received);
        let name = link.connection_name();
        while let Some(end) = find(&received, b"\r\n\r\n") {
            let head = str::from_utf8(&received[..end]).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if received.len() < end + 4 + length {
                break;
            }
            let status: u16 = head[9..12].parse().unwrap();
            let body = &received[end + 4..][..length];
            say(|| format!("  {name} is answered {status} {}", body.escape_ascii()));
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            received.drain(..end + 4 + length);
            let asked = self.waiting.pop_front().expect("an answer too many");
            let is_last = asked.is_last || status == 408;
            self.answered(asked, status, &body, oracle);
            if is_last {
                // What came behind it is not done, and not answered.
                for behind in std::mem::take(&mut self.waiting) {
                    self.undone(behind, oracle);
                }
                self.is_ending = true;
            }
        }
        if let Some(link) = &mut self.link {
            link.received = received;
        }
    }

    /// A request was refused, or not even read: it changes nothing.
    fn undone(&mut self, asked: Asked, oracle: &mut Oracle) {
        match asked.call {
            Call::Publish { content, .. } if !asked.is_repeated => oracle.refused(content),
            Call::Batch { contents, .. } if !asked.is_repeated => {
                contents.into_iter().for_each(|content| oracle.refused(content));
            }
            Call::Change { channel, change } => oracle.changed(channel, change, false),
            Call::DeleteApp { app } => oracle.apps[app].delete_sent = None,
            Call::RevokeKey { key } => oracle.apps[self.app].keys[key].revoke_sent = None,
            _ => {}
        }
    }

    fn answered(&mut self, asked: Asked, status: u16, body: &Value, oracle: &mut Oracle) {
        let is_valid = oracle.is_valid(self.app, asked.key, asked.sent.step);
        assert!(status < 300 || body["success"] == false, "{status} {body}");
        match status {
            401 => {
                assert!(is_valid != Some(true), "{body}");
                oracle.count("requests unauthorized");
                return self.undone(asked, oracle);
            }
            // The app is gone meanwhile.
            404 if is_valid != Some(true) => return self.undone(asked, oracle),
            // The channel may be closed, and its history go later.
            503 if let Call::Change { channel, change: Change::Delete } = asked.call => {
                return oracle.loses(channel);
            }
            // It waited too long for the rest of the request, or for room.
            408 | 503 => return self.undone(asked, oracle),
            200..300 => {
                let is_open = matches!(asked.call, Call::Health);
                assert!(is_valid != Some(false) || is_open, "a revoked key works: {asked:?}");
            }
            404 | 409 => {}
            other => panic!("unexpected {other}: {body} to {asked:?}"),
        }
        let data = &body["data"];
        match (&asked.call, status) {
            (Call::Publish { content, is_message, .. }, 200 | 201) => {
                assert_eq!(status == 201, *is_message);
                self.delivered = data["delivered"].as_u64();
                published(*content, data, oracle);
            }
            (Call::Batch { contents, .. }, 200) => {
                batch(contents, &asked, data, oracle);
            }
            (Call::Page { channel, .. }, 200) => self.paged(*channel, &asked, data, oracle),
            (Call::Describe { channel }, 200 | 404) => {
                self.described(*channel, &asked, status, data, oracle);
            }
            (Call::Members { channel }, 200) => {
                let list = |member: &Value| {
                    let id = member["clientId"].as_str().unwrap().to_owned();
                    (id, member["verified"] != false)
                };
                let members: Vec<_> =
                    data["members"].as_array().unwrap().iter().map(list).collect();
                assert_eq!(data["count"].as_u64(), Some(members.len() as u64), "{channel:?}");
                assert!(members.is_sorted(), "{data}");
                self.members = Some((data["subscribers"].as_u64().unwrap(), members));
                oracle.count("pages of members");
            }
            (Call::Members { .. }, 404) => self.members = None,
            (Call::List { page_size, .. }, 200) => {
                let slugs = data.as_array().unwrap().iter();
                let slugs: Vec<_> =
                    slugs.map(|channel| channel["slug"].as_str().unwrap().to_owned()).collect();
                let total = body["pagination"]["total"].as_u64().unwrap();
                assert!(slugs.is_sorted() && slugs.len() as u64 <= *page_size, "{body}");
                self.listed = Some((total, slugs));
                oracle.count("lists");
            }
            (Call::Change { channel, change }, 200 | 201 | 204 | 404 | 409) => {
                changed(*channel, *change, &asked, status, data, oracle);
            }
            (Call::CreateApp, 201) => {
                let id = AppId::parse(data["id"].as_str().unwrap()).unwrap();
                let key = |key: &Value| {
                    let text = key["key"].as_str().unwrap();
                    KeyTruth::new(text, Role::of(text).unwrap())
                };
                let keys = data["keys"].as_array().unwrap().iter().map(key).collect();
                oracle.apps.push(AppTruth { id, keys, delete_sent: None, deleted: None });
                oracle.count("apps made");
            }
            (Call::RenameApp, 200) => oracle.count("apps changed"),
            (Call::DeleteApp { app }, 204 | 404) => {
                let step = oracle.now.step;
                oracle.apps[*app].deleted.get_or_insert(step);
                oracle.taken = Some(Taken::Keys(*app));
                oracle.count("apps deleted");
            }
            (Call::CreateKey { role }, 201) => {
                let text = data["key"].as_str().unwrap();
                oracle.apps[self.app].keys.push(KeyTruth::new(text, *role));
                oracle.count("keys made");
            }
            (Call::RevokeKey { key }, 204 | 404) => {
                let step = oracle.now.step;
                oracle.apps[self.app].keys[*key].revoked.get_or_insert(step);
                oracle.taken = Some(Taken::Keys(self.app));
                oracle.count("keys revoked");
            }
            (Call::Token, 200) => assert!(data["token"].is_string()),
            (Call::Usage, 200) => {
                assert_eq!(data["limits"]["channels"], Value::Null);
                oracle.count("usage told");
            }
            (Call::Health, 200) => oracle.count("health told"),
            (Call::NoSuchThing, 404) => oracle.count("nothing there"),
            (call, status) => panic!("{status} {body} to {call:?}"),
        }
    }

    fn paged(&mut self, channel: Channel, asked: &Asked, data: &Value, oracle: &mut Oracle) {
        let Call::Page { page_size, event, after, before, .. } = &asked.call else { return };
        let items = data["items"].as_array().unwrap();
        assert!(items.len() as u64 <= *page_size);
        let mut seen = Vec::new();
        for item in items {
            let offset = item["offset"].as_u64().unwrap();
            let timestamp_ms = item["timestamp"].as_u64().unwrap();
            let n = item["content"]["n"].as_u64().unwrap();
            let content = (channel, n);
            assert!(event.is_none_or(|event| event == n % 2), "{item}");
            assert!(after.is_none_or(|after| timestamp_ms > after), "{item}");
            assert!(before.is_none_or(|before| timestamp_ms < before), "{item}");
            assert_eq!(item["eventType"], format!("e{}", n % 2));
            assert!(timestamp_ms + oracle.age_ms_max >= asked.sent.ms, "too old: {item}");
            let place = Place { epoch: None, offset, timestamp_ms };
            oracle.know(item["id"].as_str().unwrap(), content, place);
            oracle.assert_not_deleted(content, asked.sent.step);
            seen.push((offset, n));
        }
        assert!(seen.is_sorted_by(|(one, _), (next, _)| one > next), "not newest first: {data}");
        let total = data["pagination"]["total"].as_u64().unwrap();
        assert!(total >= seen.len() as u64);
        self.page = Some((total, seen));
        oracle.count("pages of history");
    }

    fn described(
        &mut self,
        channel: Channel,
        asked: &Asked,
        status: u16,
        data: &Value,
        oracle: &mut Oracle,
    ) {
        let (now, is_certain) = {
            let truth = oracle.channel(channel);
            (truth.changes, truth.is_certain())
        };
        // Nothing was changed between the question and the answer.
        let known = asked.known.filter(|(_, changes)| *changes == now && is_certain);
        if status == 404 {
            self.described = None;
            assert!(known.is_none_or(|(meta, _)| meta.is_none()), "{channel:?} is not found");
            return;
        }
        let flag = |name: &str| data[name].as_bool().unwrap();
        if let Some((meta, _)) = known {
            let told = Meta { is_private: flag("isPrivate"), presence: flag("presence") };
            assert_eq!(told, meta.unwrap_or_default(), "{channel:?} is not as it was made");
        }
        let number = |name: &str| data[name].as_u64().unwrap();
        let (messages, subscribers) = (number("messageCount"), number("subscribers"));
        self.described = Some(Description { channel, messages, subscribers });
        oracle.count("descriptions");
    }
}

fn request(
    call: &Call,
    app: usize,
    oracle: &Oracle,
) -> (&'static str, String, String, Option<String>) {
    let slug = |channel: &Channel| Oracle::slug(*channel);
    let at = |channel: &Channel, rest: &str| format!("/api/v1/channels/{}{rest}", slug(channel));
    let get = |path: String| ("GET", path, String::new(), None);
    match call {
        Call::Publish { content: (channel, n), padding, is_keyed, is_message } => {
            let data = json!({ "n": n, "pad": "x".repeat(*padding) });
            let event = format!("e{}", n % 2);
            let key = is_keyed.then(|| format!("k{n}"));
            match is_message {
                true => {
                    let body = json!({ "content": data, "eventType": event, "clientId": "b" });
                    ("POST", at(channel, "/messages"), body.to_string(), key)
                }
                false => {
                    let body = json!({ "channel": slug(channel), "data": data, "event": event });
                    ("POST", "/api/v1/publish".into(), body.to_string(), key)
                }
            }
        }
        Call::Batch { contents, key } => {
            // What has the same content goes to several channels.
            let mut items: Vec<Value> = Vec::new();
            for (channel, n) in contents {
                match items.last_mut() {
                    Some(item) if item["data"]["n"] == *n => {
                        item["channels"].as_array_mut().unwrap().push(slug(channel).into());
                    }
                    _ => items.push(json!({
                        "channels": [slug(channel)],
                        "event": format!("e{}", n % 2),
                        "data": { "n": n },
                    })),
                }
            }
            let key = key.map(|key| format!("b{key}"));
            ("POST", "/api/v1/publish/batch".into(), Value::from(items).to_string(), key)
        }
        Call::Page { channel, page, page_size, event, after, before } => {
            let mut path = at(channel, &format!("/messages?page={page}&pageSize={page_size}"));
            if let Some(event) = event {
                path += &format!("&eventType=e{event}");
            }
            if let Some(after) = after {
                path += &format!("&after={after}");
            }
            if let Some(before) = before {
                path += &format!("&before={before}");
            }
            get(path)
        }
        Call::Describe { channel } => get(at(channel, "")),
        Call::Members { channel } => get(at(channel, "/presence?pageSize=1000")),
        Call::List { page, page_size } => {
            get(format!("/api/v1/channels?page={page}&pageSize={page_size}"))
        }
        Call::Change { channel, change } => match change {
            Change::Create(Meta { is_private, presence }) => {
                let body = json!({
                    "slug": slug(channel), "name": "made", "isPrivate": is_private,
                    "presence": presence, "metadata": { "a": 1 },
                });
                ("POST", "/api/v1/channels".into(), body.to_string(), None)
            }
            Change::Update { is_private, presence } => {
                let mut body = json!({ "description": "changed" });
                if let Some(is_private) = is_private {
                    body["isPrivate"] = (*is_private).into();
                }
                if let Some(presence) = presence {
                    body["presence"] = (*presence).into();
                }
                ("PATCH", at(channel, ""), body.to_string(), None)
            }
            Change::Delete => ("DELETE", at(channel, ""), String::new(), None),
        },
        Call::CreateApp => {
            let body = json!({ "name": "tenant", "settings": { "clientPublish": true } });
            ("POST", "/api/v1/apps".into(), body.to_string(), None)
        }
        Call::RenameApp => {
            ("PATCH", "/api/v1/apps/self".into(), json!({ "name": "other" }).to_string(), None)
        }
        Call::DeleteApp { app } => {
            ("DELETE", format!("/api/v1/apps/{}", oracle.apps[*app].id), String::new(), None)
        }
        Call::CreateKey { role } => {
            let body = json!({ "role": role.name() });
            ("POST", "/api/v1/apps/self/keys".into(), body.to_string(), None)
        }
        Call::RevokeKey { key } => {
            let id = oracle.apps[app].keys[*key].id;
            ("DELETE", format!("/api/v1/apps/self/keys/{id}"), String::new(), None)
        }
        Call::Token => {
            ("POST", "/api/v1/auth/token".into(), json!({ "ttl": 60 }).to_string(), None)
        }
        Call::Usage => get("/api/v1/usage".into()),
        Call::Health => get("/health".into()),
        Call::NoSuchThing => get("/nothing".into()),
    }
}

fn published(content: Content, data: &Value, oracle: &mut Oracle) {
    assert_eq!(data["channelSlug"], Oracle::slug(content.0));
    let place = Place {
        epoch: data["epoch"].as_str(),
        offset: data["offset"].as_u64().unwrap(),
        timestamp_ms: parse_iso8601(data["createdAt"].as_str().unwrap()).unwrap(),
    };
    oracle.accepted(data["id"].as_str().unwrap(), content, place);
}

fn batch(contents: &[Content], asked: &Asked, data: &Value, oracle: &mut Oracle) {
    let results = data["results"].as_array().unwrap();
    assert_eq!(results.len(), contents.len());
    let mut done = 0;
    let mut last: Vec<(Channel, Value, u64)> = Vec::new();
    for (result, content) in results.iter().zip(contents) {
        if result["success"] == true {
            done += 1;
            let data = &result["data"];
            published(*content, data, oracle);
            let offset = data["offset"].as_u64().unwrap();
            // Messages of a channel are in the order of the batch.
            let before = last
                .iter()
                .rfind(|(channel, epoch, _)| *channel == content.0 && *epoch == data["epoch"]);
            let is_in_order = before.is_none_or(|(_, _, before)| *before < offset);
            assert!(is_in_order || asked.is_repeated, "out of order in a batch: {data}");
            last.push((content.0, data["epoch"].clone(), offset));
        } else {
            assert!(
                ["OVERLOADED", "UNAUTHORIZED"].map(Value::from).contains(&result["code"]),
                "{result}"
            );
            if !asked.is_repeated {
                oracle.refused(*content);
            }
        }
    }
    assert_eq!(data["published"], done);
    assert_eq!(data["failed"], results.len() - done);
    oracle.count("batches");
}

fn changed(
    channel: Channel,
    change: Change,
    asked: &Asked,
    status: u16,
    data: &Value,
    oracle: &mut Oracle,
) {
    let is_done = status < 300;
    // Before it was sent, all was known, and nobody else changes anything.
    if let Some((meta, _)) = asked.known {
        match (change, status) {
            (Change::Create(_), 201) => assert_eq!(meta, None, "made twice"),
            (Change::Create(_), 409) => assert!(meta.is_some(), "there is none yet"),
            (Change::Update { .. } | Change::Delete, 404) => assert_eq!(meta, None, "it is there"),
            (Change::Update { .. }, 200) | (Change::Delete, 204) => {}
            other => panic!("{other:?} {data}"),
        }
        let is_gone = status == 404;
        oracle.count(if is_gone { "no such channel" } else { "certain changes" });
    }
    oracle.changed(channel, change, is_done);
    if is_done && change != Change::Delete {
        let flag = |name: &str| data[name].as_bool().unwrap();
        let told = Meta { is_private: flag("isPrivate"), presence: flag("presence") };
        let truth = oracle.channel(channel);
        assert!(truth.is_lost || truth.meta == Some(told), "{data} {truth:?}");
        truth.meta = Some(told);
    }
}
