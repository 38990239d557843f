//! Which containers are read: `logs.include` and `logs.exclude`.

use super::pod_path::PodDir;
use crate::config::LogRule;

/// The rules.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    include: Vec<LogRule>,
    exclude: Vec<LogRule>,
}

impl Filter {
    /// From the two lists of the configuration.
    pub fn new(include: &[LogRule], exclude: &[LogRule]) -> Self {
        Self { include: include.to_vec(), exclude: exclude.to_vec() }
    }

    /// Whether a container's logs are read.
    pub fn admits(&self, pod: &PodDir, container: &str) -> bool {
        let is_meant = |rule: &LogRule| matches(rule, pod, container);
        (self.include.is_empty() || self.include.iter().any(is_meant)) && !self.exclude.iter().any(is_meant)
    }
}

/// Whether a rule is about a container.
pub fn matches(rule: &LogRule, pod: &PodDir, container: &str) -> bool {
    let fields =
        [(&rule.namespace, pod.namespace.as_str()), (&rule.pod, &pod.pod), (&rule.container, container)];
    fields.iter().all(|(pattern, text)| pattern.is_empty() || glob(pattern, text))
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters. Linear in practice: a mismatch goes
/// back to the last star only.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            p = star_p + 1;
            t = star_t + 1;
            star = Some((star_p, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exclude_wins_over_include_and_no_rule_means_everything() {
        let pod = PodDir { namespace: "shop".into(), pod: "web-1".into(), uid: "u".into() };
        let rule = |namespace: &str, pod: &str| LogRule {
            namespace: namespace.into(),
            pod: pod.into(),
            container: String::new(),
        };
        assert!(Filter::default().admits(&pod, "app"));
        assert!(Filter::new(&[rule("sh*", "")], &[]).admits(&pod, "app"));
        assert!(!Filter::new(&[rule("data", "")], &[]).admits(&pod, "app"));
        assert!(!Filter::new(&[rule("shop", "")], &[rule("", "web-*")]).admits(&pod, "app"));
    }

    proptest! {
        #[test]
        fn a_glob_matches_as_its_plain_definition_says(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            fn plain(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((b'*', rest)) => (0..=text.len()).any(|skip| plain(rest, &text[skip..])),
                    Some((first, rest)) => text.split_first().is_some_and(|(head, tail)| head == first && plain(rest, tail)),
                }
            }
            prop_assert_eq!(glob(&pattern, &text), plain(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
