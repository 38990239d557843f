//! What a search compares: folded text, its tokens, and the needles of a query.
//!
//! - **Folded** text is lower-cased character by character (so that a part of a text folds as the whole does).
//! - A **token** is a maximal run of letters and digits of folded text. The index holds a block's distinct tokens,
//!   each cut at [`TOKEN_BYTES`].
//! - A **word** of a query (whatever stands between spaces, `10.0.0.7:80` too) occurs where the folded body
//!   contains it with no letter or digit joined to its ends. Upper and lower case are the same.
//! - A **phrase** in double quotes occurs where the body contains it as it stands: case counts, and it may begin
//!   and end inside a word. `\"` and `\\` inside it stand for `"` and `\`.
//!
//! The tokens that [`Needle::tokens`] gives must all be in a block that holds a match, so the index only narrows;
//! what decides is [`Matcher::matches`] on the text.

use memchr::memmem;

/// Where tokens are cut in the index, bytes (at a character's boundary).
pub const TOKEN_BYTES: usize = 64;

/// One thing that must occur.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needle {
    /// A word, folded.
    Word(String),
    /// A phrase, as it stands.
    Phrase(String),
}

/// Why a query cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QueryError {
    /// A quote was opened and not closed.
    #[error("a quote is not closed (expected `\"a phrase\"`; a quote inside a phrase is `\\\"`)")]
    OpenQuote,
}

impl Needle {
    /// Reads a query: words and quoted phrases, separated by spaces.
    pub fn parse(query: &str) -> Result<Vec<Self>, QueryError> {
        let mut needles = Vec::new();
        let mut rest = query.trim_start();
        while let Some(first) = rest.chars().next() {
            if first == '"' {
                let mut phrase = String::new();
                let mut chars = rest[1..].char_indices();
                let end = loop {
                    match chars.next().ok_or(QueryError::OpenQuote)? {
                        (at, '"') => break at,
                        (_, '\\') => match chars.next().ok_or(QueryError::OpenQuote)?.1 {
                            next @ ('"' | '\\') => phrase.push(next),
                            other => phrase.extend(['\\', other]),
                        },
                        (_, other) => phrase.push(other),
                    }
                };
                rest = &rest[1 + end + 1..];
                if !phrase.is_empty() {
                    needles.push(Self::Phrase(phrase));
                }
            } else {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let mut word = String::new();
                fold_into(&rest[..end], &mut word);
                needles.push(Self::Word(word));
                rest = &rest[end..];
            }
            rest = rest.trim_start();
        }
        Ok(needles)
    }

    /// Tokens that a block must hold for the needle to occur in it.
    pub fn tokens(&self) -> Vec<String> {
        match self {
            Self::Word(word) => tokens(word).map(|token| cut(token).to_owned()).collect(),
            // A phrase may begin and end inside a word: only what is bounded inside it is a whole token.
            Self::Phrase(phrase) => {
                let inner = phrase.trim_start_matches(is_word).trim_end_matches(is_word);
                let mut folded = String::new();
                fold_into(inner, &mut folded);
                tokens(&folded).map(|token| cut(token).to_owned()).collect()
            }
        }
    }
}

/// Decides whether all needles occur in a body; keeps its buffer from body to body.
pub struct Matcher {
    words: Vec<memmem::Finder<'static>>,
    phrases: Vec<memmem::Finder<'static>>,
    folded: String,
}

impl Matcher {
    /// For these needles.
    pub fn new(needles: &[Needle]) -> Self {
        let mut words = Vec::new();
        let mut phrases = Vec::new();
        for needle in needles {
            match needle {
                Needle::Word(word) => words.push(memmem::Finder::new(word).into_owned()),
                Needle::Phrase(phrase) => phrases.push(memmem::Finder::new(phrase).into_owned()),
            }
        }
        Self { words, phrases, folded: String::new() }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty() && self.phrases.is_empty()
    }

    /// Whether all needles occur. A body that is not UTF-8 (stored ones are) matches no word.
    pub fn matches(&mut self, body: &[u8]) -> bool {
        if !self.phrases.iter().all(|phrase| phrase.find(body).is_some()) {
            return false;
        }
        if self.words.is_empty() {
            return true;
        }
        let Ok(body) = std::str::from_utf8(body) else { return false };
        self.folded.clear();
        fold_into(body, &mut self.folded);
        let folded = self.folded.as_str();
        self.words.iter().all(|word| occurs(word, folded))
    }
}

/// Whether `word` stands in `text` with no letter or digit joined to an end of it that is one itself.
fn occurs(word: &memmem::Finder<'_>, text: &str) -> bool {
    let Ok(needle) = std::str::from_utf8(word.needle()) else { return false };
    let joins_before = needle.chars().next().is_some_and(is_word);
    let joins_after = needle.chars().next_back().is_some_and(is_word);
    let mut from = 0;
    while let Some(found) = text.get(from..).and_then(|rest| word.find(rest.as_bytes())) {
        let start = from + found;
        let end = start + needle.len();
        let before = joins_before && text[..start].chars().next_back().is_some_and(is_word);
        let after = joins_after && text[end..].chars().next().is_some_and(is_word);
        if !before && !after {
            return true;
        }
        from = start + needle.chars().next().map_or(1, char::len_utf8);
    }
    false
}

/// Appends `text` folded.
pub fn fold_into(text: &str, out: &mut String) {
    if text.is_ascii() {
        let start = out.len();
        out.push_str(text);
        out[start..].make_ascii_lowercase();
    } else {
        out.extend(text.chars().flat_map(char::to_lowercase));
    }
}

/// The tokens of folded text, uncut.
pub fn tokens(folded: &str) -> impl Iterator<Item = &str> {
    folded.split(|c| !is_word(c)).filter(|token| !token.is_empty())
}

/// A token as the index holds it.
pub fn cut(token: &str) -> &str {
    &token[..token.floor_char_boundary(TOKEN_BYTES)]
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn found(query: &str, body: &str) -> bool {
        Matcher::new(&Needle::parse(query).unwrap()).matches(body.as_bytes())
    }

    #[test]
    fn words_must_all_occur_whole_in_any_case() {
        assert!(found("TIMEOUT upstream", "Upstream: timeout after 3s"));
        assert!(!found("timeout upstreams", "Upstream: timeout after 3s"));
        assert!(!found("time", "timeout"));
        assert!(found("10.0.0.7:80", "from 10.0.0.7:80."));
        assert!(!found("10.0.0.7", "from 110.0.0.7"));
        assert!(found("=>", "a=>b"));
        assert!(found("ärger", "großer ÄRGER"));
        assert!(found("", "anything"));
        assert!(found("aa", "aaa aa"));
    }

    #[test]
    fn a_phrase_must_occur_as_it_stands() {
        assert!(found(r#""ut after""#, "timeout after 3s"));
        assert!(!found(r#""Timeout after""#, "timeout after 3s"));
        assert!(found(r#""say \"hi\"" now"#, r#"say "hi" NOW"#));
        assert!(found(r#""a  b""#, "a  b"));
        assert!(!found(r#""a b""#, "a  b"));
        assert_eq!(Needle::parse(r#"x "y"#), Err(QueryError::OpenQuote));
        assert_eq!(Needle::parse(r#""" "#), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn whatever_matches_has_the_needles_tokens(
            body in "([a-cA-CéÉİßſ0-2]{0,3}[ .=\"-]{0,2}){0,12}", query in "([a-cA-Cé\u{130}ß0-2]{1,2}[ .=\"]{0,1}){1,3}"
        ) {
            if let Ok(needles) = Needle::parse(&query) {
                let mut folded = String::new();
                fold_into(&body, &mut folded);
                let held: HashSet<&str> = tokens(&folded).map(cut).collect();
                if Matcher::new(&needles).matches(body.as_bytes()) {
                    for needle in &needles {
                        for token in needle.tokens() {
                            prop_assert!(held.contains(token.as_str()), "{token:?} of {needle:?} in {body:?}");
                        }
                    }
                }
            }
        }

        #[test]
        fn any_query_is_read_or_refused(query: String, body: String) {
            if let Ok(needles) = Needle::parse(&query) {
                Matcher::new(&needles).matches(body.as_bytes());
            }
        }
    }
}
