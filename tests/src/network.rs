//! Machines that are none: network namespaces on a bridge, whose links can be cut and healed. They are gone with
//! the value.
//!
//! That takes the rights of root. Who has not those runs the test again in namespaces where it has them.

use std::net::Ipv4Addr;
use std::process::Command;

use pushflo_nats::Machine;

/// Machines that see each other and this one.
pub struct Network {
    /// What all names begin with: others may have networks, too.
    name: String,
    subnet: u8,
    count: usize,
}

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

impl Network {
    /// So many machines.
    pub fn new(count: usize) -> Self {
        let number = std::process::id();
        let network = Self {
            name: format!("pf{}", number % 100_000),
            subnet: (number % 250) as u8 + 1,
            count,
        };
        let Self { name, subnet, .. } = &network;
        let must = |arguments: String| assert!(ip(&arguments), "ip {arguments}");
        must(format!("link add {name} type bridge"));
        must(format!("addr add 10.77.{subnet}.1/24 dev {name}"));
        must(format!("link set {name} up"));
        for at in 0..count {
            let (space, link, address) = (network.space(at), network.link(at), network.address(at));
            must(format!("netns add {space}"));
            must(format!("link add {link} type veth peer name eth0 netns {space}"));
            must(format!("link set {link} master {name}"));
            must(format!("link set {link} up"));
            must(format!("-n {space} addr add {address}/24 dev eth0"));
            must(format!("-n {space} link set eth0 up"));
            must(format!("-n {space} link set lo up"));
        }
        network
    }

    /// Runs the test again where it has the rights it needs, if it has not. Returns whether it did so: the test
    /// is done then.
    pub fn rerun_with_rights(test: &str) -> bool {
        const AGAIN: &str = "PUSHFLO_TEST_IN_NAMESPACE";
        let probe = format!("pf-probe-{}", std::process::id());
        if ip(&format!("netns add {probe}")) {
            assert!(ip(&format!("netns del {probe}")));
            return false;
        }
        assert!(std::env::var_os(AGAIN).is_none(), "network namespaces cannot be made here");
        let program = std::env::current_exe().unwrap();
        let run = "mount -t tmpfs tmpfs /run && ip link set lo up && exec \"$0\" --exact \"$1\" --nocapture";
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", run])
            .arg(program)
            .arg(test)
            .env(AGAIN, "1")
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
        true
    }

    /// All of them.
    pub fn machines(&self) -> Vec<Machine> {
        let machine = |at| Machine {
            address: self.address(at).into(),
            enter: ["ip", "netns", "exec", &self.space(at)].map(str::to_owned).to_vec(),
        };
        (0..self.count).map(machine).collect()
    }

    /// Nothing gets to a machine, or from it.
    pub fn cut(&self, at: usize) {
        assert!(ip(&format!("link set {} down", self.link(at))));
    }

    /// It is reached again.
    pub fn heal(&self, at: usize) {
        assert!(ip(&format!("link set {} up", self.link(at))));
    }

    /// Nothing gets from one machine to another: to both ends the other is silent.
    pub fn part(&self, one: usize, other: usize) {
        let (space, address) = (self.space(one), self.address(other));
        assert!(ip(&format!("-n {space} route add blackhole {address}/32")));
    }

    /// They see each other again.
    pub fn join(&self, one: usize, other: usize) {
        let (space, address) = (self.space(one), self.address(other));
        assert!(ip(&format!("-n {space} route del blackhole {address}/32")));
    }

    fn space(&self, at: usize) -> String {
        format!("{}-{at}", self.name)
    }

    fn link(&self, at: usize) -> String {
        format!("{}v{at}", self.name)
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.subnet, 10 + at as u8)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for at in 0..self.count {
            ip(&format!("netns del {}", self.space(at)));
        }
        ip(&format!("link del {}", self.name));
    }
}
