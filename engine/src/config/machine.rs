//! What the server runs on, as far as defaults go by it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::settings::Machine;

/// Where control groups are mounted: for all resources, and for memory in the first version.
const CGROUP_V2: &str = "/sys/fs/cgroup";
const CGROUP_V1: &str = "/sys/fs/cgroup/memory";

/// This machine, or what of it the process may use.
pub(super) fn find(shards: Option<usize>, cores: &[usize], memory_bytes: Option<u64>) -> Machine {
    let there = || core_affinity::get_core_ids().map_or(1, |cores| cores.len().max(1));
    let shards = shards.unwrap_or_else(|| if cores.is_empty() { there() } else { cores.len() });
    Machine { memory_bytes: memory_bytes.unwrap_or_else(available_bytes), shards }
}

/// The memory of the machine, or of the control groups that the process is in, if that is less.
fn available_bytes() -> u64 {
    let limits = read("/proc/self/cgroup").map_or(Vec::new(), |text| group_limits(&text));
    let machine = read("/proc/meminfo").and_then(|text| total_bytes(&text));
    limits.into_iter().chain(machine).min().unwrap_or(u64::MAX)
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// `MemTotal` of `/proc/meminfo` (proc_meminfo(5)).
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The limits of the groups that `/proc/self/cgroup` names, and of those that they are in (cgroups(7)).
fn group_limits(cgroup: &str) -> Vec<u64> {
    let files = cgroup.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        match controllers {
            "" => Some((CGROUP_V2, group, "memory.max")),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                Some((CGROUP_V1, group, "memory.limit_in_bytes"))
            }
            _ => None,
        }
    });
    let mut limits = Vec::new();
    for (mount, group, file) in files {
        let folder = PathBuf::from(mount).join(group.trim_start_matches('/'));
        // In a container the group may have another name than here: its own is mounted.
        let groups = folder.ancestors().take_while(|folder| folder.starts_with(mount));
        // No limit is `max` in one version, in the other a number that no machine has.
        limits
            .extend(groups.filter_map(|group| read(group.join(file))?.trim().parse::<u64>().ok()));
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_of_the_machine_and_its_groups() {
        let text = "MemTotal:       24689764 kB\nMemFree:         1 kB\n";
        assert_eq!(total_bytes(text), Some(24_689_764 * 1024));
        assert_eq!(total_bytes("MemFree: 1 kB"), None);
        let of_machine = read("/proc/meminfo").and_then(|text| total_bytes(&text)).unwrap();
        assert!((1 << 20..=of_machine).contains(&available_bytes()));
        assert!(
            group_limits("0::/no/such/group\n3:cpu:/\nnonsense").iter().all(|&limit| limit > 0)
        );
    }

    #[test]
    fn what_is_said_counts() {
        let said = find(Some(3), &[], Some(5));
        assert_eq!(said, Machine { memory_bytes: 5, shards: 3 });
        assert_eq!(find(None, &[1, 0], Some(5)).shards, 2);
        assert!(find(None, &[], None).shards >= 1);
    }
}
