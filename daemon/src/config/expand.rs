//! `${NAME}` and `${NAME:-default}` in values; a default may hold further ones.

use super::Finding;
use super::tree::{Content, Node, Style};

/// Defaults in defaults that are followed.
const DEEPEST: usize = 8;

const EXPECTED: &str = "${NAME} or ${NAME:-default}, and $$ for a dollar sign before a brace";

/// Expands every scalar of the tree, and notes those that cannot be.
pub(super) fn all(tree: &mut Node, env: &impl Fn(&str) -> Option<String>, found: &mut Vec<Finding>) {
    let mut wrong = Vec::new();
    walk(tree, env, &mut wrong);
    for (id, what, expected) in wrong {
        let place = tree.locate(id);
        found.push(Finding { line: place.line, path: place.path, what, expected });
        // Reading it would only report it again.
        tree.remove(id);
    }
}

fn walk(node: &mut Node, env: &impl Fn(&str) -> Option<String>, wrong: &mut Vec<(usize, String, String)>) {
    match &mut node.content {
        Content::Scalar(text, style) if text.contains('$') => match expand(text, env, DEEPEST) {
            Ok((expanded, from_env)) => {
                *text = expanded;
                if from_env {
                    *style = Style::Expanded;
                }
            }
            Err((what, expected)) => wrong.push((node.id, what, expected)),
        },
        Content::Scalar(..) => {}
        Content::List(list) => list.iter_mut().for_each(|child| walk(child, env, wrong)),
        Content::Map(map) => map.iter_mut().for_each(|(_, child)| walk(child, env, wrong)),
    }
}

/// What is wrong and what is expected.
type Wrong = (String, String);

/// The text with everything filled in, and whether there was anything; or what is wrong. `deeper` bounds the nesting.
fn expand(text: &str, env: &impl Fn(&str) -> Option<String>, deeper: usize) -> Result<(String, bool), Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut from_env = false;
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let Some((inner, after)) = braced(inner) else {
                return Err(("`${` has no `}`".to_owned(), EXPECTED.to_owned()));
            };
            out.push_str(&variable(inner, env, deeper)?);
            from_env = true;
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok((out, from_env))
}

/// What stands between `${` and its `}`, and what comes after; further `${…}` in it are passed over.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut open = 1;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '$' if chars.next_if(|(_, next)| *next == '$').is_some() => {}
            '$' if chars.next_if(|(_, next)| *next == '{').is_some() => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}

/// The value of `NAME` or `NAME:-default`.
fn variable(inner: &str, env: &impl Fn(&str) -> Option<String>, deeper: usize) -> Result<String, Wrong> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    if !is_name(name) {
        return Err((format!("`${{{inner}}}` is not a variable"), EXPECTED.to_owned()));
    }
    // As in a shell, `:-` also stands in for what is set to nothing.
    match (env(name).filter(|value| default.is_none() || !value.is_empty()), default) {
        (Some(value), _) => Ok(value),
        (None, Some(_)) if deeper == 0 => {
            Err(("defaults are nested too deeply".to_owned(), format!("at most {DEEPEST} in one another")))
        }
        (None, Some(default)) => Ok(expand(default, env, deeper - 1)?.0),
        (None, None) => {
            let what = format!("the environment variable {name} is not set");
            Err((what, format!("it to be set, or a default as in ${{{name}:-default}}")))
        }
    }
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

/// The text that expands to `text`.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(c);
        if c == '$' && matches!(chars.peek(), Some('$' | '{')) {
            out.push('$');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "NODE" => Some("n1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in_and_dollars_stay_dollars() {
        for (text, wanted) in [
            ("${NODE}", "n1"),
            ("https://${IP:-127.0.0.1}:10250/${NODE}", "https://127.0.0.1:10250/n1"),
            ("${EMPTY:-x}${EMPTY}${NONE:-}", "x"),
            ("${NONE:-a:-b}", "a:-b"),
            ("^/(dev|proc)($|/)", "^/(dev|proc)($|/)"),
            ("$NODE $", "$NODE $"),
            ("$${NODE} $$$$", "${NODE} $$"),
        ] {
            assert_eq!(expand(text, &env, DEEPEST).unwrap().0, wanted, "{text}");
        }
        for text in ["${NONE}", "${", "${NODE", "${}", "${1A}", "${A B}", "${A-b}", "${:-x}"] {
            assert!(expand(text, &env, DEEPEST).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_from_the_environment_is_not_expanded_again() {
        let env = |_: &str| Some("${X} $$".to_owned());
        assert_eq!(expand("${X}", &env, DEEPEST).unwrap().0, "${X} $$");
    }

    #[test]
    fn a_default_may_be_another_variable() {
        for (text, wanted) in [
            ("${NONE:-${NODE}}", "n1"),
            ("${NONE:-a${NOR_THIS:-b${NODE}c}d}e", "abn1cde"),
            ("${NODE:-${NONE}}", "n1"),
            ("${NONE:-$${NODE}}", "${NODE}"),
            ("${NONE:-{x}}", "{x}"),
        ] {
            assert_eq!(expand(text, &env, DEEPEST).unwrap().0, wanted, "{text}");
        }
        let (what, _) = expand("${NONE:-${NOR_THIS}}", &env, DEEPEST).unwrap_err();
        assert!(what.contains("NOR_THIS"), "{what}");
        assert!(expand("${NONE:-${NODE}", &env, DEEPEST).is_err(), "one brace is missing");
        let bomb = format!("{}x{}", "${N:-".repeat(100_000), "}".repeat(100_000));
        let (what, _) = expand(&bomb, &env, DEEPEST).unwrap_err();
        assert!(what.contains("too deeply"), "{what}");
    }

    proptest! {
        #[test]
        fn an_escaped_text_expands_to_itself(text in "([$]|[{]|[}]|a){0,20}") {
            prop_assert_eq!(expand(&escape(&text), &|_| None, DEEPEST), Ok((text, false)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "([$][{]|[}]|:-|a|é|[$]){0,40}") {
            let _ = expand(&text, &env, DEEPEST);
        }
    }
}
