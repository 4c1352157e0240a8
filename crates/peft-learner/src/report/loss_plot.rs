//! Curves of a run as SVG: panels over a common axis of steps.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::error::{LearnerError, Result};
use crate::whole_file::write_whole;

use super::metrics::Metrics;

/// Plotters places everything on whole pixels: a large canvas, scaled by its viewer, keeps curves smooth.
pub(super) const WIDTH: u32 = 1600;
const PANEL_HEIGHT: u32 = 800;
pub(super) const TITLE_HEIGHT: u32 = 90;
pub(super) const INK: RGBColor = RGBColor(0x33, 0x3a, 0x45);
pub(super) const GRID: RGBColor = RGBColor(0xe4, 0xe8, 0xee);
const PALE_BLUE: RGBColor = RGBColor(0xa9, 0xc4, 0xe4);
pub(super) const BLUE: RGBColor = RGBColor(0x1d, 0x5f, 0xad);
const ORANGE: RGBColor = RGBColor(0xd9, 0x5f, 0x0e);

/// One chart of a picture; charts stand below one another.
struct Panel {
    /// The unit of the vertical axis.
    axis: String,
    /// Drawn in this order.
    series: Vec<Series>,
}

/// One curve.
struct Series {
    /// Its name in the legend.
    name: String,
    /// Step and value; what is not finite is left out.
    points: Vec<(f64, f64)>,
    color: RGBColor,
    /// In pixels.
    width: u32,
    /// Whether each point is marked.
    marked: bool,
}

/// The loss over the steps: of each one, smoothed, and of the evaluations.
fn loss_panel(metrics: &[Metrics]) -> Panel {
    let (mut train, mut valid) = (Vec::new(), Vec::new());
    for line in metrics {
        match line {
            // Without a regulariser, which no evaluation has.
            Metrics::Train(report) => train.push((report.step as f64, report.task_loss.unwrap_or(report.loss))),
            Metrics::Valid(report) => valid.push((report.step as f64, report.loss)),
        }
    }
    [&mut train, &mut valid].into_iter().for_each(|points| points.retain(|(_, loss)| loss.is_finite()));
    let smooth = smoothed(&train);
    let series = |name: &str, points, color, width, marked| Series { name: name.into(), points, color, width, marked };
    let all = [
        series("training", train, PALE_BLUE, 2, false),
        series("training, smoothed", smooth, BLUE, 4, false),
        series("validation", valid, ORANGE, 3, true),
    ];
    let series = all.into_iter().filter(|series| !series.points.is_empty()).collect();
    Panel { axis: "loss (nats per token)".into(), series }
}

/// AdaLoRA's triplets over the steps: how many are allowed, and how many live; `None` where no line has them.
fn triplets_panel(metrics: &[Metrics]) -> Option<Panel> {
    let (mut budget, mut live) = (Vec::new(), Vec::new());
    for line in metrics {
        if let Metrics::Train(report) = line {
            let at = |count: usize| (report.step as f64, count as f64);
            budget.extend(report.budget.map(at));
            live.extend(report.live_triplets.map(at));
        }
    }
    let series = |name: &str, points, color, width| Series { name: name.into(), points, color, width, marked: false };
    let all = vec![series("budget", budget, ORANGE, 6), series("live", live, BLUE, 2)];
    all.iter().any(|s| !s.points.is_empty()).then(|| Panel { axis: "triplets".into(), series: all })
}

/// Each point's mean with its neighbours: about a fifteenth of the run, half of it on either side.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / 30).max(2);
    let mut sums = vec![0.0];
    for (_, y) in points {
        sums.push(sums[sums.len() - 1] + y);
    }
    let mean = |(at, &(x, _)): (usize, &(f64, f64))| {
        let (from, to) = (at.saturating_sub(half), (at + half + 1).min(points.len()));
        (x, (sums[to] - sums[from]) / (to - from) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

/// Draws the losses of `metrics`, and AdaLoRA's triplets below them, under `title` into the SVG file `path`.
///
/// # Errors
/// [`LearnerError::Plot`] from the drawing library, [`LearnerError::Io`] from the file system.
pub fn write_loss_plot(path: impl AsRef<Path>, title: &str, metrics: &[Metrics]) -> Result<()> {
    let path = path.as_ref();
    let panels: Vec<_> = std::iter::once(loss_panel(metrics)).chain(triplets_panel(metrics)).collect();
    let svg = draw(title, &panels)
        .map_err(|error| LearnerError::Plot { file: path.to_path_buf(), message: error.to_string() })?;
    write_whole(path, svg.as_bytes())
}

fn draw(title: &str, panels: &[Panel]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let height = TITLE_HEIGHT + PANEL_HEIGHT * panels.len() as u32;
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(TITLE_HEIGHT);
        head.draw(&Text::new(title.to_string(), (48, 34), font(44)))?;
        let steps = range(panels.iter().flat_map(|panel| &panel.series), |point| point.0, 0.0);
        for (area, panel) in body.split_evenly((panels.len().max(1), 1)).iter().zip(panels) {
            draw_panel(area, panel, steps.clone())?;
        }
        root.present()?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_panel(area: &Area<'_>, panel: &Panel, steps: std::ops::Range<f64>) -> Result<(), Box<dyn Error>> {
    let values = range(panel.series.iter(), |point| point.1, 0.06);
    let decimals = ((2.0 - (values.end - values.start).log10()).ceil() as i32 - 1).clamp(0, 6) as usize;
    let mut chart = ChartBuilder::on(area)
        .margin_left(24)
        .margin_right(56)
        .margin_bottom(20)
        .x_label_area_size(92)
        .y_label_area_size(130)
        .build_cartesian_2d(steps, values)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc(panel.axis.as_str())
        .x_labels(11)
        .y_labels(9)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|value| format!("{value:.decimals$}"))
        .label_style(font(28))
        .axis_desc_style(font(32))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for series in &panel.series {
        let style = series.color.stroke_width(series.width);
        let finite = series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
        let points: Vec<_> = finite.collect();
        let marks = if series.marked { points.clone() } else { Vec::new() };
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(series.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 44, y)], style));
        chart.draw_series(marks.into_iter().map(|point| Circle::new(point, 8, series.color.filled())))?;
    }
    if !panel.series.is_empty() {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .margin(24)
            .legend_area_size(60)
            .background_style(WHITE.mix(0.85))
            .label_font(font(30))
            .draw()?;
    }
    Ok(())
}

pub(super) fn font(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// From the least to the largest, and `margin` of that more on both sides; never empty.
fn range<'a>(
    series: impl Iterator<Item = &'a Series>,
    part: impl Fn(&(f64, f64)) -> f64,
    margin: f64,
) -> std::ops::Range<f64> {
    let values = series.flat_map(|series| &series.points).map(part).filter(|value| value.is_finite());
    let (least, most) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| (a.min(value), b.max(value)));
    match most - least {
        span if span > 0.0 => least - margin * span..most + margin * span,
        0.0 => least - 0.5..least + 0.5,
        _ => 0.0..1.0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::report::metrics::{EvalReport, StepReport};

    fn run(steps: usize) -> Vec<Metrics> {
        let train = |step: usize| {
            let noise = ((step * 7919) % 101) as f64 / 101.0 - 0.5;
            let loss = 1.2 + 2.2 * (-(step as f64) / (steps as f64 / 4.0)).exp() + 0.5 * noise;
            Metrics::Train(StepReport { step, loss, ..StepReport::default() })
        };
        let valid = |step: usize| {
            let loss = 1.3 + 2.0 * (-(step as f64) / (steps as f64 / 4.0)).exp();
            Metrics::Valid(EvalReport { step, loss, ..EvalReport::default() })
        };
        (1..=steps).map(train).chain((0..=steps).step_by(50).map(valid)).collect()
    }

    #[test]
    fn the_picture_has_axes_curves_and_a_legend() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.svg");
        write_loss_plot(&path, "runs/quickstart", &run(300)).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in
            ["runs/quickstart", "step", "loss (nats per token)", "training, smoothed", "validation", "100", "2.0"]
        {
            assert!(svg.lines().any(|line| line.trim() == text), "no text `{text}`");
        }
        assert_eq!(svg.matches("<circle").count(), 7, "one for each evaluation");
    }

    #[test]
    fn a_run_of_one_step_none_or_nan_can_be_drawn() {
        for metrics in [Vec::new(), run(1), run(2)] {
            assert!(draw("t", &[loss_panel(&metrics)]).unwrap().ends_with("</svg>\n"));
        }
        let nan = Metrics::Train(StepReport { step: 2, loss: f64::NAN, ..StepReport::default() });
        assert!(!draw("t", &[loss_panel(&[nan])]).unwrap().contains("NaN"));
    }

    #[test]
    fn smoothing_takes_the_noise_and_neither_lags_nor_leads() {
        let slope: Vec<_> = (0..100).map(|at| (f64::from(at), f64::from(at))).collect();
        assert!(smoothed(&slope)[10..90].iter().all(|(x, y)| (x - y).abs() < 1e-9));
        let jagged: Vec<_> = (0..100).map(|at| (f64::from(at), f64::from(at % 2))).collect();
        assert!(smoothed(&jagged).iter().all(|(_, y)| (y - 0.5).abs() < 0.2));
    }
}
