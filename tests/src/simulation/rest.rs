//! What must hold when nothing is under way: all that was asked is answered, everybody has everything,
//! and what the API tells is what there is.

use std::collections::{BTreeMap, BTreeSet};

use pushflo_engine::accounts::Role;
use pushflo_engine::shard::Shard;

use super::backend::{Backend, Call};
use super::client::{Client, Identity, Member, Past, ViewState};
use super::oracle::{Change, Channel};
use super::trace::say;
use super::world::World;

const MASK: [u8; 4] = [1, 2, 3, 4];

/// Ticks of a second.
const SECOND: u32 = 4;

/// With presence as it is by default: a member that is away has left, and that is told.
const ALL_HAVE_LEFT: u32 = 13 * SECOND;

impl World {
    /// Lets everything arrive, and checks what must hold then.
    pub(super) fn rest(&mut self) {
        say(|| "all comes to rest".into());
        self.come_to_rest();
        // What the log could not read is asked for again in the next tick.
        self.advance(1);
        self.come_to_rest();
        for client in &mut self.clients {
            let app = client.app;
            for (number, view) in client.views.iter_mut().enumerate() {
                if self.oracle.channel((app, number)).is_presence_unstable {
                    view.members = None;
                }
            }
        }
        self.oracle.settle(&self.accounts);
        let census = self.check_shards();
        assert_eq!(census.counted, census.held, "subscribers as the homes count them");
        for client in &self.clients {
            client.assert_at_rest(&self.oracle);
        }
        for backend in &self.backends {
            assert!(backend.link.is_none() || backend.waiting() == 0, "an answer is missing");
        }
        for client in self.clients.iter().filter(|client| client.link.is_some()) {
            for number in 0..self.channels {
                let meta = self.oracle.channels.get(&(client.app, number)).and_then(|t| t.meta);
                let is_private = meta.is_some_and(|meta| meta.is_private);
                let is_live = client.views[number].state == ViewState::Live;
                let may_be = client.may_be_private(number, &self.oracle);
                assert!(!(is_private && is_live) || may_be == Some(true), "in a private channel");
            }
        }
    }

    /// Checks all that can be asked for, and that nothing is left when everybody has gone.
    pub(super) fn end(&mut self) {
        self.rest();
        for index in 0..self.clients.len() {
            if self.clients[index].ends_before(self.now.unix_ms + 60_000) {
                self.goes(index);
            }
        }
        // Who is away has left by then.
        self.advance(ALL_HAVE_LEFT);
        self.rest();
        self.advance(2 * SECOND);
        self.rest();
        let mut heads = BTreeMap::new();
        for app in [self.app_of(0), self.app_of(1)].into_iter().flatten() {
            self.check_app(app, &mut heads);
        }
        self.rest();
        self.oracle.check(&heads);
        if self.random.u8(..) < 64 {
            self.check_grace();
        }
        self.drain();
    }

    /// A client of its own for an app, or a backend.
    fn probe(&mut self, app: usize, identity: Identity) -> usize {
        self.clients.push(Client::new(usize::from(app > 0), identity, self.channels));
        let index = self.clients.len() - 1;
        assert!(self.client_connects(index), "room for one more");
        self.come_to_rest();
        assert!(self.clients[index].is_connected);
        index
    }

    fn ask(&mut self, backend: usize, call: Call) {
        if self.backends[backend].link.is_none() || self.backends[backend].is_ending() {
            self.backends[backend] = Backend::new(self.backends[backend].slot);
            assert!(self.backend_connects(backend), "room for one more");
        }
        self.backends[backend].ask(call, false, false, &mut self.oracle);
        self.come_to_rest();
        assert_eq!(self.backends[backend].waiting(), 0, "never answered");
    }

    /// Who is subscribed to a channel.
    fn live(&self, channel: Channel) -> Vec<usize> {
        let is_live = |index: &usize| {
            let client = &self.clients[*index];
            client.app == channel.0 && client.live_position(channel.1).is_some()
        };
        (0..self.clients.len()).filter(is_live).collect()
    }

    fn check_app(&mut self, app: usize, heads: &mut BTreeMap<Channel, (String, u64)>) {
        let probe = self.probe(app, Identity::Key(Role::Secret));
        self.backends.push(Backend::new(usize::from(app > 0)));
        let backend = self.backends.len() - 1;
        for number in 0..self.channels {
            let channel = (app, number);
            self.clients[probe].subscribe(number, Past::Nothing, true, &mut self.oracle, MASK);
            self.come_to_rest();
            let position = self.clients[probe].live_position(number).expect("subscribed");
            let head = (position.0.to_owned(), position.1);
            self.assert_all_have(channel, &head);
            // One more, for all of them.
            let mut content = self.content(app);
            content.0 = channel;
            let call = Call::Publish { content, padding: 0, is_keyed: false, is_message: true };
            self.ask(backend, call);
            let live = self.live(channel);
            assert_eq!(self.backends[backend].delivered, Some(live.len() as u64), "{channel:?}");
            let position = self.clients[probe].live_position(number).expect("subscribed");
            let head = (position.0.to_owned(), position.1);
            assert!(!live.is_empty());
            self.assert_all_have(channel, &head);
            heads.insert(channel, head);
        }
        // Who came is announced.
        self.advance(2 * SECOND);
        self.rest();
        for number in 0..self.channels {
            self.check_channel((app, number), backend, &heads[&(app, number)]);
        }
        self.ask(backend, Call::List { page: 1, page_size: 2 });
        let (total, slugs) = self.backends[backend].listed.clone().expect("a list");
        let all: Vec<String> = (0..self.channels).map(|number| format!("c{number}")).collect();
        assert_eq!((total, &slugs[..]), (all.len() as u64, &all[..all.len().min(2)]));
    }

    /// Everybody who is subscribed has everything.
    fn assert_all_have(&self, channel: Channel, head: &(String, u64)) {
        for index in self.live(channel) {
            let (epoch, offset) = self.clients[index].live_position(channel.1).unwrap();
            assert_eq!((epoch, offset), (&*head.0, head.1), "messages of {channel:?} did not come");
        }
    }

    fn check_channel(&mut self, channel: Channel, backend: usize, head: &(String, u64)) {
        let live = self.live(channel);
        let members: BTreeSet<Member> =
            live.iter().map(|index| self.clients[*index].member()).collect();
        let presence = self.oracle.channel(channel).meta.is_some_and(|meta| meta.presence);
        self.ask(backend, Call::Members { channel });
        let (subscribers, told) = self.backends[backend].members.take().expect("members");
        assert_eq!(subscribers, live.len() as u64, "subscribers of {channel:?}");
        let wanted = if presence { members.clone() } else { BTreeSet::new() };
        assert_eq!(BTreeSet::from_iter(told), wanted, "members of {channel:?}");
        for index in live {
            let client = &mut self.clients[index];
            if !presence || !client.wants_presence(channel.1) {
                continue;
            }
            if let Some(known) = &client.views[channel.1].members {
                assert_eq!(*known, members, "as client {index} was told, in {channel:?}");
                self.oracle.count("members as they are");
            }
            client.subscribe(channel.1, Past::Nothing, true, &mut self.oracle, MASK);
            self.come_to_rest();
            let known = self.clients[index].views[channel.1].members.as_ref();
            assert_eq!(known, Some(&members), "as client {index} is told, in {channel:?}");
        }
        self.ask(backend, Call::Describe { channel });
        let described = self.backends[backend].described.clone().expect("a description");
        assert_eq!(described.channel, channel);
        assert_eq!(described.subscribers, subscribers);
        let mut history = Vec::new();
        let mut total = 0;
        for page in 1.. {
            let (event, after, before) = (None, None, None);
            self.ask(backend, Call::Page { channel, page, page_size: 100, event, after, before });
            let (all, items) = self.backends[backend].page.take().expect("a page");
            total = all;
            let is_last = items.len() < 100;
            history.extend(items);
            if is_last {
                break;
            }
        }
        assert_eq!(total, history.len() as u64);
        if self.oracle.may_forget {
            assert!(total <= described.messages);
            return;
        }
        assert_eq!(total, described.messages, "messages of {channel:?}");
        assert_eq!(history.first().map(|(offset, _)| *offset), Some(head.1));
        let kept: BTreeSet<(u64, u64)> = history.into_iter().collect();
        for (offset, content, _) in self.oracle.in_epoch(channel, &head.0) {
            assert!(kept.contains(&(offset, content)), "{content} at {offset} is not kept");
        }
        self.oracle.count("histories");
    }

    /// Who drops and is back within the grace time never left; who is not has.
    fn check_grace(&mut self) {
        let channel = (0, 0);
        self.backends.push(Backend::new(0));
        let backend = self.backends.len() - 1;
        let change = Change::Update { is_private: Some(false), presence: Some(true) };
        self.ask(backend, Call::Change { channel, change });
        self.rest();
        let watcher = self.probe(0, Identity::Key(Role::Secret));
        self.clients[watcher].subscribe(0, Past::Nothing, true, &mut self.oracle, MASK);
        let member = self.probe(0, Identity::Token(Some(9)));
        let comes = |world: &mut Self| {
            loop {
                // Until a token grants the channel for long enough.
                let (client, now_ms) = (&mut world.clients[member], world.now.unix_ms);
                if client.link.is_some() {
                    client.subscribe(0, Past::Nothing, false, &mut world.oracle, MASK);
                    world.come_to_rest();
                    let client = &world.clients[member];
                    if client.live_position(0).is_some() && !client.ends_before(now_ms + 60_000) {
                        return;
                    }
                    world.goes(member);
                }
                world.client_connects(member);
                world.come_to_rest();
            }
        };
        comes(self);
        self.advance(2 * SECOND);
        self.come_to_rest();
        let is_there = |world: &Self| {
            let members = world.clients[watcher].views[0].members.as_ref();
            members.expect("known").contains(&("m9".to_owned(), true))
        };
        assert!(is_there(self), "who came is not announced");
        self.goes(member);
        self.advance(self.random.clone().u32(1..9 * SECOND));
        self.come_to_rest();
        comes(self);
        for _ in 0..20 {
            self.advance(SECOND / 2);
            self.come_to_rest();
            assert!(is_there(self), "who was back in time has left");
        }
        self.goes(member);
        for _ in 0..9 * 2 {
            self.advance(SECOND / 2);
            self.come_to_rest();
            assert!(is_there(self), "left before the grace time was over");
        }
        self.advance(2 * SECOND);
        self.come_to_rest();
        self.advance(SECOND);
        self.come_to_rest();
        assert!(!is_there(self), "who has gone never leaves");
        self.oracle.count("grace times");
    }

    fn goes(&mut self, client: usize) {
        if let Some(link) = self.clients[client].link.take() {
            self.clients[client].lose();
            self.cut(&link);
            self.come_to_rest();
        }
    }

    /// Everybody leaves, and nothing is left behind.
    fn drain(&mut self) {
        for shard in 0..self.shards.len() {
            self.shards[shard].drain(1_000);
            self.closings(shard);
        }
        for _ in 0..400 {
            self.advance(1);
            self.come_to_rest();
            if self.shards.iter().all(Shard::is_drained) {
                break;
            }
        }
        self.advance(1);
        self.come_to_rest();
        let census = self.check_shards();
        assert!(census.counted.is_empty() && census.held.is_empty() && census.sessions.is_empty());
        for shard in &self.shards {
            assert!(shard.is_drained(), "{} connections are left", shard.connection_count());
            let metrics = shard.metrics();
            assert_eq!(metrics.connections.value(), 0);
            assert_eq!(metrics.websocket_connections.value(), 0);
            assert_eq!(metrics.subscriptions.value(), 0);
            assert_eq!(metrics.tail_bytes.value(), 0);
            assert_eq!(metrics.outbox_depth.value(), 0);
            assert_eq!(metrics.bugs_total.value(), 0);
        }
    }
}
