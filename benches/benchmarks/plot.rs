use std::path::Path;

use indicatif::HumanCount;
use plotters::prelude::*;

const SIZE: (u32, u32) = (720, 400);

/// A plot of some lines over one axis; both axes are logarithmic.
pub struct Plot {
    pub name: &'static str,
    pub title: String,
    pub x: &'static str,
    pub y: &'static str,
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl Plot {
    pub fn write(&self, folder: &Path) {
        self.draw(&folder.join(format!("{}.svg", self.name))).expect("the plot can be drawn");
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let reach = |of: fn(&(f64, f64)) -> f64| {
            let low = points().map(of).fold(f64::INFINITY, f64::min);
            let high = points().map(of).fold(0.0, f64::max);
            (low * 0.8..high * 1.25).log_scale()
        };
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(80)
            .build_cartesian_2d(reach(|point| point.0), reach(|point| point.1))?;
        let short = |value: &f64| {
            if *value >= 10.0 { HumanCount(value.round() as u64).to_string() } else { format!("{value}") }
        };
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(self.x).y_desc(self.y).x_label_formatter(&short).y_label_formatter(&short);
        mesh.light_line_style(TRANSPARENT).draw()?;
        for (index, (name, points)) in self.lines.iter().enumerate() {
            let colour = Palette99::pick(index).to_rgba();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        Ok(area.present()?)
    }
}
