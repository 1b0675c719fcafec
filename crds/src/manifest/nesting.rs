//! How deep a YAML text is nested, found out before it is parsed: the parser's time grows with size times depth, so that a
//! megabyte of opening brackets costs minutes.
//!
//! Only brackets and braces are counted: nesting by indentation costs the parser nothing more, and it has a bound of its own.
//! What is quoted cannot be told for certain without parsing. So brackets are counted twice: without what looks like a quoted
//! text, up to [`DEEPEST`]; and wherever they stand, up to `MOST_OPEN`, which no text that people write comes near.

/// As deep as serde_yaml reads at most; a manifest has ten levels.
pub const DEEPEST: usize = 128;

/// Brackets that may be open if those in texts count as well: with so many, the largest file takes about two seconds.
const MOST_OPEN: usize = 4000;

/// The line, counted from 1, at which a text becomes too deep, if it does.
pub fn too_deep(text: &str) -> Option<usize> {
    let (mut all, mut unquoted) = (0_usize, 0_usize);
    let mut quote: Option<char> = None;
    for (number, line) in text.lines().enumerate() {
        let (mut before, mut escaped) = (' ', false);
        for character in line.chars() {
            let open = quote.is_none();
            if character == '#' && before.is_whitespace() && open {
                break;
            }
            match character {
                '[' | '{' => {
                    all += 1;
                    unquoted += usize::from(open);
                }
                ']' | '}' => {
                    all = all.saturating_sub(1);
                    unquoted = unquoted.saturating_sub(usize::from(open));
                }
                '"' if quote == Some('"') && !escaped => quote = None,
                '\'' if quote == Some('\'') => quote = None,
                // A text begins where a value may begin; elsewhere it is an apostrophe. Two in a text are one.
                '"' | '\'' if open && (before.is_whitespace() || "[]{},:'".contains(before)) => quote = Some(character),
                _ => {}
            }
            if unquoted > DEEPEST || all > MOST_OPEN {
                return Some(number + 1);
            }
            escaped = character == '\\' && !escaped;
            before = character;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_count_wherever_they_may_be_brackets() {
        let deep = "[".repeat(DEEPEST + 1);
        assert_eq!(too_deep(&format!("a: 1\nb: {deep}")), Some(2));
        assert_eq!(too_deep(&"{a: ".repeat(DEEPEST + 1)), Some(1));
        assert_eq!(too_deep(&format!("it: don't\nb: {deep}")), Some(2));
        assert_eq!(too_deep(&format!("it: 'open\nb: {}", "[".repeat(MOST_OPEN + 1))), Some(2));
        // Closing brackets that are texts or comments hide nothing.
        assert_eq!(too_deep(&"[ # ]\n".repeat(DEEPEST + 1)), Some(DEEPEST + 1));
        for closing in [r#""]""#, r#""\"]""#, "']'", r"'\', ']'", "'it''s ]'"] {
            assert_eq!(too_deep(&format!("[ {closing}, ").repeat(DEEPEST + 1)), Some(1), "{closing}");
        }
    }

    #[test]
    fn what_people_write_is_not_deep() {
        assert_eq!(too_deep(&"{\"a\": [\"[\", {\"b\": \"\\\"{\"}]}\n".repeat(1000)), None);
        assert_eq!(too_deep("# [ [ [\na: \"[[[\"\nb: it's [fine]\n"), None);
        assert_eq!(too_deep(&format!("# {}", "[".repeat(10_000))), None);
    }
}
