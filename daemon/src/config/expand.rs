//! `${NAME}` and `${NAME:-default}` in values.

use super::Finding;
use super::tree::{Content, Node, Style};

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
        Content::Scalar(text, style) if text.contains('$') => match expand(text, env) {
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

/// The text with everything filled in, and whether there was anything; or what is wrong and what is expected.
fn expand(text: &str, env: &impl Fn(&str) -> Option<String>) -> Result<(String, bool), (String, String)> {
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
            let Some((inner, after)) = inner.split_once('}') else {
                return Err(("`${` has no `}`".to_owned(), EXPECTED.to_owned()));
            };
            let (name, default) = match inner.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inner, None),
            };
            if !is_name(name) {
                return Err((format!("`${{{inner}}}` is not a variable"), EXPECTED.to_owned()));
            }
            // As in a shell, `:-` also stands in for what is set to nothing.
            let value = env(name).filter(|value| default.is_none() || !value.is_empty());
            match value.as_deref().or(default) {
                Some(value) => out.push_str(value),
                None => {
                    let what = format!("the environment variable {name} is not set");
                    return Err((what, format!("it to be set, or a default as in ${{{name}:-default}}")));
                }
            }
            from_env = true;
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok((out, from_env))
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
            assert_eq!(expand(text, &env).unwrap().0, wanted, "{text}");
        }
        for text in ["${NONE}", "${", "${NODE", "${}", "${1A}", "${A B}", "${A-b}", "${:-x}"] {
            assert!(expand(text, &env).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_from_the_environment_is_not_expanded_again() {
        let env = |_: &str| Some("${X} $$".to_owned());
        assert_eq!(expand("${X}", &env).unwrap().0, "${X} $$");
    }

    proptest! {
        #[test]
        fn an_escaped_text_expands_to_itself(text in "([$]|[{]|[}]|a){0,20}") {
            prop_assert_eq!(expand(&escape(&text), &|_| None), Ok((text, false)));
        }
    }
}
