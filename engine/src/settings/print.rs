//! The table for people: in Markdown, aligned so that it reads well in a terminal too.

use super::{MemoryShare, Setting, all};

/// All settings with default, range and meaning. The last line has no end.
pub fn table() -> String {
    let head = ["setting", "default", "from … to", "meaning"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(all().map(cells)).collect();
    let width = |column: fn(&[String; 4]) -> &String| {
        rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0)
    };
    let (a, b, c) =
        (width(|[key, ..]| key), width(|[_, n, ..]| n), width(|[_, _, range, _]| range));
    let mut lines: Vec<_> = rows
        .iter()
        .map(|[key, default, range, meaning]| {
            format!("| {key:<a$} | {default:>b$} | {range:<c$} | {meaning} |")
        })
        .collect();
    lines.insert(1, format!("| {:-<a$} | {:->b$}: | {:-<c$} | --- |", "", "", "", b = b - 1));
    lines.join("\n")
}

fn cells(setting: &Setting) -> [String; 4] {
    [
        format!("`{}`", setting.key),
        default(setting),
        format!("{} … {}", number(setting.least), number(setting.most)),
        setting.meaning.trim().into(),
    ]
}

fn default(setting: &Setting) -> String {
    let Setting { default, of_memory, .. } = setting;
    let share = of_memory.map(|MemoryShare { divisor, is_shared }| {
        let shards = if is_shared { " / shards" } else { "" };
        format!(", or memory / {}{shards}", number(divisor))
    });
    number(*default) + &share.unwrap_or_default()
}

/// A number as TOML reads it too: 1_000_000.
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('_');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped() {
        let numbers = [0, 999, 1_000, 65_536, 1_048_576].map(super::number);
        assert_eq!(numbers, ["0", "999", "1_000", "65_536", "1_048_576"]);
    }
}
