//! The engine's fan-out in single rounds: the least and the middle, which other work on the machine disturbs little.
//!
//! A round is one packet of a publisher to all listeners, as in the `forward` group of the bench `engine`; the figures are
//! nanoseconds per packet per listener, handed out and then also written.
//! `cargo bench -p relay-benches --bench forward`
#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use relay_benches::crowd::Crowd;

fn main() {
    println!("listeners   handed out, min / median   and written, min / median");
    for listeners in [1, 100, 1_000, 10_000] {
        let (out, written) = (rounds(listeners, false), rounds(listeners, true));
        println!("{listeners:>9} {:>17.1} / {:>6.1} {:>18.1} / {:>6.1}", out.0, out.1, written.0, written.1);
    }
}

fn rounds(listeners: usize, write: bool) -> (f64, f64) {
    let mut crowd = Crowd::new(listeners);
    let mut buffer = [0; 1_500];
    let mut round = || {
        let start = Instant::now();
        crowd.publish();
        let packets = crowd.fan_out(|packet| {
            if write {
                black_box(packet.write(black_box(&mut buffer)).is_ok());
            } else {
                black_box(packet);
            }
            ControlFlow::Continue(())
        });
        assert_eq!(packets, listeners);
        start.elapsed().as_nanos() as f64 / listeners as f64
    };
    let mut figures: Vec<f64> = (0..(1_000_000 / listeners).clamp(300, 20_000)).map(|_| round()).collect();
    figures.sort_by(f64::total_cmp);
    (figures[0], figures[figures.len() / 2])
}
