//! The engine on two UDP sockets: one is the relay's, the other plays a publisher and a listener.
//!
//! Sends one second of audio through the relay, 20 ms at a time, prints what came back and ends. Plain RTP, no
//! encryption: what a server adds is in `relayd`.
//!
//!     cargo run -p relay-engine --example loopback
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "an owner has sockets and a clock")]
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use relay_engine::{Config, Epoch, LegSpec, LegState, Output, Relay, TrackSpec, rtp};

const PACKETS: u16 = 50;
const FRAME: Duration = Duration::from_millis(20);
/// One 20 ms Opus frame of silence.
const SILENCE: &[u8] = &[0xf8, 0xff, 0xfe];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    client.set_nonblocking(true)?;
    let (relay_addr, client_addr) = (socket.local_addr()?, client.local_addr()?);

    let start = Instant::now();
    let mut relay = Relay::new(Config::new(), Epoch { instant: start, wall: SystemTime::now() }, 42);
    let track = relay.open_track(start, TrackSpec { name: "en".to_owned() })?;
    let publisher = relay.open_publisher_leg(start, track, LegSpec::new(111))?;
    let (listener, leg) = relay.open_listener(start, track, LegSpec::new(96))?;
    relay.handle_leg(start, publisher, LegState::Up);
    relay.handle_leg(start, leg, LegState::Up);

    let (mut sent, mut heard) = (0, 0);
    let mut datagram = [0; 1500];
    while heard < PACKETS && start.elapsed() < Duration::from_secs(5) {
        // The far end: a packet every 20 ms out, and whatever came back.
        if sent < PACKETS && start.elapsed() >= FRAME * u32::from(sent) {
            let length = speak(sent).write(SILENCE, &mut datagram)?;
            client.send_to(&datagram[..length], relay_addr)?;
            sent += 1;
        }
        while let Ok(length) = client.recv(&mut datagram) {
            let packet = rtp::Packet::parse(Bytes::copy_from_slice(&datagram[..length]))?;
            println!("heard sequence {} timestamp {}", packet.header.sequence, packet.header.timestamp);
            heard += 1;
        }

        // The relay: sleep until the deadline or the next input, hand it in, drain.
        let now = Instant::now();
        let deadline = relay.poll_timeout().map_or(FRAME / 4, |deadline| deadline.at.duration_since(now));
        socket.set_read_timeout(Some(deadline.clamp(Duration::from_millis(1), FRAME / 4)))?;
        match socket.recv(&mut datagram) {
            Ok(length) => {
                if let Ok(packet) = rtp::Packet::parse(Bytes::copy_from_slice(&datagram[..length])) {
                    relay.handle_packet(Instant::now(), publisher, packet);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                relay.handle_timeout(Instant::now());
            }
            Err(error) => return Err(error.into()),
        }
        while let Some(output) = relay.poll_output() {
            match output {
                Output::Packet(packet) => {
                    let length = packet.write(&mut datagram)?;
                    socket.send_to(&datagram[..length], client_addr)?;
                }
                other => println!("{other:?}"),
            }
        }
    }

    println!("{:?}", relay.listener_stats(listener));
    if heard == PACKETS {
        Ok(())
    } else {
        Err(io::Error::other(format!("heard {heard} of {PACKETS}")).into())
    }
}

fn speak(n: u16) -> rtp::Emit {
    let (sequence, timestamp) = (n.wrapping_add(65_500), u32::from(n) * 960);
    rtp::Emit { payload_type: 111, sequence, timestamp, ssrc: 0x5eed, ..rtp::Emit::default() }
}
