//! The picture of how cost grows: four small plots as one SVG, readable on light and on dark pages.

use std::fmt::Write;

use crate::grow::Growth;
use crate::report::{Line, Report, Values};
use crate::server::Kind;

/// One plot: points with a logarithmic x.
struct Plot {
    title: &'static str,
    x: &'static str,
    /// Logarithmic, or from 0.
    y_is_log: bool,
    series: Vec<Series>,
}

struct Series {
    class: &'static str,
    points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 44.0;
const RIGHT: f64 = 30.0;
const BOTTOM: f64 = 48.0;
const LEGEND: f64 = 36.0;

const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600;font-size:13px}.small{font-size:11px;fill:#59636e}\
.grid{stroke:#d1d9e0;stroke-width:1}polyline{fill:none;stroke-width:2}\
.tidings{stroke:#0969da;fill:#0969da}.nchan{stroke:#bc4c00;fill:#bc4c00}.floor{stroke:#6e7781;fill:#6e7781}\
.topics{stroke-dasharray:6 4}polyline.tidings,polyline.nchan,polyline.floor{fill:none}circle{stroke:none}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.small{fill:#9198a1}.grid{stroke:#3d444d}\
.tidings{stroke:#4493f8;fill:#4493f8}.nchan{stroke:#f0883e;fill:#f0883e}.floor{stroke:#9198a1;fill:#9198a1}}";

/// Draws the lines of a run of `grow`.
pub(crate) fn growth(report: &Report) -> String {
    let by_subscribers = |figure| {
        [Kind::Floor, Kind::Nchan, Kind::Tidings]
            .map(|kind| series(report, Growth::Subscribers, kind, kind.name(), "subscribers", figure))
            .into()
    };
    let by_places = |figure| {
        let of = |growth, kind, class| series(report, growth, kind, class, "places", figure);
        vec![
            of(Growth::Channels, Kind::Nchan, "nchan"),
            of(Growth::Topics, Kind::Tidings, "tidings topics"),
            of(Growth::Channels, Kind::Tidings, "tidings"),
        ]
    };
    let plots = [
        Plot {
            title: "CPU per delivery, µs",
            x: "subscribers of one channel",
            y_is_log: false,
            series: by_subscribers("cpu_us"),
        },
        Plot {
            title: "Memory per subscriber, bytes",
            x: "subscribers of one channel",
            y_is_log: true,
            series: by_subscribers("bytes_per_subscriber"),
        },
        Plot {
            title: "CPU per delivery, µs",
            x: "channels or topics, 10,000 subscribers in all",
            y_is_log: false,
            series: by_places("cpu_us"),
        },
        Plot {
            title: "Memory per subscriber, bytes",
            x: "channels or topics, 10,000 subscribers in all",
            y_is_log: true,
            series: by_places("bytes_per_subscriber"),
        },
    ];
    let (width, height) = (2.0 * WIDTH, 2.0 * HEIGHT + LEGEND);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"CPU per delivery and memory per subscriber by subscribers, channels and topics\">\n\
         <style>{STYLE}</style>\n"
    );
    legend(&mut svg);
    for (n, plot) in plots.iter().enumerate() {
        let (x, y) = (WIDTH * (n % 2) as f64, LEGEND + HEIGHT * (n / 2) as f64);
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        plot.draw(&mut svg);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Medians over the rounds, in the order of x.
fn series(report: &Report, growth: Growth, kind: Kind, class: &'static str, x: &str, y: &str) -> Series {
    let lines = report.lines().iter().filter(|line| line.case == growth.name() && line.server == kind.name());
    let lines: Vec<&Line> = lines.collect();
    let mut places: Vec<f64> = lines.iter().filter_map(|line| line.figures.get(x).copied()).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let at = |place: f64| {
        let here = lines.iter().filter(|line| line.figures.get(x) == Some(&place));
        let values = Values::of(here.filter_map(|line| line.figures.get(y).copied()))?;
        Some((place, values.median))
    };
    Series { class, points: places.into_iter().filter_map(at).collect() }
}

fn legend(svg: &mut String) {
    let entries = [
        ("tidings", "Tidings"),
        ("tidings topics", "Tidings, topics of one channel"),
        ("nchan", "nchan"),
        ("floor", "floor of the machine"),
    ];
    let mut x = LEFT;
    for (class, name) in entries {
        let _ = writeln!(svg, "<polyline class=\"{class}\" points=\"{x},20 {},20\"/>", x + 26.0);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"24\">{name}</text>", x + 33.0);
        x += 33.0 + 7.0 * name.len() as f64 + 24.0;
    }
}

// === impl Plot ===

impl Plot {
    fn draw(&self, svg: &mut String) {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let (Some(xs), Some(ys)) =
            (Values::of(points().map(|point| point.0)), Values::of(points().map(|point| point.1)))
        else {
            return;
        };
        let (x0, x1) = (xs.least.log10().floor(), xs.most.log10().ceil().max(xs.least.log10().floor() + 1.0));
        let ticks = if self.y_is_log { decades(ys.least.max(1.0), ys.most) } else { steps(ys.most) };
        let scale = |y: f64| if self.y_is_log { y.max(1.0).log10() } else { y };
        let (y0, y1) = (ticks.first().copied().map_or(0.0, scale), ticks.last().copied().map_or(1.0, scale));
        let across = |x: f64| LEFT + (x.log10() - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
        let up = |y: f64| HEIGHT - BOTTOM - (scale(y) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
        let _ = writeln!(svg, "<text class=\"title\" x=\"{LEFT}\" y=\"24\">{}</text>", self.title);
        for tick in ticks {
            let y = up(tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                WIDTH - RIGHT
            );
            let _ = writeln!(
                svg,
                "<text class=\"small\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                number(tick)
            );
        }
        let bottom = HEIGHT - BOTTOM;
        for power in x0 as i32..=x1 as i32 {
            let value = 10f64.powi(power);
            let x = across(value);
            let _ = writeln!(svg, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>");
            let _ = writeln!(
                svg,
                "<text class=\"small\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{}\">{}</text>",
                bottom + 16.0,
                number(value)
            );
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let below = bottom + 34.0;
        let _ = writeln!(
            svg,
            "<text class=\"small\" text-anchor=\"middle\" x=\"{middle}\" y=\"{below}\">{}</text>",
            self.x
        );
        for Series { class, points } in &self.series {
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y))).collect();
            let _ = writeln!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", path.join(" "));
            for (x, y) in points {
                let _ = writeln!(
                    svg,
                    "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"><title>{}: {}</title></circle>",
                    across(*x),
                    up(*y),
                    number(*x),
                    number((*y * 100.0).round() / 100.0)
                );
            }
        }
    }
}

/// Powers of ten around the values.
fn decades(least: f64, most: f64) -> Vec<f64> {
    let (first, last) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    (first..=last.max(first + 1)).map(|power| 10f64.powi(power)).collect()
}

/// Four to eight even steps from 0 to beyond the largest value.
fn steps(most: f64) -> Vec<f64> {
    let rough = most.max(f64::MIN_POSITIVE) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
    let count = (most / step).ceil() as i32;
    (0..=count.max(1)).map(|n| f64::from(n) * step).collect()
}

/// With separators, and without a fraction that says nothing.
fn number(value: f64) -> String {
    if value < 1_000.0 {
        let text = format!("{value:.2}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Figures;

    #[test]
    fn every_point_of_every_server_is_drawn() {
        let mut report = Report::default();
        for (growth, x) in
            [(Growth::Subscribers, "subscribers"), (Growth::Channels, "places"), (Growth::Topics, "places")]
        {
            for (round, place) in [(1, 100.0), (2, 100.0), (1, 18_500.0)] {
                let figures = Figures::from([(x, place), ("cpu_us", 4.5), ("bytes_per_subscriber", 480.0)]);
                report.add(growth.name(), Kind::Tidings, round, 0.0, figures).unwrap();
            }
        }
        let svg = growth(&report);
        // Two points for each of three series, for CPU and for memory; the rounds of a point are one.
        assert_eq!(svg.matches("<circle").count(), 12, "{svg}");
        assert!(svg.contains("<title>18,500: 480</title>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn steps_and_numbers_are_round() {
        assert_eq!(steps(23.0), [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]);
        assert_eq!(decades(420.0, 9_000.0), [100.0, 1_000.0, 10_000.0]);
        assert_eq!((number(1_234_567.0), number(0.5), number(100.0)), ("1,234,567".into(), "0.5".into(), "100".into()));
    }
}
