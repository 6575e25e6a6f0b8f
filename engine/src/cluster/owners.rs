//! Which node is to own a slot: the one whose name goes best with it, of those that are there. When a node
//! comes or goes, few slots move, and all nodes come to the same result.

use crate::hash::Placement;
use crate::ids::SlotId;

/// The same in all processes.
const SEED: u64 = 0x7075_7368_666c_6f03;

/// The node that is to own a slot.
pub(super) fn owner<'a>(slot: SlotId, nodes: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let placement = Placement::new(SEED);
    nodes.max_by_key(|node| (placement.hash((slot, node)), *node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_shared_and_few_move() {
        let of = |nodes: &[&str]| -> Vec<String> {
            SlotId::all().map(|slot| owner(slot, nodes.iter().copied()).unwrap().into()).collect()
        };
        let (three, four) = (of(&["a", "b", "c"]), of(&["d", "c", "b", "a"]));
        for node in ["a", "b", "c"] {
            let count = three.iter().filter(|owner| **owner == node).count();
            assert!((25..=60).contains(&count), "{node} has {count}");
        }
        for (before, after) in three.iter().zip(&four) {
            assert!(before == after || after == "d", "it moves from {before} to {after}");
        }
        assert_eq!(owner(SlotId(0), [].into_iter()), None);
    }
}
