//! Some consecutive rows of a chunk, whose rows stand with the workers that made them: those of one worker after those of another.

use std::ops::Range;

use statehouse_dataflows::rows::Rows;

/// See the module.
#[derive(Clone)]
pub(super) struct Cut<'a> {
    shares: &'a [Rows],
    /// Of all rows of all shares.
    range: Range<usize>,
    is_slice: bool,
}

impl<'a> Cut<'a> {
    /// All of them.
    pub(super) fn of(shares: &'a [Rows]) -> Self {
        Self { shares, range: 0..shares.iter().map(Rows::len).sum(), is_slice: false }
    }

    /// The same, said to be of a slice.
    pub(super) fn sliced(self) -> Self {
        Self { is_slice: true, ..self }
    }

    /// Whether they are of a slice.
    pub(super) fn is_slice(&self) -> bool {
        self.is_slice
    }

    /// How many rows.
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    /// These of its rows.
    pub(super) fn part(&self, rows: Range<usize>) -> Self {
        Self { range: self.range.start + rows.start..self.range.start + rows.end, ..*self }
    }

    /// The rows, share by share.
    pub(super) fn shares(&self) -> impl Iterator<Item = (&'a Rows, Range<usize>)> {
        let Range { start, end } = self.range;
        with_first(self.shares).filter_map(move |(first, rows)| {
            let own = start.saturating_sub(first)..end.saturating_sub(first).min(rows.len());
            (!own.is_empty()).then_some((rows, own))
        })
    }

    /// The first place from `near` on where another object begins; `near` itself where none does.
    pub(super) fn boundary(&self, near: usize) -> usize {
        let from = self.range.start + near;
        let begins = |(first, rows): (usize, &Rows)| Some(first + rows.begin_from(from.saturating_sub(first))?);
        let found = with_first(self.shares).find_map(begins).filter(|at| *at < self.range.end);
        found.map_or(near, |at| at - self.range.start)
    }
}

/// Shares, with the place of their first row among the rows of all.
fn with_first(shares: &[Rows]) -> impl Iterator<Item = (usize, &Rows)> {
    shares.iter().scan(0, |next, rows| {
        let first = *next;
        *next += rows.len();
        Some((first, rows))
    })
}

#[cfg(test)]
mod tests {
    use statehouse_dataflows::vocabulary::{Row, RowValue};

    use super::*;

    fn share(objects: &str) -> Rows {
        let row = |object: char| Row { partition: 0, object: object.to_string().into(), value: RowValue::Object(None) };
        Rows::of(&objects.chars().map(row).collect::<Vec<_>>())
    }

    fn objects(cut: &Cut<'_>) -> String {
        let runs = cut.shares().flat_map(|(rows, range)| rows.runs(range));
        runs.flat_map(|(object, lines)| std::iter::repeat_n(object, lines.len())).collect()
    }

    #[test]
    fn parts_cross_the_borders_of_shares() {
        let all = "aabcccd";
        let shares = [share("aab"), share(""), share("cccd")];
        let cut = Cut::of(&shares);
        for start in 0..=all.len() {
            for end in start..=all.len() {
                let part = cut.part(start..end);
                assert_eq!((objects(&part).as_str(), part.len()), (&all[start..end], end - start));
                for near in 0..=part.len() {
                    let begins = |at: &usize| start + at == 0 || all.as_bytes()[start + at - 1] != all.as_bytes()[start + at];
                    let expected = (near..part.len()).find(begins).unwrap_or(near);
                    assert_eq!(part.boundary(near), expected, "{start}..{end} near {near}");
                }
            }
        }
    }
}
