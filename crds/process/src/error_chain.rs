//! Errors as texts.

use std::error::Error;

/// An error and its causes, outermost first.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their source in their own words.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Fault {
        text: &'static str,
        source: Option<Box<Fault>>,
    }

    #[test]
    fn causes_follow_and_one_that_is_repeated_stands_once() {
        let cause = Fault { text: "no route", source: None };
        let middle = Fault { text: "connect: no route", source: Some(Box::new(cause)) };
        let error = Fault { text: "failed to read", source: Some(Box::new(middle)) };
        assert_eq!(chain(&error), "failed to read: connect: no route");
    }
}
