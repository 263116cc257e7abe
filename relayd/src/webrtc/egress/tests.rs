use std::time::Duration;

use super::*;

fn receiver(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn batch(address: &str) -> Batch {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    Batch::new(socket).unwrap()
}

fn put(batch: &mut Batch, packet: &[u8], destination: &Destination) {
    batch.slot(packet.len()).unwrap()[..packet.len()].copy_from_slice(packet);
    batch.commit(packet.len(), destination);
}

fn read(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

/// Whether this machine has IPv6 on its loopback at all.
fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

#[test]
fn more_than_a_batch_arrives_whole_and_in_order() {
    let (mut batch, peer) = (batch("127.0.0.1:0"), receiver("127.0.0.1:0"));
    let destination = batch.destination(peer.local_addr().unwrap());
    let packet = |number: usize| vec![number as u8; 1 + number * 7 % 400];
    for number in 0..150 {
        put(&mut batch, &packet(number), &destination);
    }
    batch.flush();
    for number in 0..150 {
        assert_eq!(read(&peer), packet(number), "{number}");
    }
    let counters = batch.counters();
    assert_eq!(counters.packets, 150);
    assert_eq!(counters.bytes, (0..150).map(|number| packet(number).len() as u64).sum::<u64>());
    assert_eq!(counters.errors(), 0);
    #[cfg(target_os = "linux")]
    assert_eq!(counters.calls, 3, "64, 64 and the rest");
}

#[test]
fn every_length_up_to_the_mtu_is_sent_and_none_beyond() {
    let (mut batch, peer) = (batch("127.0.0.1:0"), receiver("127.0.0.1:0"));
    let destination = batch.destination(peer.local_addr().unwrap());
    for length in [0, 1, 191, 192, 193, 1199, 1500] {
        put(&mut batch, &vec![7; length], &destination);
        batch.flush();
        assert_eq!(read(&peer).len(), length);
    }
    assert!(batch.slot(1501).is_none());
}

#[test]
fn a_slot_that_is_not_committed_is_lent_again() {
    let (mut batch, peer) = (batch("127.0.0.1:0"), receiver("127.0.0.1:0"));
    let destination = batch.destination(peer.local_addr().unwrap());
    batch.slot(10).unwrap()[..10].fill(1);
    put(&mut batch, b"second", &destination);
    batch.flush();
    assert_eq!(read(&peer), b"second");
    assert_eq!(batch.counters().packets, 1);
}

#[test]
fn ipv6_destinations_are_reached() {
    if !has_ipv6() {
        return;
    }
    let (mut batch, peer) = (batch("[::1]:0"), receiver("[::1]:0"));
    let destination = batch.destination(peer.local_addr().unwrap());
    put(&mut batch, b"six", &destination);
    batch.flush();
    assert_eq!(read(&peer), b"six");
}

#[test]
fn a_dual_stack_socket_reaches_ipv4_by_mapped_addresses() {
    if !has_ipv6() {
        return;
    }
    let (mut batch, peer) = (batch("[::]:0"), receiver("127.0.0.1:0"));
    let destination = batch.destination(peer.local_addr().unwrap());
    put(&mut batch, b"mapped", &destination);
    batch.flush();
    assert_eq!(read(&peer), b"mapped");
}

#[test]
fn a_mapped_address_is_unmapped_for_an_ipv4_socket() {
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:9".parse().unwrap();
    assert_eq!(Family::V4.fit(mapped), "127.0.0.1:9".parse().unwrap());
    let other: SocketAddr = "[2001:db8::1]:9".parse().unwrap();
    assert_eq!(Family::V4.fit(other), other);
}

#[test]
fn destinations_that_fail_cost_nobody_else_a_packet() {
    let (mut batch, peer) = (batch("127.0.0.1:0"), receiver("127.0.0.1:0"));
    let good = batch.destination(peer.local_addr().unwrap());
    let other_family = batch.destination("[2001:db8::1]:9".parse().unwrap());
    let broadcast = batch.destination("255.255.255.255:9".parse().unwrap());
    for number in 0..60u8 {
        let destination = match number % 3 {
            0 => &other_family,
            1 => &broadcast,
            _ => &good,
        };
        put(&mut batch, &[number], destination);
    }
    batch.flush();
    for number in (0..60u8).filter(|number| number % 3 == 2) {
        assert_eq!(read(&peer), [number]);
    }
    assert_eq!(batch.counters().packets, 20);
    assert_eq!(batch.counters().unreachable, 40, "{:?}", batch.counters());
}

/// A datagram pair whose reader does not read stands in for a device that takes nothing: on loopback a UDP send
/// buffer is never full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_send_buffer_is_counted_and_neither_stalls_nor_ends_the_batch() {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    let (writer, reader) = UnixDatagram::pair().unwrap();
    reader.set_nonblocking(true).unwrap();
    let writer = UdpSocket::from(OwnedFd::from(writer));
    let mut counters = EgressCounters::default();
    let slots = [Slot { length: 1400, long: true, destination: Destination::default() }; BATCH];
    let long = vec![0; BATCH * MAX_DATAGRAM];
    let packets = Packets { short: &[], long: &long, slots: &slots };
    while counters.full == 0 {
        send(&writer, &packets, &mut counters);
    }
    let sent = counters.packets;
    assert_eq!((sent + counters.full) % BATCH as u64, 0, "each packet is either sent or counted");
    while reader.recv(&mut [0; 1400]).is_ok() {}
    send(&writer, &packets, &mut counters);
    assert!(counters.packets > sent, "what comes after a full buffer is sent again");
}

#[test]
fn each_errno_has_its_counter() {
    let mut counters = EgressCounters::default();
    for errno in [libc::EAGAIN, libc::ENOBUFS, libc::ECONNREFUSED, libc::EPERM, libc::EMSGSIZE, libc::EIO] {
        counters.refused(&io::Error::from_raw_os_error(errno));
    }
    let expected =
        EgressCounters { full: 2, unreachable: 2, too_long: 1, failed: 1, ..EgressCounters::default() };
    assert_eq!(counters, expected);
    assert_eq!(counters.errors(), 6);
}
