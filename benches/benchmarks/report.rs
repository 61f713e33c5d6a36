use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use indicatif::HumanCount;

use crate::plot::Plot;
use crate::usage;

/// The findings of one section, as a page of Markdown with its plots.
pub struct Report {
    text: String,
    plots: Vec<Plot>,
}

impl Report {
    pub fn new(title: &str) -> Report {
        Report { text: format!("# {title}\n"), plots: Vec::new() }
    }

    pub fn paragraph(&mut self, text: impl AsRef<str>) {
        let _ = write!(self.text, "\n{}\n", text.as_ref());
    }

    /// Adds a table whose first column is text, and whose others are figures.
    pub fn table<const N: usize>(&mut self, heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
        let _ = writeln!(self.text, "\n| {} |", heads.join(" | "));
        let _ = writeln!(self.text, "|---|{}", "--:|".repeat(N - 1));
        for row in rows {
            let _ = writeln!(self.text, "| {} |", row.join(" | "));
        }
    }

    pub fn plot(&mut self, plot: Plot) {
        let _ = write!(self.text, "\n![{}]({}.svg)\n", plot.title, plot.name);
        self.plots.push(plot);
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn write(&self, folder: &Path, name: &str) {
        fs::create_dir_all(folder).expect("the folder of the results can be made");
        let command = format!("`cargo bench --bench benchmarks -- {name}`");
        let text = format!("{}\n{command} on {}.\n", self.text, usage::machine());
        fs::write(folder.join(format!("{name}.md")), text).expect("the results can be written");
        for plot in &self.plots {
            plot.write(folder);
        }
    }
}

/// The middle value: half of the others are no larger.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The value that is as large as `per_cent` per cent of the values, or larger.
pub fn percentile(values: &mut [f64], per_cent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() * per_cent).div_ceil(100)).saturating_sub(1)]
}

pub fn ratio(value: f64) -> String {
    format!("{value:.2} ×")
}

/// The number, with a comma after every third digit.
pub fn count(value: f64) -> String {
    HumanCount(value.round() as u64).to_string()
}
