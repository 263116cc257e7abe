//! `publish` and `listen` against a small server of this file's own: str0m as ICE-lite, one connection, one thread.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use str0m::change::SdpOffer;
use str0m::media::Mid;
use str0m::net::{Protocol, Receive};
use str0m::rtp::{Extension, RtpPacket, RtpWrite};
use str0m::{Candidate, Event, Input, Output, Rtc};

use super::*;

/// A packet that the server sends: sequence number, timestamp, payload.
type Scripted = (u64, u32, Bytes);

/// What a server does besides answering.
#[derive(Default)]
struct Script {
    /// Sent once the connection is up, 2 ms apart.
    packets: Vec<Scripted>,
    /// Close the connection after the packets, instead of waiting for the DELETE.
    close: bool,
}

struct Server {
    url: String,
    thread: JoinHandle<Vec<RtpPacket>>,
}

impl Server {
    fn start(path: &str, script: Script) -> Self {
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}{path}", http.local_addr().unwrap());
        let thread = std::thread::spawn(move || serve(&http, script));
        Self { url, thread }
    }

    fn received(self) -> Vec<RtpPacket> {
        self.thread.join().unwrap()
    }
}

fn read_request(stream: &TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (line, String::from_utf8(body).unwrap())
}

fn serve(http: &TcpListener, script: Script) -> Vec<RtpPacket> {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let local = udp.local_addr().unwrap();
    let mut rtc = Rtc::builder()
        .set_rtp_mode(true)
        .set_ice_lite(true)
        .set_extension(9, Extension::AbsoluteCaptureTime)
        .build(Instant::now());
    rtc.add_local_candidate(Candidate::host(local, "udp").unwrap());
    let (mut stream, _) = http.accept().unwrap();
    let (line, offer) = read_request(&stream);
    assert!(line.starts_with("POST "), "{line}");
    assert_eq!(offer.matches("m=").count(), 1, "one line: {offer}");
    let answer =
        rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(&offer).unwrap()).unwrap().to_sdp_string();
    let head =
        "HTTP/1.1 201 Created\r\nContent-Type: application/sdp\r\nLocation: /leg/1\r\nConnection: close";
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()).unwrap();
    drop(stream);
    http.set_nonblocking(true).unwrap();
    Connection { rtc, udp, local, mid: None, connected: false, received: Vec::new() }.run(http, script)
}

struct Connection {
    rtc: Rtc,
    udp: UdpSocket,
    local: SocketAddr,
    mid: Option<Mid>,
    connected: bool,
    received: Vec<RtpPacket>,
}

impl Connection {
    fn run(mut self, http: &TcpListener, script: Script) -> Vec<RtpPacket> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut packets = script.packets.into_iter();
        let mut buffer = [0; 2048];
        self.udp.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        while Instant::now() < deadline {
            self.drain();
            if let Ok((length, source)) = self.udp.recv_from(&mut buffer) {
                let contents = buffer[..length].try_into().unwrap();
                let receive = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
                self.rtc.handle_input(Input::Receive(Instant::now(), receive)).unwrap();
                self.drain();
            }
            self.rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
            self.drain();
            match (self.connected, packets.next()) {
                (false, Some(first)) => {
                    packets = [first].into_iter().chain(packets).collect::<Vec<_>>().into_iter()
                }
                (true, Some(packet)) => self.send(packet),
                (true, None) if script.close => {
                    self.rtc.close().unwrap();
                    self.drain();
                    return self.received;
                }
                _ => {}
            }
            if let Ok((mut stream, _)) = http.accept() {
                stream.set_nonblocking(false).unwrap();
                assert_eq!(read_request(&stream).0.trim(), "DELETE /leg/1 HTTP/1.1");
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .unwrap();
                return self.received;
            }
        }
        panic!("the client never ended");
    }

    fn send(&mut self, (sequence, timestamp, payload): Scripted) {
        let mid = self.mid.expect("the offer has a line");
        let pt = self.rtc.media(mid).unwrap().remote_pts()[0];
        let mut direct = self.rtc.direct_api();
        let stream = direct.stream_tx_by_mid(mid, None).unwrap();
        stream.write_rtp(RtpWrite::new(pt, sequence.into(), timestamp, Instant::now(), &payload[..]));
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(_) => return,
                Output::Transmit(transmit) => {
                    self.udp.send_to(&transmit.contents, transmit.destination).unwrap();
                }
                Output::Event(Event::MediaAdded(media)) => self.mid = Some(media.mid),
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::RtpPacket(packet)) => self.received.push(packet),
                Output::Event(_) => {}
            }
        }
    }
}

fn frame(tag: u8) -> ogg::Packet {
    ogg::Packet { data: Bytes::from(vec![31 << 3, tag, tag, tag]), samples: 960 }
}

fn scripted(sequences: impl IntoIterator<Item = u64>) -> Vec<Scripted> {
    let packet = |sequence: u64| (sequence, sequence as u32 * 960, frame(sequence as u8).data);
    sequences.into_iter().map(packet).collect()
}

fn publish_to(server: &Server, packets: &[ogg::Packet], looped: bool, stop: &Stop) -> PublishOptions {
    let packets = Arc::from(packets);
    let url = server.url.clone();
    PublishOptions { url, packets, looped, stop: stop.clone(), ..PublishOptions::default() }
}

#[test]
fn a_file_arrives_frame_for_frame_at_its_times() {
    let server = Server::start("/whip/demo", Script::default());
    let file: Vec<ogg::Packet> = (0..20).map(frame).collect();
    let before = SystemTime::now();
    let report = publish(&publish_to(&server, &file, false, &Stop::new()), |_| {}).unwrap();
    assert_eq!((report.packets, report.bytes, report.rounds), (20, 80, 1));
    assert_eq!(report.audio, Duration::from_millis(400));

    let received = server.received();
    let payloads: Vec<&[u8]> = received.iter().map(|packet| &packet.payload[..]).collect();
    assert_eq!(payloads, file.iter().map(|packet| &packet.data[..]).collect::<Vec<_>>());
    assert!(received[0].header.marker && !received[1].header.marker);
    assert!(received.iter().all(|packet| *packet.header.ssrc == report.ssrc));
    for pair in received.windows(2) {
        assert_eq!(*pair[1].seq_no, *pair[0].seq_no + 1);
        assert_eq!(pair[1].header.timestamp, pair[0].header.timestamp.wrapping_add(960));
        let captured = |packet: &RtpPacket| packet.header.ext_vals.abs_capture_time.unwrap().capture_time;
        let step = captured(&pair[1]).duration_since(captured(&pair[0])).unwrap();
        assert!(step.abs_diff(Duration::from_millis(20)) < Duration::from_micros(1), "{step:?}");
        assert!(captured(&pair[0]) >= before - Duration::from_secs(1));
    }
}

#[test]
fn a_looped_file_goes_on_until_stopped() {
    let server = Server::start("/whip/demo", Script::default());
    let stop = Stop::new();
    let file = [frame(1), frame(2), frame(3)];
    let mut told = 0;
    let report = publish(&publish_to(&server, &file, true, &stop), |report| {
        told += 1;
        if report.packets > 20 {
            stop.stop();
        }
    });
    let report = report.unwrap();
    assert!(told >= 2 && report.rounds > 5, "{report:?}");
    let received = server.received();
    for (index, packet) in received.iter().enumerate() {
        assert_eq!(packet.payload[1], index as u8 % 3 + 1);
        assert_eq!(*packet.seq_no, *received[0].seq_no + index as u64, "over the loops");
        let timestamp = received[0].header.timestamp.wrapping_add(index as u32 * 960);
        assert_eq!(packet.header.timestamp, timestamp);
    }
}

/// Listens to a server's packets until `wanted` of them came, recording into a file of this test's own.
fn heard(name: &str, packets: Vec<Scripted>, wanted: u64) -> (ListenReport, Vec<ogg::Packet>) {
    let server = Server::start("/whep/demo/en", Script { packets, close: false });
    let out = std::env::temp_dir().join(format!("relayd-{}-{name}.ogg", std::process::id()));
    let stop = Stop::new();
    let time = Some(Duration::from_secs(20));
    let options = ListenOptions {
        url: server.url.clone(),
        out: Some(out.clone()),
        time,
        stop: stop.clone(),
        ..ListenOptions::default()
    };
    let report = listen(&options, |report| {
        if report.reception.packets >= wanted {
            stop.stop();
        }
    });
    server.received();
    let packets = read_file(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    (report.unwrap(), packets.to_vec())
}

#[test]
fn what_was_sent_is_in_the_recording() {
    let (report, file) = heard("clean", scripted(100..150), 50);
    assert_eq!((report.reception.packets, report.reception.lost), (50, 0));
    assert!(report.ssrc.is_some());
    assert_eq!(file, (100..150).map(|tag| frame(tag as u8)).collect::<Vec<_>>());
}

#[test]
fn order_is_restored_in_the_recording_and_holes_keep_their_length() {
    let sequences = [10, 11, 13, 12, 14, 16, 17].into_iter().chain(18..70);
    let (report, file) = heard("rough", scripted(sequences), 59);
    let stats = report.reception;
    assert_eq!((stats.packets, stats.lost, stats.out_of_order), (59, 1, 1));
    let tags: Vec<Option<u8>> =
        file.iter().map(|packet| (!packet.is_empty()).then(|| packet.data[1])).collect();
    let expected: Vec<Option<u8>> = (10..70).map(|tag| (tag != 15).then_some(tag)).collect();
    assert_eq!(tags, expected);
}

#[test]
fn hearing_nothing_is_an_error_of_its_own() {
    let server = Server::start("/whep/demo/en", Script::default());
    let time = Some(Duration::from_millis(300));
    let options = ListenOptions { url: server.url.clone(), time, ..ListenOptions::default() };
    let mut told = Vec::new();
    assert_eq!(listen(&options, |report| told.push(*report)), Err(ClientError::NoAudio));
    assert!(told.iter().all(|report| report.connected && report.reception.packets == 0) && !told.is_empty());
    server.received();
}

#[test]
fn a_server_that_closes_is_told_from_one_that_is_lost() {
    let server = Server::start("/whep/demo/en", Script { packets: scripted(0..3), close: true });
    let options = ListenOptions { url: server.url.clone(), ..ListenOptions::default() };
    let mut last = ListenReport::default();
    assert_eq!(listen(&options, |report| last = *report), Err(ClientError::Peer(PeerError::Closed)));
    assert_eq!(last.reception.packets, 3, "what was heard is told");
    assert_eq!(server.received().len(), 0);
}

#[test]
fn an_answer_that_is_none_is_refused() {
    for (answer, says) in [("v=0", "cannot be used"), ("", "cannot be used")] {
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/whep/demo", http.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            for reply in ["201 Created\r\nContent-Type: application/sdp\r\nLocation: /leg/1", "200 OK"] {
                let (mut stream, _) = http.accept().unwrap();
                let (line, _) = read_request(&stream);
                let body = if line.starts_with("POST") { answer } else { "" };
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 {reply}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                )
                .unwrap();
            }
        });
        let options = ListenOptions { url, ..ListenOptions::default() };
        let error = listen(&options, |_| {}).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        thread.join().unwrap();
    }
}
