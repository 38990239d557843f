//! The `logs` section.

use sonde_daemon::config::Problems;
use sonde_daemon::units::Size;

use super::{check_container, check_glob, within};
use crate::config::{FileRule, Journald, Logs};
use crate::logs::{multiline, redact};

/// The characters of unit names beside those of Kubernetes' names: systemd.unit(5).
const UNIT: &str = ":_@\\";

/// Rules of `logs.files`.
const MOST_FILES: usize = 64;
/// Longest path of a rule.
const LONGEST_PATH: usize = 1024;
/// Longest name of a rule.
const LONGEST_NAME: usize = 255;

impl Logs {
    pub(super) fn check(&self, problems: &mut Problems) {
        for (name, rules) in [("include", &self.include), ("exclude", &self.exclude)] {
            for (at, rule) in rules.iter().enumerate() {
                let path = format!("logs.{name}[{at}]");
                check_container(problems, &path, [&rule.namespace, &rule.pod, &rule.container]);
                if rule.namespace.is_empty() && rule.pod.is_empty() && rule.container.is_empty() {
                    problems.add(path, "matches everything", "a namespace, a pod or a container");
                }
            }
        }
        self.check_multiline(problems);
        self.check_redact(problems);
        self.check_files(problems);
        let limits =
            [("per_container", self.limits.per_container), ("per_namespace", self.limits.per_namespace)];
        for (name, limit) in limits {
            if limit.0 > 0 && limit < Size::kib(1) {
                problems.add(
                    format!("logs.limits.{name}"),
                    format!("{limit} is too little"),
                    "0, or 1KiB or more",
                );
            }
        }
        within(problems, "logs.max_line", self.max_line, Size::kib(1), Size::mib(16));
        self.journald.check(problems);
    }

    fn check_multiline(&self, problems: &mut Problems) {
        if self.multiline.len() > multiline::MOST_RULES {
            let what = format!("has {} rules", self.multiline.len());
            problems.add("logs.multiline", what, format!("{} at most", multiline::MOST_RULES));
        }
        for (at, rule) in self.multiline.iter().enumerate() {
            let path = format!("logs.multiline[{at}]");
            check_container(problems, &path, [&rule.namespace, &rule.pod, &rule.container]);
            for problem in
                multiline::problem(rule).into_iter().chain(multiline::odd_bounds(rule, self.max_line))
            {
                problems.add(format!("{path}{}", problem.key), problem.what, problem.expected);
            }
        }
    }

    fn check_files(&self, problems: &mut Problems) {
        if self.files.len() > MOST_FILES {
            let what = format!("has {} rules", self.files.len());
            problems.add("logs.files", what, format!("{MOST_FILES} at most"));
        }
        for (at, rule) in self.files.iter().enumerate() {
            rule.check(problems, &format!("logs.files[{at}]"));
        }
    }

    fn check_redact(&self, problems: &mut Problems) {
        for (at, rule) in self.redact.iter().enumerate() {
            let path = format!("logs.redact[{at}]");
            check_container(problems, &path, [&rule.namespace, &rule.pod, ""]);
            if !rule.container.is_empty() {
                // The journal's rows are called `journal:` and the unit, plain files' `file:` and the path.
                let more = format!("{UNIT}/+,=~#%() ");
                check_glob(problems, &format!("{path}.container"), &rule.container, &more);
            }
        }
        for problem in redact::problems(&self.redact) {
            problems.add(format!("logs.redact{}", problem.key), problem.what, problem.expected);
        }
    }
}

impl Journald {
    fn check(&self, problems: &mut Problems) {
        for (at, path) in self.paths.iter().enumerate().filter(|(_, path)| !path.starts_with('/')) {
            let what = format!("`{path}` is not an absolute path");
            problems.add(
                format!("logs.journald.paths[{at}]"),
                what,
                "a directory such as `/var/log/journal`",
            );
        }
        if self.enabled && self.paths.is_empty() {
            problems.add("logs.journald.paths", "is empty, but the journal is to be read", "a directory");
        }
        for (at, unit) in self.units.iter().enumerate() {
            check_glob(problems, &format!("logs.journald.units[{at}]"), unit, UNIT);
        }
    }
}

impl FileRule {
    fn check(&self, problems: &mut Problems, key: &str) {
        let path = self.path.as_str();
        let file = path.rsplit('/').next().unwrap_or_default();
        let (what, expected) = if !path.starts_with('/') {
            ("is not absolute", "a path on the host, such as `/var/log/app/*.log`")
        } else if file.is_empty() {
            ("ends with `/`", "the path of files, such as `/var/log/app/*.log`")
        } else if path.len() > LONGEST_PATH || path.chars().any(char::is_control) {
            ("is too long, or has a control character", "at most 1024 printable characters")
        } else if path.contains("**") {
            ("has `**`: directories are not walked", "one `*` a directory, such as `/var/log/*/*.log`")
        } else if path.split('/').any(|part| part == ".." || part == ".") {
            ("has a part `.` or `..`", "the path itself")
        } else {
            ("", "")
        };
        if !what.is_empty() {
            problems.add(format!("{key}.path"), what, expected);
        }
        if self.name.len() > LONGEST_NAME || self.name.chars().any(char::is_control) {
            problems.add(format!("{key}.name"), "is not a name", "at most 255 printable characters");
        }
        for (at, pattern) in self.exclude.iter().enumerate() {
            if pattern.is_empty() || pattern.len() > LONGEST_PATH || pattern.chars().any(char::is_control) {
                let expected = "a name or a path, with `*`, of at most 1024 printable characters";
                problems.add(format!("{key}.exclude[{at}]"), "is not a pattern", expected);
            }
        }
        for attribute in self.attributes.keys() {
            let is_ours = attribute == "service.name"
                || ["k8s.", "log.", "container."].iter().any(|ours| attribute.starts_with(ours));
            if attribute.is_empty() || is_ours {
                let what = format!("`{attribute}` is empty, or a name that the agent gives");
                problems.add(format!("{key}.attributes"), what, "another name; `name` is the service's");
            }
        }
    }
}
