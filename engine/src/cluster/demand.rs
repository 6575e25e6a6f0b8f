//! What apps do on each node, which all nodes tell each other every second: how many connections they have, and
//! how much is asked of rates that are limited. Each node lets through the part of a rate that is asked of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::accounts::{Usages, WHOLE};
use crate::ids::AppId;

/// How often it is told.
pub(super) const ROUND: Duration = Duration::from_secs(1);

/// Apps in one message.
const APPS_MAX: usize = 4096;

/// What an app does on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Doing {
    connections: u64,
    /// Publishes and subscribes that were asked for in a second, where their rate is limited.
    publishes: u64,
    subscribes: u64,
}

/// What is told.
#[derive(Serialize, Deserialize)]
struct Told {
    node: String,
    /// Counts the rounds: an app that is not in one does nothing any more.
    round: u64,
    apps: Vec<(u32, Doing)>,
}

/// What another node has told.
#[derive(Debug, Default)]
struct OfNode {
    round: u64,
    apps: BTreeMap<AppId, (u64, Doing)>,
}

/// What is known of all nodes.
#[derive(Debug, Default)]
pub(super) struct Demand {
    round: u64,
    own: BTreeMap<AppId, Doing>,
    others: BTreeMap<String, OfNode>,
    /// Apps of which something was said that others do.
    set: BTreeSet<AppId>,
}

impl Demand {
    /// What this node tells now, as messages.
    pub(super) fn tell(&mut self, node: &str, usages: &Usages) -> Vec<Vec<u8>> {
        self.round += 1;
        self.own.clear();
        for (app, usage) in usages.all() {
            let (publishes, subscribes) = usage.tried();
            let doing = Doing { connections: usage.own_connections(), publishes, subscribes };
            if doing != Doing::default() {
                self.own.insert(app, doing);
            }
        }
        let all: Vec<_> = self.own.iter().map(|(app, doing)| (app.0, *doing)).collect();
        let mut messages: Vec<_> = all.chunks(APPS_MAX).map(<[_]>::to_vec).collect();
        if messages.is_empty() {
            messages.push(Vec::new());
        }
        let told = |apps| Told { node: node.into(), round: self.round, apps };
        // Into memory, of types that have a form: it cannot fail.
        let encode = |told: Told| postcard::to_allocvec(&told).unwrap_or_default();
        messages.into_iter().map(|apps| encode(told(apps))).collect()
    }

    /// Another node has told something.
    pub(super) fn hear(&mut self, own: &str, message: &[u8]) {
        let Ok(Told { node, round, apps }) = postcard::from_bytes::<Told>(message) else { return };
        if node == own {
            return;
        }
        let of_node = self.others.entry(node).or_default();
        if of_node.round != round {
            // Of the round before all has come that comes.
            let last = std::mem::replace(&mut of_node.round, round);
            of_node.apps.retain(|_, (of, _)| *of == last);
        }
        of_node.apps.extend(apps.into_iter().map(|(app, doing)| (AppId(app), (round, doing))));
    }

    /// A node is not there any more.
    pub(super) fn forget(&mut self, node: &str) {
        self.others.remove(node);
    }

    /// Has the usage of each app know what others do.
    pub(super) fn apply(&mut self, usages: &Usages) {
        let mut others: BTreeMap<AppId, Doing> = BTreeMap::new();
        for (app, (_, doing)) in self.others.values().flat_map(|of_node| &of_node.apps) {
            let sum = others.entry(*app).or_default();
            sum.connections += doing.connections;
            sum.publishes += doing.publishes;
            sum.subscribes += doing.subscribes;
        }
        let nodes = self.others.len() as u64 + 1;
        for app in &self.set {
            others.entry(*app).or_default();
        }
        for (app, doing) in &others {
            let own = self.own.get(app).copied().unwrap_or_default();
            let Some(usage) = usages.of(*app) else { continue };
            usage.set_others(
                doing.connections,
                part_of_others(doing.publishes, own.publishes, nodes),
                part_of_others(doing.subscribes, own.subscribes, nodes),
            );
        }
        let does = |(app, doing): (AppId, Doing)| (doing != Doing::default()).then_some(app);
        self.set = others.into_iter().filter_map(does).collect();
    }
}

/// Which part of a rate is the others', who were asked for so many, of `WHOLE`. Where nothing was asked of this node
/// it has a little to begin with.
fn part_of_others(others: u64, own: u64, nodes: u64) -> u64 {
    let own = if own == 0 { (others / (2 * nodes)).max(1) } else { own };
    (u128::from(others) * u128::from(WHOLE) / u128::from(others.saturating_add(own))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_shared_by_what_is_asked() {
        assert_eq!(part_of_others(0, 0, 3), 0);
        assert_eq!(part_of_others(0, 500, 3), 0);
        assert_eq!(part_of_others(300, 100, 3), WHOLE * 3 / 4);
        // All of it together is all of it.
        let parts = [(900, 100), (800, 200), (300, 700)].map(|(o, own)| part_of_others(o, own, 3));
        assert!(parts.iter().map(|others| WHOLE - others).sum::<u64>() <= WHOLE + 3);
        // Nobody begins with nothing.
        assert!((WHOLE / 10..WHOLE / 5).contains(&(WHOLE - part_of_others(600, 0, 3))));
    }

    #[test]
    fn what_is_not_told_again_is_over() {
        let told =
            |round, apps| postcard::to_allocvec(&Told { node: "b".into(), round, apps }).unwrap();
        let doing = Doing { connections: 5, publishes: 1, subscribes: 0 };
        let mut demand = Demand::default();
        demand.hear("a", &told(1, vec![(1, doing), (2, doing)]));
        demand.hear("a", &told(2, vec![(1, doing)]));
        assert_eq!(demand.others["b"].apps.len(), 2, "the rest of the round may come");
        demand.hear("a", &told(3, vec![(1, doing)]));
        assert_eq!(demand.others["b"].apps.len(), 1);
        demand.hear("b", &told(4, vec![]));
        assert_eq!(demand.others["b"].round, 3, "its own are no other's");
        demand.forget("b");
        assert!(demand.others.is_empty());
    }
}
