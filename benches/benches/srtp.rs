//! SRTP seal of one 120-byte payload behind a 24-byte header, by profile, over 1000 legs in turn.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use relay_benches::audience::{PROFILES, keys};
use relayd::webrtc::srtp::SrtpSender;

const PAYLOAD: [u8; 120] = [0x5a; 120];
const LEGS: usize = 1000;

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("srtp/seal");
    group.throughput(Throughput::Elements(1));
    for profile in PROFILES {
        for legs in [1, LEGS] {
            let mut senders: Vec<SrtpSender> =
                (0..legs).map(|number| keys(profile, number as u64).srtp_sender(7)).collect();
            let mut header = [0; 24];
            header[0] = 0x90;
            header[8..12].copy_from_slice(&7_u32.to_be_bytes());
            let mut out = [0; 192];
            let mut count = 0_u64;
            group.bench_function(BenchmarkId::new(format!("{profile:?}"), legs), |bencher| {
                bencher.iter(|| {
                    // Each leg's index rises by one when its turn comes again.
                    let index = count / legs as u64;
                    header[2..4].copy_from_slice(&(index as u16).to_be_bytes());
                    let sender = &mut senders[(count % legs as u64) as usize];
                    count += 1;
                    black_box(sender.seal(index, &header, &PAYLOAD, &mut out).expect("the index is new"))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, seal);
criterion_main!(benches);
