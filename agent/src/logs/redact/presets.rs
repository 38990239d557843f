//! What the named rules find. ASCII only; each is a function of the text, linear in it.

use std::ops::Range;

use regex::Regex;

use super::{Place, compile};

/// The named rules.
pub const NAMES: [&str; 4] = ["email", "card", "bearer", "key"];

/// An address as people write it (the dot-atom of RFC 5322, section 3.2.3, without its rarer signs) at a host with a dot.
const EMAIL: &str = r"[A-Za-z0-9._%+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}";

/// Bearer tokens (RFC 6750, section 2.1: b64token), credentials in an Authorization header, and JSON Web Tokens (RFC 7515,
/// section 7.1: three parts; the first two are JSON objects, so they begin with `{"` in base64).
///
/// Of a header's value the name of a scheme that is known stays (RFC 9110, section 11.4: `scheme token68`, or `scheme` and a
/// list of parameters). What stands in quotes or in a list goes as a whole, however many values it has; without either, a
/// word that is no known scheme goes with the one behind it: which of the two is the credential cannot be told.
const BEARER: &str = concat!(
    r#"(?i-u:authorization)\\?["']?\s*[=:]\s*(?:"#,
    // In quotes: JSON in a string, JSON, and others; first lists of them.
    r#"(?:[\[(]\s*)+\\"@((?:[^"\\]|\\\\(?:\\.|[^\\]))+(?:\\"\s*,\s*\\"(?:[^"\\]|\\\\(?:\\.|[^\\]))*)*)"#,
    r#"|\\"@((?:[^"\\]|\\\\(?:\\.|[^\\]))+)"#,
    r#"|(?:[\[(]\s*)+"@((?:[^"\\]|\\.)+(?:"\s*,\s*"(?:[^"\\]|\\.)*)*)"#,
    r#"|"@((?:[^"\\]|\\.)+)"#,
    r#"|(?:[\[(]\s*)+'@([^']+(?:'\s*,\s*'[^']*)*)"#,
    r#"|'@([^']+)"#,
    // A list without quotes, as Go and Java print it. A bracket that the credential itself begins with, and its end, belong to
    // it: the replacement may have them, and is not to be found again.
    r#"|\[\s*(?:SCHEME)\s+((?:\[[^"'\\\[\]]*\]|[^"'\\\[\]])+)"#,
    r#"|(\[[^"'\\\[\]]+(?:\]|\z))"#,
    r#"|[({\s]*(?:SCHEME)\s+(PARAMS|WORD)"#,
    r#"|[({\s]*(WORD)(?:[ \t]+(PARAMS|WORD))?)"#,
    r#"|(?i-u:bearer)(?:\s|%20|[+:=])+\\?["']?([A-Za-z0-9._~+/=-]{8,})"#,
    r"|(eyJ[A-Za-z0-9_-]{5,}\.eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*)",
);
/// What stands for these in [`BEARER`] (there `@` is a scheme that may stand or not): the schemes that are known, ...
const SCHEME: &str = "(?i-u:basic|bearer|digest|negotiate|ntlm|token|api-?key|dpop|aws4-hmac-sha256|aws|splunk|ssws|hawk|sharedkey(?:lite)?|oauth|jwt|bot|mac|geniekey|key)";
/// ... one word, ...
const WORD: &str = r#"[^\s"'\\,;]+"#;
/// ... and a list of parameters.
const PARAMS: &str = concat!(
    r#"[A-Za-z0-9_-]+=(?:\\?"[^"\\]*\\?"|[^\s"'\\,;]+)"#,
    r#"(?:\s*,\s*[A-Za-z0-9_-]+=(?:\\?"[^"\\]*\\?"|[^\s"'\\,;]*))*"#,
);

fn bearer() -> String {
    BEARER
        .replace('@', r"(?:SCHEME\s+)?")
        .replace("SCHEME", SCHEME)
        .replace("PARAMS", PARAMS)
        .replace("WORD", WORD)
}

/// Private key blocks (RFC 7468; to the end where theirs is missing), key ids and tokens with a known beginning (AWS, GitHub,
/// GitLab, Slack, Google, Stripe), the password in a URL, and the value behind a name that ends in password, secret, token, …
const KEY: &str = concat!(
    r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z))",
    r"|((?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16})",
    r"|(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}|xox[abeprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35}|[rs]k_live_[A-Za-z0-9]{16,})",
    r#"|://[^\s/:@"']*:([^\s/@"']+)@"#,
    r#"|(?i-u:passw(?:or)?d|passphrase|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|secret[_-]?key|account[_-]?key|credentials?)"#,
    r#"(?:\\?["'])?\s*[=:]\s*(?:"#,
    // In JSON in a string, then in JSON, each with its escapes, then in quotes; first lists of them, which go as a whole.
    r#"(?:[\[(]\s*)+\\"((?:[^"\\]|\\\\(?:\\.|[^\\]))+(?:\\"\s*,\s*\\"(?:[^"\\]|\\\\(?:\\.|[^\\]))*)*)"#,
    r#"|\\"((?:[^"\\]|\\\\(?:\\.|[^\\]))+)"#,
    r#"|(?:[\[(]\s*)+"((?:[^"\\]|\\.)+(?:"\s*,\s*"(?:[^"\\]|\\.)*)*)|"((?:[^"\\]|\\.)+)"#,
    r#"|(?:[\[(]\s*)+'([^']+(?:'\s*,\s*'[^']*)*)|'([^']+)"#,
    // Without any quotes. A bracket and its end belong to the value: the replacement may have them, and is not to be found again.
    r#"|(\[[^"'\\\[\]{}]+(?:\][^\s"'\\,;&<>{}()\[\]|]*|\z)|\[[^\s"'\\,;&<>{}()\[\]|]+|[^\s"'\\,;&<>{}()\[\]|]+))"#,
);

/// What looks for secrets.
#[derive(Debug)]
pub enum Finder {
    /// A pattern: all of a match, or what its first group that takes part has.
    Pattern {
        /// The pattern.
        regex: Regex,
        /// Of the groups of a match that take part, how many are replaced; 0 = the match is.
        groups: usize,
    },
    /// Card numbers.
    Card,
}

/// A named rule.
pub fn preset(name: &str) -> Option<Finder> {
    let finder = match name {
        "email" => Finder::pattern(EMAIL),
        "card" => return Some(Finder::Card),
        "bearer" => Finder::pattern(&bearer()),
        "key" => Finder::pattern(KEY),
        _ => return None,
    };
    Some(finder.ok()?.with_all_groups())
}

impl Finder {
    /// Looks for a pattern.
    pub fn pattern(pattern: &str) -> Result<Self, regex::Error> {
        let regex = compile(pattern)?;
        let groups = usize::from(regex.captures_len() > 1);
        Ok(Self::Pattern { regex, groups })
    }

    fn with_all_groups(self) -> Self {
        match self {
            Self::Pattern { regex, groups: 1 } => Self::Pattern { regex, groups: usize::MAX },
            other => other,
        }
    }

    /// The first place that begins at `from` or behind.
    pub(super) fn find(&self, text: &str, from: usize) -> Option<Place> {
        if from > text.len() {
            return None;
        }
        match self {
            Self::Card => {
                card(text.as_bytes(), from).map(|found| Place { whole: found.clone(), secrets: vec![found] })
            }
            Self::Pattern { regex, groups } => {
                let whole = regex.find_at(text, from)?.range();
                if *groups == 0 {
                    return Some(Place { secrets: vec![whole.clone()], whole });
                }
                let captures = regex.captures_at(text, from)?;
                let taking_part = captures.iter().skip(1).flatten().take(*groups).map(|group| group.range());
                let mut secrets: Vec<_> = taking_part.collect();
                if secrets.is_empty() {
                    secrets.push(whole.clone());
                }
                Some(Place { whole, secrets })
            }
        }
    }
}

/// Longest and shortest number that is taken for a card's (ISO/IEC 7812-1 has 10 to 19 digits; those of the brands below 14
/// to 19).
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 14..=19;
/// How the digits stand on cards and in forms, longest first.
const LAYOUTS: [&[usize]; 4] = [&[4, 4, 4, 4, 3], &[4, 4, 4, 4], &[4, 6, 5], &[4, 6, 4]];

/// The first card number: a run of digits by itself, or groups of a card's layout with one kind of separator (space or
/// hyphen); with a brand's prefix and a right check digit (Luhn, ISO/IEC 7812-1 annex B). Digits behind a decimal point are
/// a fraction.
fn card(text: &[u8], from: usize) -> Option<Range<usize>> {
    let mut at = from;
    while let Some(start) = text.get(at..)?.iter().position(u8::is_ascii_digit).map(|found| at + found) {
        let end = run(text, start, usize::MAX);
        at = end;
        let before = start.checked_sub(1).map(|before| text[before]);
        let is_fraction = before == Some(b'.') && start >= 2 && text[start - 2].is_ascii_digit();
        if is_fraction || before.is_some_and(|before| before.is_ascii_digit()) {
            continue;
        }
        if CARD_DIGITS.contains(&(end - start)) && is_card(text[start..end].iter().copied()) {
            return Some(start..end);
        }
        let Some(separator) = text.get(end).copied().filter(|byte| matches!(byte, b' ' | b'-')) else {
            continue;
        };
        for layout in LAYOUTS {
            if let Some(end) = grouped(text, start, separator, layout)
                && is_card(text[start..end].iter().copied().filter(u8::is_ascii_digit))
            {
                return Some(start..end);
            }
        }
    }
    None
}

/// End of the run of digits at `start`; of `most` digits if it is longer.
fn run(text: &[u8], start: usize, most: usize) -> usize {
    let digits = text[start..].iter().take(most).take_while(|byte| byte.is_ascii_digit());
    start + digits.count()
}

/// End of groups of these lengths.
fn grouped(text: &[u8], start: usize, separator: u8, layout: &[usize]) -> Option<usize> {
    let mut at = start;
    for (nth, len) in layout.iter().enumerate() {
        if nth > 0 {
            if text.get(at) != Some(&separator) {
                return None;
            }
            at += 1;
        }
        let end = run(text, at, len + 1);
        if end - at != *len {
            return None;
        }
        at = end;
    }
    Some(at)
}

fn is_card(digits: impl DoubleEndedIterator<Item = u8> + Clone) -> bool {
    let len = digits.clone().count();
    let prefix = |places: usize| {
        digits.clone().take(places).fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'))
    };
    let (two, three, four) = (prefix(2), prefix(3), prefix(4));
    let is_brand = match len {
        14 => matches!(two, 36 | 38 | 39) || (300..=305).contains(&three),
        15 => matches!(two, 34 | 37),
        16 => {
            matches!(two, 40..=49 | 51..=55 | 62 | 65)
                || matches!(four, 2221..=2720 | 6011 | 3528..=3589)
                || (644..=649).contains(&three)
        }
        17..=19 => matches!(two, 62 | 65) || four == 6011 || (len == 19 && (40..=49).contains(&two)),
        _ => false,
    };
    is_brand && luhn(digits)
}

fn luhn(digits: impl DoubleEndedIterator<Item = u8>) -> bool {
    let sum: u32 = digits
        .rev()
        .enumerate()
        .map(|(nth, digit)| match (nth % 2, u32::from(digit - b'0')) {
            (0, digit) => digit,
            (_, digit) => digit / 5 + digit * 2 % 10,
        })
        .sum();
    sum.is_multiple_of(10)
}
