//! Topic templates: the entries of `access.subscribe.topics` and `access.publish.topics`.
//!
//! An entry is a topic filter (`all`, `news.*`, `orders.>`, `.`) in which claims of the caller's token may stand in
//! braces (`user.{sub}`, `team-{groups}.>`). Which values claims take is the gateway's matter.

use std::fmt;
use std::str::FromStr;

use crate::name::subject::{MAX_SUBJECT_BYTES, MAX_TOKENS, Pattern};
use crate::name::topic_filter::TopicFilter;

/// A topic filter with claims in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTemplate {
    text: String,
    parts: Vec<Part>,
}

/// A piece of a template, in the order it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it stands, dots and wildcards included.
    Text(String),
    /// A claim, without its braces.
    Claim(String),
}

/// Why a text is not a template; the message says what to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace without its partner, an empty claim, or white space in one.
    #[error("a claim stands in braces, as in user.{{sub}}")]
    Claim,
    /// Two claims whose values could not be told apart: `x-y` and `z` in `{a}-{b}` read like `x` and `y-z`.
    #[error("two claims in one token need a character between them that no value holds, as in {{a}}:{{b}}")]
    Ambiguous,
    /// What remains is not a topic filter.
    #[error(transparent)]
    Pattern(#[from] crate::name::subject::PatternError),
}

// === impl TopicTemplate ===

impl TopicTemplate {
    /// The pieces, in order; joined, with a value for every claim, they are a topic filter.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The names of the claims in it.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Claim(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The filter that the template stands for if there is no claim in it. `>` grants every topic, the empty one
    /// included.
    pub fn filter(&self) -> Option<TopicFilter> {
        match self.parts.as_slice() {
            [Part::Text(text)] => grant(text).ok(),
            _ => None,
        }
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for TopicTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_SUBJECT_BYTES {
            return Err(crate::name::subject::PatternError::TooLong.into());
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let (claim, after) = behind.split_once('}').ok_or(TemplateError::Claim)?;
            if claim.is_empty() || claim.contains(|c: char| c == '{' || c.is_whitespace() || c.is_control()) {
                return Err(TemplateError::Claim);
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Claim(claim.to_owned()));
            rest = after;
        }
        if !rest.is_empty() || parts.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let template = Self { text: text.to_owned(), parts };
        template.check()?;
        if runs_together(text) {
            return Err(TemplateError::Ambiguous);
        }
        Ok(template)
    }
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TopicTemplate {
    /// A claim's value is one token or a part of one, so a template is sound when it is with `x` for every claim.
    fn check(&self) -> Result<(), TemplateError> {
        let mut sample = String::with_capacity(self.text.len());
        for part in &self.parts {
            match part {
                Part::Text(text) if text.contains('}') => return Err(TemplateError::Claim),
                Part::Text(text) => sample.push_str(text),
                Part::Claim(_) => sample.push('x'),
            }
        }
        grant(&sample)?;
        Ok(())
    }
}

/// Whether claims stand in one token with nothing between them that keeps their values apart.
pub fn runs_together(text: &str) -> bool {
    let ends = text.split('}').skip(1);
    ends.map(|behind| behind.trim_start_matches(stands_in_values)).any(|rest| rest.starts_with('{'))
}

/// Whether values of claims can hold this character; all others are written as `%` and two digits.
pub fn stands_in_values(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_!~'()%".contains(character)
}

/// What an entry without claims grants.
fn grant(text: &str) -> Result<TopicFilter, crate::name::subject::PatternError> {
    match text {
        ">" => Ok(TopicFilter::All),
        "." => Ok(TopicFilter::Empty),
        _ => text.parse::<Pattern>().map(TopicFilter::Pattern),
    }
}

const _: () = assert!(MAX_TOKENS == 32, "the rules of the definition spell out this number");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::subject::PatternError;

    fn template(text: &str) -> Result<TopicTemplate, TemplateError> {
        text.parse()
    }

    #[test]
    fn claims_stand_in_braces() {
        let read = template("team-{groups}.{https://shop.example/role}.>").unwrap();
        assert_eq!(read.claims().collect::<Vec<_>>(), ["groups", "https://shop.example/role"]);
        assert_eq!(
            read.parts(),
            [
                Part::Text("team-".into()),
                Part::Claim("groups".into()),
                Part::Text(".".into()),
                Part::Claim("https://shop.example/role".into()),
                Part::Text(".>".into()),
            ]
        );
        assert_eq!(read.filter(), None);
    }

    #[test]
    fn claims_in_one_token_are_kept_apart_by_what_no_value_holds() {
        for text in ["{a}.{b}", "{a}:{b}", "x{a}-=-{b}y.{c}", "{a}@{b}", "{a}ü{b}"] {
            assert!(template(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn without_claims_a_template_is_a_filter() {
        assert_eq!(template(">").unwrap().filter(), Some(TopicFilter::All));
        assert_eq!(template(".").unwrap().filter(), Some(TopicFilter::Empty));
        assert_eq!(template("news.*").unwrap().filter(), Some("news.*".parse().unwrap()));
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        for (text, fault) in [
            ("", PatternError::EmptyToken.into()),
            ("user..{sub}", PatternError::EmptyToken.into()),
            ("user.*{sub}", PatternError::MixedWildcard.into()),
            ("user.>.{sub}", PatternError::MisplacedTail.into()),
            ("user {sub}", PatternError::Character.into()),
            ("user.{}", TemplateError::Claim),
            ("user.{sub", TemplateError::Claim),
            ("user.sub}", TemplateError::Claim),
            ("user.{s{ub}}", TemplateError::Claim),
            ("user.{s ub}", TemplateError::Claim),
            ("{a}{b}", TemplateError::Ambiguous),
            ("x.{a}-{b}.y", TemplateError::Ambiguous),
            ("{a}:{b}-%{b}", TemplateError::Ambiguous),
        ] {
            assert_eq!(template(text), Err(fault), "{text:?}");
        }
        assert_eq!(template(&"a".repeat(256)), Err(PatternError::TooLong.into()));
    }
}
