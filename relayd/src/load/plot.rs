//! The report as a picture: latency and loss over time, and the distribution of the steady part. Plain SVG, no script.

use std::fmt::Write;

use super::report::{Percentiles, Report, Second};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
/// Powers of ten that an axis of milliseconds shows at least.
const LEAST_MS: f64 = 0.1;

const HEAD: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"960\" height=\"880\" viewBox=\"0 0 960 880\" \
font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"960\" height=\"880\" fill=\"#ffffff\"/>\n";

/// Writes the picture.
pub fn plot(report: &Report) -> String {
    let mut svg = Svg { text: HEAD.to_owned() };
    svg.label(LEFT, 28.0, "start", &title(report));
    over_time(&mut svg, report, Panel { top: 60.0, height: 260.0 });
    rates(&mut svg, report, Panel { top: 380.0, height: 140.0 });
    distribution(&mut svg, report, Panel { top: 580.0, height: 240.0 });
    svg.text.push_str("</svg>\n");
    svg.text
}

fn title(report: &Report) -> String {
    let (run, media) = (&report.run, &report.media);
    format!(
        "{} listeners, {} publishers, {}: {} packets, {} lost ({:.4} %), {} gaps",
        report.joins.connected,
        run.publishers,
        run.whep,
        media.packets,
        media.lost,
        media.loss_percent,
        media.gaps
    )
}

/// A part of the picture.
#[derive(Debug, Clone, Copy)]
struct Panel {
    top: f64,
    height: f64,
}

impl Panel {
    /// From the bottom (0) to the top (1).
    fn y(&self, share: f64) -> f64 {
        self.top + self.height * (1.0 - share.clamp(0.0, 1.0))
    }
}

/// From the left (0) to the right (1).
fn x(share: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * share.clamp(0.0, 1.0)
}

/// Milliseconds on a logarithmic axis of whole decades.
#[derive(Debug, Clone, Copy)]
struct Decades {
    low: f64,
    high: f64,
}

impl Decades {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .fold((10.0_f64, 1.0_f64), |(low, high), value| (low.min(value.max(LEAST_MS)), high.max(value)));
        let (low, high) = (low.log10().floor(), high.log10().ceil());
        Self { low, high: high.max(low + 1.0) }
    }

    fn share(&self, ms: f64) -> f64 {
        (ms.max(1e-3).log10() - self.low) / (self.high - self.low)
    }

    fn axis(&self, svg: &mut Svg, panel: Panel) {
        for power in self.low as i32..=self.high as i32 {
            let at = panel.y(self.share(10_f64.powi(power)));
            svg.line((LEFT, at), (WIDTH - RIGHT, at), "#dddddd");
            svg.label(LEFT - 6.0, at + 4.0, "end", &format!("{} ms", 10_f64.powi(power)));
        }
    }
}

fn over_time(svg: &mut Svg, report: &Report, panel: Panel) {
    svg.label(LEFT, panel.top - 8.0, "start", "latency over time, from when each packet was due");
    let seconds = &report.seconds;
    let lines: [(&str, &str, Pick); 3] = [
        ("p50", "#1b7837", |second| second.p50_ms),
        ("p99", "#2166ac", |second| second.p99_ms),
        ("max", "#b2182b", |second| second.max_ms),
    ];
    let all = seconds.iter().flat_map(|second| lines.iter().filter_map(|(_, _, pick)| pick(second)));
    let decades = Decades::over(all);
    decades.axis(svg, panel);
    let end = time_axis(svg, seconds, panel);
    for (at, (name, color, pick)) in lines.iter().enumerate() {
        let point = |second: &Second| pick(second).map(|ms| (x(second.at / end), panel.y(decades.share(ms))));
        svg.path(seconds.iter().filter_map(point), color);
        svg.colored(WIDTH - RIGHT - 120.0 + 40.0 * at as f64, panel.top - 8.0, color, name);
    }
}

type Pick = fn(&Second) -> Option<f64>;

fn rates(svg: &mut Svg, report: &Report, panel: Panel) {
    let seconds = &report.seconds;
    let highest = seconds.iter().map(|second| second.packets_per_second).fold(1.0, f64::max);
    let text =
        format!("packets received per second (full height: {highest:.0}), and seconds with packets missing");
    svg.label(LEFT, panel.top - 8.0, "start", &text);
    let end = time_axis(svg, seconds, panel);
    let point = |second: &Second| (x(second.at / end), panel.y(second.packets_per_second / highest));
    svg.path(seconds.iter().map(point), "#1b7837");
    for second in seconds.iter().filter(|second| second.missing > 0 || second.gaps > 0) {
        let at = x(second.at / end);
        svg.line((at, panel.y(0.0)), (at, panel.y(0.15)), "#b2182b");
    }
}

fn time_axis(svg: &mut Svg, seconds: &[Second], panel: Panel) -> f64 {
    let end = seconds.last().map_or(1.0, |second| second.at).max(1.0);
    svg.line((LEFT, panel.y(0.0)), (WIDTH - RIGHT, panel.y(0.0)), "#888888");
    let step = step(end);
    for part in 0..=(end / step) as u32 {
        let at = f64::from(part) * step;
        svg.label(x(at / end), panel.y(0.0) + 18.0, "middle", &format!("{at:.0} s"));
    }
    if let Some(steady) = seconds.iter().find(|second| second.steady) {
        let at = x((steady.at - 1.0).max(0.0) / end);
        svg.line((at, panel.y(0.0)), (at, panel.y(1.0)), "#888888");
        svg.label(at + 4.0, panel.y(1.0) + 14.0, "start", "all joined");
    }
    end
}

/// Seconds between marks: a round number, and about ten marks.
fn step(end: f64) -> f64 {
    let round = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0];
    round.into_iter().find(|step| end / step <= 11.0).unwrap_or_else(|| (end / 11.0).ceil())
}

fn distribution(svg: &mut Svg, report: &Report, panel: Panel) {
    let text =
        "how much of the latency is below: green all joined, blue while joining, grey how late it was sent";
    svg.label(LEFT, panel.top - 8.0, "start", text);
    let parts = [
        (&report.tester.late_ms, "#999999"),
        (&report.ramp.latency_ms, "#2166ac"),
        (&report.steady.latency_ms, "#1b7837"),
    ];
    let decades = Decades::over(parts.iter().flat_map(|(part, _)| points(part)).map(|(_, ms)| ms));
    decades.axis(svg, panel);
    for (at, name) in ["50 %", "90 %", "99 %", "99.9 %", "99.99 %", "all"].iter().enumerate() {
        svg.label(x(at as f64 / 5.0), panel.y(0.0) + 18.0, "middle", name);
    }
    for (part, color) in parts {
        let line = points(part).map(|(at, ms)| (x(at), panel.y(decades.share(ms))));
        svg.path(line, color);
    }
}

/// Along the axis: each further nine is a step.
fn points(part: &Percentiles) -> impl Iterator<Item = (f64, f64)> {
    let all = [part.p50, part.p90, part.p99, part.p999, part.p9999, part.max];
    (0..6_u32).zip(all).filter_map(|(at, ms)| Some((f64::from(at) / 5.0, ms?)))
}

struct Svg {
    text: String,
}

impl Svg {
    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _infallible = self.text.write_fmt(element);
    }

    fn label(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escaped(text);
        self.put(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"));
    }

    fn colored(&mut self, x: f64, y: f64, color: &str, text: &str) {
        let text = escaped(text);
        self.put(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{color}\">{text}</text>\n"));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\"/>\n"
        ));
    }

    fn path(&mut self, points: impl Iterator<Item = (f64, f64)>, color: &str) {
        let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        self.put(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\n"
        ));
    }
}

/// Addresses come from whoever typed them.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seconds: usize) -> Report {
        let mut report = Report::default();
        report.run.whep = "http://x/whep?a<b&c".into();
        report.seconds = (1..=seconds)
            .map(|at| Second {
                at: at as f64,
                steady: at > 3,
                p50_ms: Some(0.4),
                p99_ms: Some(3.0),
                max_ms: Some(if at == 5 { 70_000.0 } else { 20.0 }),
                packets_per_second: 50_000.0,
                missing: i64::from(at == 5),
                ..Second::default()
            })
            .collect();
        report
    }

    #[test]
    fn everything_lies_inside_and_nothing_is_no_number() {
        for seconds in [0, 1, 2, 40] {
            let svg = plot(&report(seconds));
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(svg.contains("a&lt;b&amp;c"));
            for points in svg.split("points=\"").skip(1) {
                let points = points.split('"').next().unwrap();
                for pair in points.split_whitespace() {
                    let (x, y) = pair.split_once(',').unwrap();
                    let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                    assert!((0.0..=960.0).contains(&x) && (0.0..=880.0).contains(&y), "{pair}");
                }
            }
        }
    }

    #[test]
    fn an_axis_covers_what_is_on_it() {
        let decades = Decades::over([0.2, 35.0].into_iter());
        assert_eq!((decades.low, decades.high), (-1.0, 2.0));
        assert!((decades.share(1.0) - 1.0 / 3.0).abs() < 1e-9);
        let nothing = Decades::over(std::iter::empty());
        assert!(nothing.high > nothing.low);
    }

    #[test]
    fn marks_are_round_and_few() {
        for (end, expected) in [(1.0, 1.0), (11.0, 1.0), (22.0, 2.0), (70.0, 10.0), (7_200.0, 1_800.0)] {
            assert_eq!(step(end), expected, "{end}");
        }
        assert!(1e6 / step(1e6) <= 11.0);
    }

    #[test]
    fn a_second_that_misses_packets_is_marked() {
        let marks = |seconds| plot(&report(seconds)).matches("#b2182b").count();
        assert_eq!(marks(10) - marks(4), 1);
    }
}
