//! Presence: who is subscribed to a channel that asked for it, by client id.
//!
//! Members come and go at once; what others are told is gathered: at most one event in an interval,
//! with all who joined and left in it. Whoever drops and is back within the grace time never left.
//!
//! A channel that has come from another home begins anew: for the grace time all nodes make their members known,
//! then everybody is told who is there, whatever was told before. Who was on a node that is gone has left by
//! that.
//!
//! Invariant: the members that are announced are exactly those of the last snapshot with all events
//! since.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Home;
use crate::accounts::{Client, Identity};
use crate::context::Context;
use crate::ids::{HomeKey, NodeSlot, ShardId};
use crate::mail;
use crate::mail::{
    Member, MemberChange, MemberList, Members, PresenceNews, PresenceSnapshot, ToEdge, WantPresence,
};
use crate::settings::PresenceTimes;

/// Most members of a channel; who comes beyond gets its messages and is not a member.
const MEMBERS_MAX: usize = 1_000_000;

/// The members of one channel.
#[derive(Debug, Default)]
pub(super) struct ChannelPresence {
    /// Names this time that presence was switched on.
    roster: u32,
    members: BTreeMap<MemberId, Present>,
    /// Subscriptions that count and are on other nodes.
    abroad: BTreeMap<ShardId, Vec<Client>>,
    /// Members that are not announced yet, in the order they came. Some may be gone again.
    joined: Vec<MemberId>,
    /// When a member that has no connection any more has left, in milliseconds after the start.
    leaving: VecDeque<(u64, MemberId)>,
    /// No event before this, in milliseconds after the start of the server.
    next_ms: u64,
    announced: u64,
    /// The announced members, until they change.
    list: Option<Arc<MemberList>>,
    /// When all members are told anew, in milliseconds after the start; nothing is told before.
    anew_ms: Option<u64>,
    /// All who were announced before are known.
    is_taken_over: bool,
    /// It stands in the shard's list of those with something to tell.
    is_listed: bool,
}

/// Who a member is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MemberId {
    client_id: Arc<str>,
    is_verified: bool,
}

impl MemberId {
    fn of(client: &Client) -> Self {
        Self { client_id: client.id(), is_verified: client.is_verified() }
    }

    fn with(&self, data: Option<&Arc<str>>) -> Member {
        let MemberId { client_id, is_verified } = self;
        Member { client_id: Arc::clone(client_id), is_verified: *is_verified, data: data.cloned() }
    }
}

#[derive(Debug)]
struct Present {
    data: Option<Arc<str>>,
    connections: u32,
    is_announced: bool,
    /// When it has left, while it has no connection.
    due_ms: u64,
}

impl ChannelPresence {
    /// Nobody is there yet. `roster` names this time that presence was switched on.
    pub(super) fn new(roster: u32) -> Self {
        Self { roster, ..Self::default() }
    }

    /// The members that are announced.
    pub(super) fn announced(&self) -> Vec<Client> {
        let announced = self.members.iter().filter(|(_, member)| member.is_announced);
        let client = |(MemberId { client_id, is_verified }, member): (&MemberId, &Present)| {
            let data = member.data.as_deref().map(Into::into);
            Client::Named(Arc::new(Identity {
                client_id: (**client_id).into(),
                data,
                is_verified: *is_verified,
            }))
        };
        announced.map(client).collect()
    }

    /// Takes over members that another process has announced: who does not come within the grace time has left.
    pub(super) fn take_over(&mut self, members: &[Client], now_ms: u64, times: PresenceTimes) {
        self.is_taken_over = true;
        let due_ms = now_ms + times.grace_ms;
        for client in members {
            let id = MemberId::of(client);
            let data = client.data().map(Into::into);
            let member = Present { data, connections: 0, is_announced: true, due_ms };
            if self.members.insert(id.clone(), member).is_none() {
                self.announced += 1;
                self.leaving.push_back((due_ms, id));
            }
        }
    }

    /// Which time it was switched on.
    pub(super) fn roster(&self) -> u32 {
        self.roster
    }

    /// A subscription of `client` began. Returns whether it counts.
    pub(super) fn join(&mut self, client: &Client) -> bool {
        let id = MemberId::of(client);
        if self.members.len() >= MEMBERS_MAX && !self.members.contains_key(&id) {
            return false;
        }
        let member = self.members.entry(id.clone()).or_insert(Present {
            data: client.data().map(Into::into),
            connections: 0,
            is_announced: false,
            due_ms: 0,
        });
        member.connections += 1;
        let is_new = member.connections == 1 && !member.is_announced;
        let is_other = member.is_announced && member.data.as_deref() != client.data();
        if is_other {
            member.data = client.data().map(Into::into);
        }
        if is_new || is_other {
            self.joined.push(id);
        }
        true
    }

    /// All subscriptions of another node that counted ended. Returns whether there were any.
    pub(super) fn leave_all(&mut self, node: NodeSlot, now_ms: u64, times: PresenceTimes) -> bool {
        let gone = self.abroad.extract_if(.., |shard, _| shard.node() == node);
        let gone: Vec<Client> = gone.flat_map(|(_, clients)| clients).collect();
        for client in &gone {
            self.leave(client, now_ms, times);
        }
        !gone.is_empty()
    }

    /// All subscriptions of a shard of another node that count are these.
    pub(super) fn attach_at(
        &mut self,
        shard: ShardId,
        clients: &[Client],
        now_ms: u64,
        times: PresenceTimes,
    ) {
        // It may be known already, where the shard was not sure of that.
        for client in self.abroad.remove(&shard).unwrap_or_default() {
            self.leave(&client, now_ms, times);
        }
        for client in clients {
            self.join_at(shard, client);
        }
    }

    /// As [`ChannelPresence::join`], at a shard.
    pub(super) fn join_at(&mut self, shard: ShardId, client: &Client) -> bool {
        if shard.node() != NodeSlot::OWN {
            self.abroad.entry(shard).or_default().push(client.clone());
        }
        self.join(client)
    }

    /// As [`ChannelPresence::leave`], at a shard.
    pub(super) fn leave_at(
        &mut self,
        shard: ShardId,
        client: &Client,
        now_ms: u64,
        times: PresenceTimes,
    ) {
        if let Some(clients) = self.abroad.get_mut(&shard) {
            let id = MemberId::of(client);
            if let Some(at) = clients.iter().position(|known| MemberId::of(known) == id) {
                clients.swap_remove(at);
            }
        }
        self.leave(client, now_ms, times);
    }

    /// A subscription that counted ended.
    pub(super) fn leave(&mut self, client: &Client, now_ms: u64, times: PresenceTimes) {
        let id = MemberId::of(client);
        let Some(member) = self.members.get_mut(&id) else { return };
        member.connections = member.connections.saturating_sub(1);
        if member.connections == 0 {
            member.due_ms = now_ms + times.grace_ms;
            self.leaving.push_back((member.due_ms, id));
        }
    }

    /// Subscribers that another home knew have come: all will be told who is there, unless who was announced
    /// there is known.
    pub(super) fn begin_anew(&mut self, now_ms: u64, times: PresenceTimes) {
        if self.is_taken_over {
            return;
        }
        self.anew_ms.get_or_insert(now_ms + times.grace_ms);
    }

    /// Whether it stands in the list of those with something to tell.
    pub(super) fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// Checks its tables; the channel has so many subscribers.
    pub(super) fn check(&self, subscribers: u64) {
        assert!(!self.is_pending() || self.is_listed, "something to tell, and nobody looks");
        let (mut announced, mut connections) = (0, 0);
        for (id, member) in &self.members {
            announced += u64::from(member.is_announced);
            connections += u64::from(member.connections);
            let is_leaving = self.leaving.iter().any(|(due, of)| *due == member.due_ms && of == id);
            assert!(member.connections > 0 || is_leaving, "a member that never leaves");
            assert!(member.is_announced || self.joined.contains(id), "never announced");
        }
        assert_eq!(announced, self.announced);
        assert!(connections <= subscribers, "{connections} members of {subscribers} subscribers");
        assert!(self.leaving.iter().is_sorted_by_key(|(due_ms, _)| due_ms));
        if let Some(list) = &self.list {
            let announced = self.members.iter().filter(|(_, member)| member.is_announced);
            let names = announced.map(|(id, _)| (&id.client_id, id.is_verified));
            assert!(names.eq(list.members.iter().map(|m| (&m.client_id, m.is_verified))));
        }
    }

    /// Whether anything is to be told, now or later.
    fn is_pending(&self) -> bool {
        !self.joined.is_empty() || !self.leaving.is_empty() || self.anew_ms.is_some()
    }

    /// What is to be told, if it is time to.
    fn news(&mut self, now_ms: u64, times: PresenceTimes) -> Option<PresenceNews> {
        match self.anew_ms {
            Some(anew_ms) if now_ms < anew_ms => None,
            None => {
                self.change(now_ms, times).map(|change| PresenceNews::Changed(Arc::new(change)))
            }
            Some(_) => {
                self.anew_ms = None;
                self.next_ms = now_ms;
                self.change(now_ms, times);
                Some(PresenceNews::All(self.list()))
            }
        }
    }

    /// What changed, if it is time to tell.
    fn change(&mut self, now_ms: u64, times: PresenceTimes) -> Option<MemberChange> {
        if now_ms < self.next_ms {
            return None;
        }
        let mut left = Vec::new();
        while let Some((due_ms, _)) = self.leaving.front()
            && *due_ms <= now_ms
            && let Some((due_ms, id)) = self.leaving.pop_front()
        {
            // It may be back, or gone again for less than the grace time.
            let has_left = |member: &Present| member.connections == 0 && member.due_ms == due_ms;
            if !self.members.get(&id).is_some_and(has_left) {
                continue;
            }
            if self.members.remove(&id).is_some_and(|member| member.is_announced) {
                self.announced -= 1;
                left.push(id);
            }
        }
        let mut joined = Vec::new();
        for id in std::mem::take(&mut self.joined) {
            let Some(member) = self.members.get_mut(&id) else { continue };
            if !std::mem::replace(&mut member.is_announced, true) {
                self.announced += 1;
            }
            joined.push(id);
        }
        joined.sort_unstable();
        joined.dedup();
        if joined.is_empty() && left.is_empty() {
            return None;
        }
        self.next_ms = now_ms + times.interval_ms;
        self.list = None;
        let joined = joined.iter().filter_map(|id| {
            let member = self.members.get(id)?;
            Some(id.with(member.data.as_ref()))
        });
        Some(MemberChange {
            joined: joined.collect(),
            left: left.iter().map(|id| id.with(None)).collect(),
            count: self.announced,
        })
    }

    /// Who is there, for a new subscriber.
    pub(super) fn list(&mut self) -> Arc<MemberList> {
        if let Some(list) = &self.list {
            return Arc::clone(list);
        }
        let announced = self.members.iter().filter(|(_, member)| member.is_announced);
        let members = announced.map(|(id, member)| id.with(member.data.as_ref())).collect();
        let list = Arc::new(MemberList { members, count: self.announced });
        self.list = Some(Arc::clone(&list));
        list
    }

    /// How many members there are, announced or not.
    pub(super) fn len(&self) -> u64 {
        self.members.len() as u64
    }

    /// Members by client id from the `skip`-th on.
    pub(super) fn page(&self, skip: u64, count_max: u64) -> Vec<Member> {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let members = self.members.iter().skip(skip).take(count_max as usize);
        members.map(|(id, member)| id.with(member.data.as_ref())).collect()
    }
}

impl Home {
    /// Has a channel's presence looked at in the coming ticks.
    pub(super) fn presence_changed(&mut self, key: HomeKey) {
        let presence = self.channels.get_mut(key).and_then(|home| home.presence_mut());
        if presence.is_some_and(|presence| !std::mem::replace(&mut presence.is_listed, true)) {
            self.presences.push(key);
        }
    }

    /// Subscribers that were there when presence was switched on.
    pub(super) fn take_members(&mut self, members: &Members) {
        let Members { home: key, roster, shard, ref clients } = *members;
        let presence = self.channels.get_mut(key).and_then(|home| home.presence_mut());
        let Some(presence) = presence.filter(|presence| presence.roster == roster) else { return };
        for client in clients {
            presence.join_at(shard, client);
        }
        self.presence_changed(key);
    }

    /// A subscriber wants to know who is there after all.
    pub(super) fn want_presence(&mut self, cx: &mut Context, want: WantPresence) {
        let WantPresence { shard, subscription, home } = want;
        let home = self.channels.get_mut(home);
        let Some(presence) = home.and_then(|home| home.presence_mut()) else { return };
        let snapshot = PresenceSnapshot { subscription, members: presence.list() };
        cx.post_edge(shard, ToEdge::PresenceSnapshot(snapshot));
    }

    /// Tells what changed where it is time.
    pub(super) fn tell_presence(&mut self, cx: &mut Context) {
        let (now_ms, times) = (cx.now.elapsed_ms, cx.settings.presence);
        for key in std::mem::take(&mut self.presences) {
            let Some(home) = self.channels.get_mut(key) else { continue };
            let Some(presence) = home.presence_mut() else { continue };
            let news = presence.news(now_ms, times);
            presence.is_listed = presence.is_pending();
            if presence.is_listed {
                self.presences.push(key);
            }
            let Some(news) = news else { continue };
            for (shard, tail) in home.audiences() {
                let presence = mail::Presence { tail, news: news.clone() };
                cx.post_edge(shard, ToEdge::Presence(presence));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Identity;

    const TIMES: PresenceTimes = PresenceTimes { interval_ms: 1_000, grace_ms: 10_000 };

    fn client(id: &str) -> Client {
        named(id, None, true)
    }

    fn named(id: &str, data: Option<&str>, is_verified: bool) -> Client {
        let (client_id, data) = (id.into(), data.map(Into::into));
        Client::Named(Arc::new(Identity { client_id, data, is_verified }))
    }

    #[test]
    fn a_channel_that_has_moved_tells_all_members_once() {
        let mut presence = ChannelPresence::new(1);
        presence.join(&client("a"));
        presence.begin_anew(0, TIMES);
        assert!(presence.news(9_999, TIMES).is_none(), "others may come yet");
        presence.join_at(ShardId::of(NodeSlot(1), 0), &client("b"));
        // Its shard is not sure whether that is known, and says it again.
        presence.attach_at(ShardId::of(NodeSlot(1), 0), &[client("b")], 4_000, TIMES);
        presence.begin_anew(5_000, TIMES);
        let all = presence.news(10_000, TIMES);
        let Some(PresenceNews::All(list)) = all else { panic!("{all:?}") };
        assert_eq!((names(&list.members).as_str(), list.count), ("+a +b 2", 2));
        assert!(presence.news(20_000, TIMES).is_none() && !presence.is_pending());
        // Its node is gone.
        assert!(presence.leave_all(NodeSlot(1), 20_000, TIMES));
        let left = presence.news(30_000, TIMES);
        let Some(PresenceNews::Changed(change)) = left else { panic!("{left:?}") };
        assert_eq!((change.joined.len(), change.left.len(), change.count), (0, 1, 1));
    }

    /// `+` who joined, `-` who left, `~` before whom nobody vouched for.
    fn told(change: Option<MemberChange>) -> String {
        let Some(change) = change else { return String::new() };
        let name = |sign: &str, member: &Member| {
            let unverified = if member.is_verified { "" } else { "~" };
            let data = member.data.as_deref().unwrap_or_default();
            format!("{sign}{unverified}{}{data} ", member.client_id)
        };
        let joined = change.joined.iter().map(|member| name("+", member));
        let left = change.left.iter().map(|member| name("-", member));
        joined.chain(left).collect::<String>() + &change.count.to_string()
    }

    fn names(members: &[Member]) -> String {
        let joined = members.to_vec();
        let count = members.len() as u64;
        told(Some(MemberChange { joined, left: Vec::new(), count }))
    }

    #[test]
    fn who_says_that_it_is_somebody_takes_nothing_from_who_is() {
        let mut presence = ChannelPresence::default();
        let ann = named("ann", Some(r#"{"admin":true}"#), true);
        let mallory = named("ann", None, false);
        presence.join(&ann);
        presence.change(0, TIMES).unwrap();
        presence.join(&mallory);
        assert_eq!(told(presence.change(1_000, TIMES)), "+~ann 2");
        assert_eq!(names(&presence.page(0, 10)), r#"+~ann +ann{"admin":true} 2"#);
        presence.leave(&mallory, 2_000, TIMES);
        assert_eq!(told(presence.change(12_000, TIMES)), "-~ann 1");
        assert_eq!(names(&presence.page(0, 10)), r#"+ann{"admin":true} 1"#);
    }

    #[test]
    fn changes_are_gathered_and_short_drops_do_not_show() {
        let mut presence = ChannelPresence::default();
        let change = |presence: &mut ChannelPresence, now| told(presence.change(now, TIMES));
        presence.join(&client("a"));
        assert_eq!(change(&mut presence, 1_000), "+a 1");
        presence.join(&client("b"));
        presence.join(&client("c"));
        presence.join(&client("a"));
        assert_eq!(change(&mut presence, 1_500), "");
        assert_eq!(names(&presence.list().members), "+a 1");
        assert_eq!(change(&mut presence, 2_000), "+b +c 3");
        // One of two connections, and one that comes back in time.
        presence.leave(&client("a"), 3_000, TIMES);
        presence.leave(&client("b"), 3_000, TIMES);
        presence.leave(&client("c"), 4_000, TIMES);
        presence.join(&client("c"));
        assert_eq!(change(&mut presence, 12_999), "");
        assert_eq!(change(&mut presence, 13_000), "-b 2");
        assert_eq!(change(&mut presence, 99_000), "");
        assert_eq!((presence.len(), presence.is_pending()), (2, false));
        // Gone, back and gone again: the last time counts.
        presence.leave(&client("c"), 100_000, TIMES);
        presence.join(&client("c"));
        presence.leave(&client("c"), 105_000, TIMES);
        assert_eq!(change(&mut presence, 110_000), "");
        assert_eq!(change(&mut presence, 115_000), "-c 1");
        assert_eq!(names(&presence.page(0, 10)), "+a 1");
    }
}
