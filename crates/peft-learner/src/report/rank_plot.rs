//! The rank that AdaLoRA left to each module, layer by projection, as SVG.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use peft_burn::adalora::KeptRank;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{LearnerError, Result};
use crate::whole_file::write_whole;

use super::loss_plot::{BLUE, GRID, INK, TITLE_HEIGHT, font};

const ROW: i32 = 84;
const FOOT: i32 = 110;
/// Room for the projections' names.
const LEFT: i32 = 460;
/// Room for the columns together, as far as each gets at least its least width.
const ACROSS: i32 = 1100;

/// Draws `ranks` into the SVG file `path`: a column for each layer, a row for each projection.
///
/// # Errors
/// [`LearnerError::Plot`] from the drawing library, [`LearnerError::Io`] from the file system.
pub fn write_rank_plot(path: impl AsRef<Path>, ranks: &[KeptRank]) -> Result<()> {
    let path = path.as_ref();
    let svg =
        draw(ranks).map_err(|error| LearnerError::Plot { file: path.to_path_buf(), message: error.to_string() })?;
    write_whole(path, svg.as_bytes())
}

/// A path's layer, its first number, and what comes after it; a path without a number is a row of its own.
fn place(path: &str) -> (Option<usize>, &str) {
    let mut from = 0;
    for part in path.split('.') {
        from += part.len() + 1;
        if let (Ok(layer), Some(rest)) = (part.parse(), path.get(from..)) {
            return (Some(layer), rest);
        }
    }
    (None, path)
}

/// The columns, the rows from top to bottom, and the modules by column and row.
type Grid<'a> = (Vec<Option<usize>>, Vec<&'a str>, BTreeMap<(usize, usize), &'a KeptRank>);

fn grid(ranks: &[KeptRank]) -> Grid<'_> {
    let places: Vec<_> = ranks.iter().map(|rank| place(&rank.path)).collect();
    let mut columns: Vec<_> = places.iter().map(|(layer, _)| *layer).collect();
    columns.sort_unstable();
    columns.dedup();
    let mut rows = Vec::new();
    for (_, row) in &places {
        if !rows.contains(row) {
            rows.push(*row);
        }
    }
    let cell = |(layer, row): &(Option<usize>, &str)| {
        Some((columns.iter().position(|c| c == layer)?, rows.iter().position(|r| r == row)?))
    };
    let cells = places.iter().zip(ranks).filter_map(|(place, rank)| Some((cell(place)?, rank))).collect();
    (columns, rows, cells)
}

fn draw(ranks: &[KeptRank]) -> Result<String, Box<dyn Error>> {
    let (columns, rows, cells) = grid(ranks);
    let (wide, top) = ((ACROSS / columns.len().max(1) as i32).clamp(48, 140), TITLE_HEIGHT as i32);
    let (right, bottom) = (LEFT + wide * columns.len() as i32, top + ROW * rows.len() as i32);
    let mut svg = String::new();
    {
        let width = (right + 60).max(1200);
        let root = SVGBackend::with_string(&mut svg, (width as u32, (bottom + FOOT) as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        let (kept, of) = ranks.iter().fold((0, 0), |(kept, of), rank| (kept + rank.rank, of + rank.of));
        let title = format!("Rank that each module kept: {kept} of {of} triplets");
        root.draw(&Text::new(title, (48, 34), font(44)))?;
        for (at, row) in rows.iter().enumerate() {
            let middle = top + ROW * at as i32 + ROW / 2;
            let style = font(30).pos(Pos::new(HPos::Right, VPos::Center));
            root.draw(&Text::new((*row).to_owned(), (LEFT - 20, middle), style))?;
        }
        let centred = |size| font(size).pos(Pos::new(HPos::Center, VPos::Center));
        for (at, layer) in columns.iter().enumerate() {
            let middle = LEFT + wide * at as i32 + wide / 2;
            let name = layer.map_or_else(String::new, |layer| layer.to_string());
            root.draw(&Text::new(name, (middle, bottom + 28), centred(28)))?;
        }
        root.draw(&Text::new("layer", ((LEFT + right) / 2, bottom + 72), centred(30)))?;
        for ((column, row), rank) in &cells {
            let (x, y) = (LEFT + wide * *column as i32, top + ROW * *row as i32);
            let share = rank.rank as f64 / rank.of.max(1) as f64;
            let cell = [(x, y), (x + wide, y + ROW)];
            root.draw(&Rectangle::new(cell, shade(share).filled()))?;
            root.draw(&Rectangle::new(cell, GRID.stroke_width(2)))?;
            let ink = if share > 0.5 { WHITE } else { INK };
            let text = centred(28).color(&ink);
            root.draw(&Text::new(rank.rank.to_string(), (x + wide / 2, y + ROW / 2), text))?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// From white, where nothing was kept, to blue, where everything was.
fn shade(share: f64) -> RGBColor {
    let mix = |full: u8| (255.0 + (f64::from(full) - 255.0) * share.clamp(0.0, 1.0)).round() as u8;
    RGBColor(mix(BLUE.0), mix(BLUE.1), mix(BLUE.2))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn kept(path: &str, rank: usize) -> KeptRank {
        KeptRank { path: path.to_owned(), rank, of: 12 }
    }

    #[test]
    fn every_module_has_its_cell_and_the_sum_is_told() {
        let ranks = [
            kept("model.layers.0.self_attn.q_proj", 12),
            kept("model.layers.0.mlp.down_proj", 0),
            kept("model.layers.10.self_attn.q_proj", 7),
            kept("model.layers.2.mlp.down_proj", 3),
            kept("score", 1),
        ];
        let (columns, rows, cells) = grid(&ranks);
        assert_eq!(columns, [None, Some(0), Some(2), Some(10)], "by number, and what has none first");
        assert_eq!(rows, ["self_attn.q_proj", "mlp.down_proj", "score"]);
        assert_eq!(cells[&(3, 0)].rank, 7);
        assert_eq!(cells.len(), 5);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ranks.svg");
        write_rank_plot(&path, &ranks).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["Rank that each module kept: 23 of 60 triplets", "self_attn.q_proj", "mlp.down_proj", "10", "7"] {
            assert!(svg.lines().any(|line| line.trim() == text), "no text `{text}`");
        }
        assert!(svg.contains(&format!("#{:02X}{:02X}{:02X}", BLUE.0, BLUE.1, BLUE.2)), "a module that kept all");
    }

    #[test]
    fn an_adapter_without_modules_can_be_drawn() {
        assert!(draw(&[]).unwrap().ends_with("</svg>\n"));
    }
}
