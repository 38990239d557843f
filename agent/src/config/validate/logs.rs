//! The `logs` section.

use sonde_daemon::config::Problems;
use sonde_daemon::units::Size;

use super::{check_container, check_glob, within};
use crate::config::{Journald, Logs};
use crate::logs::{multiline, redact};

/// The characters of unit names beside those of Kubernetes' names: systemd.unit(5).
const UNIT: &str = ":_@\\";

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

    fn check_redact(&self, problems: &mut Problems) {
        for (at, rule) in self.redact.iter().enumerate() {
            let path = format!("logs.redact[{at}]");
            check_container(problems, &path, [&rule.namespace, &rule.pod, ""]);
            if !rule.container.is_empty() {
                // The journal's rows are called `journal:` and the unit.
                check_glob(problems, &format!("{path}.container"), &rule.container, UNIT);
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
