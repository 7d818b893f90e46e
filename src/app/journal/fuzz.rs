//! The decoders of what journalctl prints, for the fuzz targets in `fuzz/`.
//!
//! Constraint: no part of the interface; nothing else calls it.

use super::bounded::Lines;

/// A line of bounded size, and whether some of it is cut; `None`: it was given up.
pub type Line = Option<(Vec<u8>, bool)>;

/// The lines of an output that came in chunks of so many bytes.
pub fn lines(output: &[u8], chunk: usize) -> Vec<Line> {
    let (mut lines, mut all) = (Lines::default(), Vec::new());
    for mut chunk in output.chunks(chunk.max(1)) {
        while let Some(line) = lines.next(&mut chunk) {
            all.push(line.ok().map(|line| (line.json.to_vec(), line.cut)));
        }
    }
    all
}
