//! A node of a cluster that another process takes the place of: it hands its slots over first, and its subscribers go
//! on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pushflo_tests::client::Subscriber;
use pushflo_tests::cluster::Cluster;
use pushflo_tests::http::{HttpClient, publish_body};
use pushflo_tests::server::SECRET_KEY;
use pushflo_tests::upgraded::EndServers;
use serde_json::json;

const CHANNELS: [&str; 4] = ["a", "b", "c", "d"];

#[test]
fn a_node_of_a_cluster_hands_its_slots_over_first() {
    let cluster = Cluster::start(2);
    let nodes = cluster.addresses();
    let _end = EndServers(cluster.data_dir(0));
    let mut subscribers: Vec<Subscriber> =
        nodes.iter().map(|node| Subscriber::connect(*node)).collect();
    for subscriber in &mut subscribers {
        CHANNELS.iter().for_each(|channel| drop(subscriber.subscribe(channel)));
    }
    let done = Arc::new(AtomicBool::new(false));
    let publisher = {
        let (done, node) = (Arc::clone(&done), nodes[1]);
        thread::spawn(move || {
            let (mut client, mut counts) = (HttpClient::connect(node), [0u64; CHANNELS.len()]);
            let mut unknown = 0;
            while !done.load(Ordering::Relaxed) {
                for (at, channel) in CHANNELS.iter().enumerate() {
                    let answer = client.publish(SECRET_KEY, &publish_body(channel, &json!("x")));
                    // Between two owners nobody takes it.
                    assert!([200, 503].contains(&answer.status), "{}", answer.text());
                    counts[at] += u64::from(answer.status == 200);
                    unknown += u64::from(answer.text().contains("UNKNOWN_OUTCOME"));
                }
            }
            (counts, unknown)
        })
    };
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(500));
        let data = cluster.data_dir(0);
        let output =
            pushflo_tests::program::run(&["upgrade", "--data-dir", data.to_str().unwrap()]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        println!("{}", String::from_utf8_lossy(&output.stdout));
        thread::sleep(Duration::from_secs(2));
    }
    done.store(true, Ordering::Relaxed);
    let (counts, unknown) = publisher.join().unwrap();
    println!("{counts:?} were taken, of {unknown} it is not known");
    for subscriber in &mut subscribers {
        let mut last = [0; CHANNELS.len()];
        let mut seen = [0; CHANNELS.len()];
        for message in subscriber.messages(counts.iter().sum::<u64>() as usize) {
            let channel = CHANNELS.iter().position(|name| *name == message.channel).unwrap();
            assert!(message.offset > last[channel], "out of order in {}", message.channel);
            last[channel] = message.offset;
            seen[channel] += 1;
        }
        // Some of those of which nothing is known were taken as well.
        subscriber.send(json!({ "type": "ping" }));
        loop {
            let event = subscriber.event();
            if event["type"] == "pong" {
                break;
            }
            let channel = CHANNELS.iter().position(|name| *name == event["channel"]).unwrap();
            seen[channel] += 1;
        }
        let more: u64 = seen.iter().sum::<u64>() - counts.iter().sum::<u64>();
        assert!(more <= unknown && seen.iter().zip(&counts).all(|(seen, count)| seen >= count));
    }
}
