//! The report as one HTML file that needs nothing else: figures in a table, plots as inline SVG.
//! Axes start at zero.

use std::fmt::Write as _;

/// A line in a plot.
pub(crate) struct Series<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// One plot.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x_label: &'a str,
    pub(crate) y_label: &'a str,
    /// Where the ticks of the x axis stand, and what they say; empty: round numbers.
    pub(crate) x_ticks: Vec<(f64, String)>,
    pub(crate) series: Vec<Series<'a>>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;
const COLOURS: [&str; 4] = ["#2563eb", "#d97706", "#059669", "#7c3aed"];

/// The whole page. `rows` are name and value, `notes` stand under the table.
pub(crate) fn page(
    title: &str,
    rows: &[(String, String)],
    notes: &[String],
    plots: &[Plot<'_>],
) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\
         <style>body{{font:15px/1.5 system-ui,sans-serif;color:#1a1a2e;max-width:820px;\
         margin:40px auto;padding:0 20px}}h1{{font-size:22px}}table{{border-collapse:collapse;\
         margin:16px 0}}td{{padding:3px 24px 3px 0;vertical-align:top}}\
         td:first-child{{color:#64748b}}td+td{{font-variant-numeric:tabular-nums}}\
         svg{{display:block;margin:24px 0;max-width:100%}}text{{font:12px system-ui,sans-serif;\
         fill:#475569}}.title{{font-weight:600;font-size:14px;fill:#1a1a2e}}\
         .note{{color:#b45309}}.good{{color:#047857}}</style></head><body><h1>{0}</h1><table>",
        escape(title)
    );
    for (name, value) in rows {
        let _ = write!(out, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(value));
    }
    out.push_str("</table>");
    for note in notes {
        let class = if note.starts_with("every") { "good" } else { "note" };
        let _ = write!(out, "<p class=\"{class}\">{}</p>", escape(note));
    }
    for plot in plots.iter().filter(|plot| plot.series.iter().any(|s| s.points.len() > 1)) {
        plot.push_svg(&mut out);
    }
    out.push_str("</body></html>\n");
    out
}

impl Plot<'_> {
    fn push_svg(&self, out: &mut String) {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x_most = points().map(|point| point.0).fold(0.0, f64::max).max(1e-9);
        let y_step = step(points().map(|point| point.1).fold(0.0, f64::max).max(1e-9));
        let y_most = (points().map(|p| p.1).fold(0.0, f64::max) / y_step).ceil().max(1.0) * y_step;
        let x = |value: f64| LEFT + value / x_most * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value / y_most * (HEIGHT - TOP - BOTTOM);
        let _ = write!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\">\
             <text class=\"title\" x=\"{LEFT}\" y=\"18\">{}</text>",
            escape(self.title)
        );
        let mut tick = 0.0;
        while tick <= y_most * 1.0001 {
            let at = y(tick);
            let _ = write!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e2e8f0\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
                short(tick)
            );
            tick += y_step;
        }
        for (value, label) in self.ticks(x_most) {
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x(value),
                HEIGHT - BOTTOM + 18.0,
                escape(&label)
            );
        }
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 8.0,
            escape(self.x_label),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escape(self.y_label)
        );
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or("black");
            let line: Vec<String> =
                series.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
            let _ = write!(
                out,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                line.join(" ")
            );
            if self.series.len() > 1 {
                let at = WIDTH - RIGHT - 130.0 * (self.series.len() - index) as f64;
                let _ = write!(
                    out,
                    "<rect x=\"{at:.1}\" y=\"10\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
                     <text x=\"{:.1}\" y=\"19\">{}</text>",
                    at + 15.0,
                    escape(series.name)
                );
            }
        }
        out.push_str("</svg>");
    }

    fn ticks(&self, x_most: f64) -> Vec<(f64, String)> {
        if !self.x_ticks.is_empty() {
            return self.x_ticks.clone();
        }
        let step = step(x_most);
        let count = (x_most / step * 1.0001) as usize;
        (0..=count).map(|index| (index as f64 * step, short(index as f64 * step))).collect()
    }
}

/// A round step that cuts `most` into four to eight.
fn step(most: f64) -> f64 {
    let power = 10f64.powf((most / 4.0).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    steps.into_iter().map(|s| s * power).find(|s| most / s <= 8.0).unwrap_or(power * 10.0)
}

fn short(value: f64) -> String {
    let (value, unit) = match value {
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.3}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_few() {
        for most in [0.003, 1.0, 7.0, 99.0, 3_400_000.0] {
            let steps = most / step(most);
            assert!((1.0..=8.0).contains(&steps), "{most}: {steps}");
        }
        assert_eq!(
            (short(2_500_000.0), short(0.5), short(0.0)),
            ("2.5M".into(), "0.5".into(), "0".into())
        );
    }
}
