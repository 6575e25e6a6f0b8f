//! Which node is to own which slot: the one whose name goes best with it, of those that are there and have not
//! their share already. All nodes come to the same result, and when one comes or goes most slots stay.

use crate::hash::Placement;
use crate::ids::SlotId;

/// The same in all processes.
const SEED: u64 = 0x7075_7368_666c_6f03;

/// The node that is to own each slot, of at least one.
pub(super) fn owners(nodes: &[&str]) -> Vec<String> {
    let placement = Placement::new(SEED);
    let share = usize::from(SlotId::COUNT).div_ceil(nodes.len().max(1));
    let mut pairs: Vec<_> = SlotId::all()
        .flat_map(|slot| nodes.iter().map(move |node| (slot, *node)))
        .map(|(slot, node)| (placement.hash((slot, node)), slot, node))
        .collect();
    // Who goes best with a slot comes first.
    pairs.sort_unstable_by(|one, other| other.cmp(one));
    let mut owners = vec![String::new(); SlotId::COUNT.into()];
    let mut counts: Vec<(&str, usize)> = nodes.iter().map(|node| (*node, 0)).collect();
    for (_, slot, node) in pairs {
        let count = counts.iter_mut().find(|(name, _)| *name == node);
        if let (Some(owner), Some((_, count))) = (owners.get_mut(slot.index()), count)
            && owner.is_empty()
            && *count < share
        {
            *count += 1;
            node.clone_into(owner);
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_shared_evenly_and_most_stay() {
        let (three, four) = (owners(&["a", "b", "c"]), owners(&["d", "c", "b", "a"]));
        for (owners, nodes) in [(&three, 3), (&four, 4)] {
            for node in ["a", "b", "c", "d"].into_iter().take(nodes) {
                let count = owners.iter().filter(|owner| *owner == node).count();
                assert!(count.abs_diff(128 / nodes) <= 2, "{node} has {count} of {nodes}");
            }
        }
        let moved = three.iter().zip(&four).filter(|(before, after)| before != after).count();
        assert!(moved < 60, "{moved} slots move to a fourth node");
        assert_eq!(owners(&["b", "a", "c"]), three, "in whatever order they are named");
        assert!(owners(&["only"]).iter().all(|owner| owner == "only"));
    }
}
