//! A port for each shard.

use std::collections::BTreeSet;

use super::lifecycle::{fragment, take_restart};
use super::peer::{Relay, converse};
use relayd::shard::{ShardConfig, ShardsConfig};
use relayd::webrtc::{IfMatch, Patched, Role};
use str0m::IceCreds;

#[tokio::test(flavor = "multi_thread")]
async fn each_shards_peers_send_to_its_port_and_hear_from_it() {
    let shards = ShardsConfig { count: 3, spill: 1, ..ShardConfig::default().into() };
    let relay = Relay::start_with(|config| config.port_per_shard = true, shards).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(relay.connected(Role::Listener).await);
    }
    let port = |above: u8| relay.address().port() + u16::from(above);
    for peer in peers.iter().chain([&publisher]) {
        assert_eq!(peer.candidate().port(), port(peer.joined().leg.relay()));
    }
    let ports: BTreeSet<u16> = peers.iter().map(|peer| peer.candidate().port()).collect();
    assert_eq!(ports, (0..3).map(port).collect(), "a listener is on each shard");
    assert_eq!(publisher.candidate().port(), port(relay.track.relay()));

    let [first, second, third] = &mut peers[..] else { unreachable!("there are three") };
    converse(&mut publisher, &mut [&mut *first, &mut *second, &mut *third], 0..20);
    for peer in [&mut *first, &mut *second, &mut *third, &mut publisher] {
        let ours = IceCreds::new();
        let patched =
            relay.connections.patch(&peer.joined().resource, IfMatch::Any, fragment(&ours)).await.unwrap();
        let Patched::Restarted { fragment: reply, .. } = patched else { panic!("{patched:?}") };
        assert!(reply.contains(&format!(" {} typ host", peer.candidate().port())), "{reply}");
        take_restart(peer, ours, &reply);
    }
    converse(&mut publisher, &mut [&mut *first, &mut *second, &mut *third], 20..60);
    for peer in [&*first, &*second, &*third] {
        assert_eq!(peer.numbers(), (0..60).collect::<Vec<_>>());
        assert_eq!(
            peer.sources,
            BTreeSet::from([peer.candidate()]),
            "all of it from where it was told to send to"
        );
    }
    assert_eq!(publisher.sources, BTreeSet::from([publisher.candidate()]));
    relay.stop().await;
}
