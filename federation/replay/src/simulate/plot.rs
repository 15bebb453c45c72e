//! Plots as SVG, for a page that styles them by class.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
/// Room for the labels of both axes.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 42.0;
/// About so many labels on an axis.
const TICKS: f64 = 5.0;
/// Height of a bar, and of the gap between two groups of them.
const BAR: f64 = 15.0;
const GAP: f64 = 10.0;
/// Room for the names of bars, and for their values.
const NAMES: f64 = 130.0;
const VALUES: f64 = 76.0;

/// One line of a plot.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    /// Of the page's colours, from 1.
    pub(super) colour: u32,
    pub(super) is_filled: bool,
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot of lines over one axis.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) x_unit: &'a str,
    pub(super) y_unit: &'a str,
    /// The axis goes at least so far.
    pub(super) y_least: f64,
    /// What is higher is cut off.
    pub(super) y_most: f64,
    /// A line across, and what it is.
    pub(super) bound: Option<(f64, String)>,
    pub(super) lines: Vec<Line<'a>>,
}

/// A group of bars.
pub(super) struct Bars {
    pub(super) name: String,
    /// None is for ever.
    pub(super) values: Vec<Option<f64>>,
}

/// Text as it may stand in a page.
pub(super) fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// A distance between labels: 1, 2 or 5 times a power of ten.
fn tick(most: f64) -> f64 {
    let mut step = 1e-6;
    for factor in [2.0, 2.5, 2.0].into_iter().cycle().take(80) {
        if step * TICKS >= most {
            break;
        }
        step *= factor;
    }
    step
}

/// A number with as many digits as it needs.
pub(super) fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 100.0 || (value - value.round()).abs() < 1e-9 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    };
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    grouped(&text)
}

/// Digits in groups of three.
fn grouped(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut text = String::new();
    for (nth, c) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(c);
    }
    format!("{sign}{text}")
}

fn figure(title: &str, legend: &[(u32, &str)], svg: &str) -> String {
    let mut keys = String::new();
    for (colour, name) in legend {
        let _ =
            write!(keys, "<span class=\"key\"><i class=\"k{colour}\"></i>{}</span>", plain(name));
    }
    format!(
        "<figure><figcaption><b>{}</b><span class=\"keys\">{keys}</span></figcaption>{svg}</figure>\n",
        plain(title)
    )
}

impl Chart<'_> {
    /// The plot with its title and, if there is more than one line, its legend.
    pub(super) fn draw(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let least = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
        let from = if least.is_finite() { least } else { 0.0 };
        let to = points().map(|point| point.0).fold(from, f64::max);
        // Near the origin an axis begins there.
        let from = if from < to / 2.0 { from.min(0.0) } else { from };
        let to = if to > from { to } else { from + 1.0 };
        let bound = self.bound.as_ref().map_or(0.0, |bound| bound.0);
        let most = points().map(|point| point.1).fold(self.y_least.max(bound), f64::max);
        let most = most.min(self.y_most);
        let step = tick(most.max(1e-6));
        let top = (most.max(1e-6) / step).ceil() * step;
        let x = |value: f64| LEFT + (value - from) / (to - from) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value.min(top) / top * (HEIGHT - TOP - BOTTOM);
        let mut svg = self.open();
        self.axes(&mut svg, (from, to), (step, top), &x, &y);
        for line in &self.lines {
            draw_line(&mut svg, line, &x, &y);
        }
        if let Some((value, name)) = &self.bound {
            let (left, right, at) = (LEFT, WIDTH - RIGHT, y(*value));
            let _ = write!(
                svg,
                "<line class=\"bound\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"note\" x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                at - 5.0,
                plain(name)
            );
        }
        svg.push_str("</svg>");
        let legend: Vec<(u32, &str)> =
            self.lines.iter().map(|line| (line.colour, line.name)).collect();
        figure(self.title, &legend, &svg)
    }

    fn open(&self) -> String {
        let title = plain(self.title);
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">")
    }

    fn axes(
        &self,
        svg: &mut String,
        (from, to): (f64, f64),
        (step, top): (f64, f64),
        x: &impl Fn(f64) -> f64,
        y: &impl Fn(f64) -> f64,
    ) {
        let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut value = 0.0;
        while value <= top + step / 2.0 {
            let at = y(value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 7.0,
                at + 4.0,
                number(value)
            );
            value += step;
        }
        let step = tick(to - from);
        let mut value = (from / step).ceil() * step;
        while value <= to + step * 1e-6 {
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                x(value),
                floor + 16.0,
                number(value)
            );
            value += step;
        }
        let middle = LEFT + (right - LEFT) / 2.0;
        let half = TOP + (floor - TOP) / 2.0;
        let _ = write!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{floor}\" y2=\"{floor}\"/>\
             <text class=\"unit\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text class=\"unit\" transform=\"translate(13 {half}) rotate(-90)\" \
             text-anchor=\"middle\">{}</text>",
            HEIGHT - 7.0,
            plain(self.x_unit),
            plain(self.y_unit)
        );
    }
}

fn draw_line(svg: &mut String, line: &Line<'_>, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) {
    let mut path = String::new();
    for (nth, (at, value)) in line.points.iter().enumerate() {
        let letter = if nth == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{letter}{:.1} {:.1}", x(*at), y(*value));
    }
    if let (true, Some(first), Some(last)) =
        (line.is_filled, line.points.first(), line.points.last())
    {
        let floor = y(0.0);
        let _ = write!(
            svg,
            "<path class=\"area c{}\" d=\"{path}L{:.1} {floor:.1}L{:.1} {floor:.1}Z\"/>",
            line.colour,
            x(last.0),
            x(first.0)
        );
    }
    let _ = write!(svg, "<path class=\"line c{}\" d=\"{path}\"/>", line.colour);
    if line.points.len() <= 40 {
        for (at, value) in &line.points {
            let (colour, at, value) = (line.colour, x(*at), y(*value));
            let _ = write!(
                svg,
                "<circle class=\"dot c{colour}\" cx=\"{at:.1}\" cy=\"{value:.1}\" r=\"3\"/>"
            );
        }
    }
}

/// Groups of bars, one below the other, each bar with its value.
pub(super) fn bars(
    title: &str,
    legend: &[(u32, &str)],
    groups: &[Bars],
    told: fn(Option<f64>) -> String,
) -> String {
    let all = groups.iter().flat_map(|group| group.values.iter().flatten());
    let most = all.copied().fold(1e-9, f64::max);
    let per_group = legend.len() as f64 * BAR + GAP;
    let height = groups.len() as f64 * per_group + GAP;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        plain(title)
    );
    let mut top = GAP;
    for group in groups {
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            NAMES - 8.0,
            top + (per_group - GAP) / 2.0 + 4.0,
            plain(&group.name)
        );
        for ((colour, _), value) in legend.iter().zip(&group.values) {
            let full = WIDTH - NAMES - VALUES;
            let width = value.map_or(full, |value| value / most * full);
            let class = if value.is_some() { "bar" } else { "bar open" };
            let _ = write!(
                svg,
                "<rect class=\"{class} c{colour}\" x=\"{NAMES}\" y=\"{:.1}\" width=\"{width:.1}\" \
                 height=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                top + 1.0,
                BAR - 3.0,
                NAMES + width + 6.0,
                top + BAR - 3.5,
                plain(&told(*value))
            );
            top += BAR;
        }
        top += GAP;
    }
    svg.push_str("</svg>");
    figure(title, legend, &svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_at_round_numbers_and_are_few() {
        for most in [0.003, 0.9, 1.0, 7.0, 61.0, 999.0, 1_000.0, 123_456.0] {
            let step = tick(most);
            let count = (most / step).ceil();
            assert!((2.0..=5.0).contains(&count), "{most}: {step}");
        }
        assert_eq!((tick(100.0), tick(1.0)), (20.0, 0.2));
    }

    #[test]
    fn a_number_has_the_digits_that_it_needs() {
        let told = [0.0, 0.25, 1.5, 20.0, 1_234.6, 1_234_567.0].map(number);
        assert_eq!(told, ["0", "0.25", "1.5", "20", "1,235", "1,234,567"]);
    }

    #[test]
    fn a_plot_stays_within_its_frame_and_holds_no_text_as_markup() {
        let line = |points| Line { name: "<b>", colour: 1, is_filled: true, points };
        for points in [vec![], vec![(3.0, 0.0)], vec![(0.0, 1.0), (5.0, 9.0)]] {
            let chart = Chart {
                title: "a & b",
                x_unit: "days",
                y_unit: "GPUs",
                y_least: 0.0,
                y_most: f64::INFINITY,
                bound: Some((2.0, "at most".to_owned())),
                lines: vec![line(points)],
            };
            let drawn = chart.draw();
            assert!(drawn.contains("a &amp; b") && drawn.contains("&lt;b&gt;"));
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
    }
}
