//! Worlds in which nothing is left to the seed: what would take very many of them to come about.

use super::backend::{Backend, Call};
use super::client::{Client, Identity, Past};
use super::oracle::Change;
use super::world::World;

const MASK: [u8; 4] = [1, 2, 3, 4];
const ALL_HAVE_LEFT: u32 = 13 * 4;

/// A member leaves while presence is switched off and on again, and the home hears of that last: it was
/// a member of the time before, and takes nobody along who is there under the same client id.
pub fn who_leaves_late_takes_nobody_along() {
    let (mut world, home, [one, other]) = three_shards();
    let channel = (0, 0);
    world.clients =
        (0..2).map(|_| Client::new(0, Identity::Token(Some(1)), world.channels)).collect();
    world.backends = vec![Backend::new(0)];
    assert!(world.backend_connects_on(0, 0, home));
    let switch = |world: &mut World, presence: bool| {
        let change = Change::Update { is_private: Some(false), presence: Some(presence) };
        world.backends[0].ask(Call::Change { channel, change }, false, false, &mut world.oracle);
    };
    world.backends[0].ask(
        Call::Publish { content: (channel, 1), padding: 0, is_keyed: false, is_message: false },
        false,
        false,
        &mut world.oracle,
    );
    world.come_to_rest();
    switch(&mut world, true);
    for (client, shard) in [one, other].into_iter().enumerate() {
        // Until a token grants the channel.
        while world.clients[client].live_position(0).is_none() {
            if let Some(link) = world.clients[client].link.take() {
                world.clients[client].lose();
                world.cut(&link);
            }
            assert!(world.client_connects_on(client, 0, shard));
            world.come_to_rest();
            world.clients[client].subscribe(0, Past::Nothing, false, &mut world.oracle, MASK);
            world.come_to_rest();
        }
    }
    // One shard is busy; a client of it goes, and its home is not told yet.
    let link = world.clients[0].link.take().unwrap();
    world.clients[0].lose();
    world.cut(&link);
    switch(&mut world, false);
    world.come_to_rest_without(one);
    switch(&mut world, true);
    world.come_to_rest_without(one);
    world.turn(one);
    world.come_to_rest();
    world.advance(ALL_HAVE_LEFT);
    world.come_to_rest();
    world.backends[0].ask(Call::Members { channel }, false, false, &mut world.oracle);
    world.come_to_rest();
    let members = world.backends[0].members.take();
    assert_eq!(members, Some((1, vec![("m1".to_owned(), true)])));
}

/// A world of three shards or more, the home of the first channel, and two others.
fn three_shards() -> (World, usize, [usize; 2]) {
    let mut worlds = (0..).map(World::new);
    let world = worlds.find(|world| world.shards.len() >= 3).expect("one in two");
    let home = world.home_of(0);
    let mut others = (0..world.shards.len()).filter(|shard| *shard != home);
    let others = [others.next().unwrap(), others.next().unwrap()];
    (world, home, others)
}
