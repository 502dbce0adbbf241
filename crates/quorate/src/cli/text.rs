//! How keys and values look to people: as text where they are text, escaped where they are not, and never so long that
//! a table falls apart.

const SHOWN_CHARS: usize = 60;

/// On one line, and cut.
pub fn short(bytes: &[u8]) -> String {
    let whole = escaped(bytes);
    if whole.chars().count() <= SHOWN_CHARS {
        return whole;
    }
    let cut: String = whole.chars().take(SHOWN_CHARS - 1).collect();
    format!("{cut}…")
}

/// On one line, whole. What does not print is escaped as Rust does it.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text += "\\\\",
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| text += &format!("\\x{byte:02x}"));
    }
    text
}

/// Columns as wide as what stands in them, two spaces apart.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line += &format!("{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_print_is_escaped() {
        assert_eq!(escaped("a é\n\\".as_bytes()), "a é\\n\\\\");
        assert_eq!(escaped(b"\xff\0k"), "\\xff\\u{0}k");
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(short("é".repeat(60).as_bytes()), "é".repeat(60));
        assert_eq!(short("é".repeat(61).as_bytes()).chars().count(), 60);
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "long"], ["longer", "b"], ["", ""]].map(|row| row.map(str::to_string));
        assert_eq!(table(&rows), "a       long\nlonger  b\n\n");
    }
}
