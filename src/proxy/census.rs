//! How many clients there are, of what kinds.

use std::collections::HashMap;

/// Clients of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    pub language: &'static str,
    pub version: String,
    /// Of consumers.
    pub group: Option<String>,
    pub count: u64,
}

impl Clients {
    /// The largest `max` rows, none twice, and what is left together.
    pub fn bounded(rows: Vec<Self>, max: usize) -> Vec<Self> {
        const OTHER: &str = "other";
        // Spelled alike once they are in small letters.
        let mut sums: HashMap<(&'static str, String, Option<String>), u64> = HashMap::new();
        rows.into_iter().for_each(|row| *sums.entry((row.language, row.version, row.group)).or_default() += row.count);
        let rows = sums.into_iter().map(|((language, version, group), count)| Self { language, version, group, count });
        let mut rows: Vec<Self> = rows.collect();
        if rows.len() > max {
            rows.sort_by(|a, b| (b.count, &a.group, &a.version).cmp(&(a.count, &b.group, &b.version)));
            let is_consumer = |row: &Self| row.group.is_some();
            let (consumers, producers): (Vec<_>, Vec<_>) = rows.split_off(max).into_iter().partition(is_consumer);
            for (rest, group) in [(consumers, Some(OTHER.to_owned())), (producers, None)] {
                let count = rest.iter().map(|row| row.count).sum();
                let row = Self { language: OTHER, version: OTHER.to_owned(), group, count };
                let is_same =
                    |had: &&mut Self| (had.language, &had.version, &had.group) == (OTHER, &row.version, &row.group);
                match rows.iter_mut().find(is_same) {
                    Some(had) => had.count += count,
                    None if count > 0 => rows.push(row),
                    None => {}
                }
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(version: &str, group: Option<&str>, count: u64) -> Clients {
        Clients { language: "java", version: version.into(), group: group.map(str::to_owned), count }
    }

    #[test]
    fn versions_beyond_the_bound_are_told_together_and_no_client_is_left_out() {
        let many = (0..50).map(|n| row(&format!("5.{n}"), Some("g"), 1));
        let rows = many.chain([row("5.2.0", Some("g"), 9), row("5.2.0", None, 7), row("x", None, 1)]).collect();
        let told = Clients::bounded(rows, 2);
        assert_eq!(told.iter().map(|row| row.count).sum::<u64>(), 67);
        assert_eq!(told[..2], [row("5.2.0", Some("g"), 9), row("5.2.0", None, 7)]);
        let others = told.iter().filter(|row| row.version == "other").map(|row| (row.group.as_deref(), row.count));
        assert_eq!(others.collect::<Vec<_>>(), [(Some("other"), 50), (None, 1)]);
    }

    #[test]
    fn rows_that_are_spelled_alike_are_one() {
        let told = Clients::bounded(vec![row("v5", None, 1), row("v5", None, 2)], 10);
        assert_eq!(told, [row("v5", None, 3)]);
    }
}
