//! Which multi-line rule holds for which bytes of a file.
//!
//! A rule that comes, goes or changes holds from the read position on. Below it lies what this process or an earlier one may
//! have sent with the rule before, under names that a replay must find again; so the border is in the file's state before
//! anything above it is sent. After a clean stop it is where the earlier process had read to; after a kill, which may have
//! come behind the last write of the state, it is the end of the file as it is found. A file of which an earlier process wrote
//! nothing down is read with the rule of today, all of it.
//!
//! Entries that come late (into a renamed file, after the runtime wrote of the same stream into the next one and that was
//! read) have a rule of their own, from where they begin: each is a record by itself. So it is in the state that they were read
//! behind the others, and a replay, which meets them before, leaves open what was open.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::core::{Core, Now};
use super::format::Format;
use super::fs::LogFs;
use super::lineage::{LAST_LOOK, LineageId};
use super::multiline::Rule;
use super::tail::FileId;

/// From a byte on, this rule holds.
#[derive(Clone, Debug)]
pub struct Binding {
    /// First byte.
    pub from: u64,
    /// None, or one that joins no lines = each line is a record.
    pub rule: Option<Arc<Rule>>,
}

/// The rules of a file, in order; no rule below the first one.
#[derive(Clone, Debug, Default)]
pub struct Bindings(Vec<Binding>);

impl Bindings {
    /// Whether a rule that joins lines holds anywhere.
    #[inline]
    pub fn joins(&self) -> bool {
        self.0.iter().any(|binding| binding.rule.as_ref().is_some_and(|rule| rule.joins()))
    }

    /// From where on entries came late.
    pub fn late_from(&self) -> u64 {
        let late = self.0.iter().find(|binding| binding.rule.as_ref().is_some_and(|rule| rule.is_late()));
        late.map_or(u64::MAX, |binding| binding.from)
    }

    /// The rule of a line that ends before `end`, if it may join it with others.
    pub fn of_line(&self, end: u64) -> Option<&Arc<Rule>> {
        let binding = self.0.iter().rev().find(|binding| binding.from < end)?;
        binding.rule.as_ref().filter(|rule| rule.joins())
    }

    /// The rule of what comes last.
    pub fn last(&self) -> Option<&Arc<Rule>> {
        self.0.last().and_then(|binding| binding.rule.as_ref())
    }

    /// Changes the rule from a byte on, which is not below the last change.
    pub(super) fn set(&mut self, from: u64, rule: Option<Arc<Rule>>) {
        let from = self.0.last().map_or(from, |last| last.from.max(from));
        self.0.retain(|binding| binding.from < from);
        self.0.push(Binding { from, rule });
    }

    /// The same, if it is another rule than the last one. What came late stays apart.
    pub fn change(&mut self, from: u64, rule: Option<&Arc<Rule>>) {
        if !self.is_bound_to(rule) {
            self.set(from, rule.cloned());
        }
    }

    /// Whether what comes is read with this rule, or came late.
    fn is_bound_to(&self, rule: Option<&Arc<Rule>>) -> bool {
        is_same(self.last(), rule) || self.last().is_some_and(|last| last.is_late())
    }

    /// Forgets what holds below the watermark only.
    pub fn prune(&mut self, watermark: u64) {
        let gone = self.0.iter().skip(1).take_while(|binding| binding.from <= watermark).count();
        self.0.drain(..gone);
        if self.0.iter().all(|binding| binding.rule.is_none()) {
            self.0.clear();
        }
    }

    /// As the state keeps them; an empty text is no rule.
    pub fn specs(&self) -> Vec<(u64, String)> {
        let spec =
            |binding: &Binding| binding.rule.as_ref().map(|rule| rule.spec().to_owned()).unwrap_or_default();
        self.0.iter().map(|binding| (binding.from, spec(binding))).collect()
    }
}

/// What a pod's annotations say about the lines of a container.
fn wish_of<'a>(annotations: &'a BTreeMap<String, String>, container: &str) -> Option<&'a str> {
    let own = annotations.get(&format!("sonde.io/multiline.{container}"));
    own.or_else(|| annotations.get("sonde.io/multiline")).map(String::as_str)
}

fn is_same(one: Option<&Arc<Rule>>, other: Option<&Arc<Rule>>) -> bool {
    one.map(|rule| rule.spec()) == other.map(|rule| rule.spec())
}

impl<F: LogFs> Core<F> {
    /// Which rule a container wants: its pod's, else the configuration's. Without annotations (the pod is not known) what
    /// it said last stays.
    pub(super) fn choose_rule(&mut self, id: LineageId, annotations: Option<&BTreeMap<String, String>>) {
        let Some(lineage) = self.lineages.get_mut(&id) else { return };
        let is_first = lineage.rule_version == 0;
        lineage.rule_version = lineage.rule_version.max(1);
        let wish = annotations.and_then(|annotations| wish_of(annotations, &lineage.container));
        let is_kept = annotations.is_none() && lineage.rule.as_ref().is_some_and(|rule| rule.is_wish());
        // Of a wish that goes, what is left is the configuration's.
        let is_gone = wish.is_none() && lineage.rule.as_ref().is_some_and(|rule| rule.is_wish());
        if is_kept || (!is_first && !is_gone && lineage.wish.as_deref() == wish) {
            return;
        }
        lineage.wish = wish.map(str::to_owned);
        let configured = match lineage.format {
            // The rules are about containers.
            Format::Plain => None,
            _ => self.multiline.for_container(&lineage.pod, &lineage.container),
        };
        let rule = match wish.map(|wish| self.multiline.wish(wish)) {
            None => configured,
            Some(Ok(rule)) => Some(rule),
            Some(Err(reason)) => {
                tracing::warn!(
                    namespace = lineage.pod.namespace,
                    pod = lineage.pod.pod,
                    container = %lineage.container,
                    reason,
                    "a pod's sonde.io/multiline is neither off, a preset, nor a pattern: it is ignored"
                );
                configured
            }
        };
        if !is_same(lineage.rule.as_ref(), rule.as_ref()) {
            lineage.rule = rule;
            lineage.rule_version += 1;
        }
    }

    /// Takes over the rules that an earlier process kept of a file.
    pub(super) fn adopt_rules(&mut self, id: FileId, specs: &[(u64, String)]) {
        let mut bindings = Bindings::default();
        for (from, spec) in specs {
            let rule = (!spec.is_empty()).then(|| self.multiline.of_spec(spec)).transpose();
            if let Err(reason) = &rule {
                tracing::warn!(reason, "a multi-line rule in the read positions cannot be used");
            }
            bindings.set(*from, rule.unwrap_or_default());
        }
        let Some(file) = self.files.get_mut(&id) else { return };
        if let Some(lineage) = self.lineages.get_mut(&file.lineage)
            && lineage.rule_version == 0
        {
            lineage.rule = bindings.last().filter(|rule| rule.is_wish()).cloned();
        }
        file.bindings = bindings;
    }

    /// Whether a file has to wait until the rule that it is read with is in its state.
    pub(super) fn must_bind(&mut self, id: FileId, now: Now) -> bool {
        let Some(file) = self.files.get_mut(&id) else { return false };
        let Some(lineage) = self.lineages.get(&file.lineage) else { return false };
        if file.unsaved {
            self.unbound.push(file.lineage);
            return true;
        }
        if file.bound == lineage.rule_version || file.bind_after.is_some_and(|at| now.mono < at) {
            return false;
        }
        if file.bindings.is_bound_to(lineage.rule.as_ref()) {
            file.bound = lineage.rule_version;
            return false;
        }
        self.unbound.push(file.lineage);
        true
    }

    /// Writes the rules of files that wait for it: one write for all. Where it fails the rule before stays for now; a file that
    /// was never read with another one is read all the same.
    pub(super) fn save_bindings(&mut self, now: Now) {
        if self.unbound.is_empty() {
            return;
        }
        let mut lineages = std::mem::take(&mut self.unbound);
        lineages.sort_unstable();
        lineages.dedup();
        let mut changed: Vec<(FileId, Bindings, bool)> = Vec::new();
        let mut is_unsaved = false;
        for lineage in lineages.iter().filter_map(|id| self.lineages.get(id)) {
            for id in &lineage.files {
                let Some(file) = self.files.get_mut(id) else { continue };
                // Read on all the same where the disk takes nothing.
                is_unsaved |= std::mem::take(&mut file.unsaved);
                let is_bound =
                    file.bound == lineage.rule_version || file.bindings.is_bound_to(lineage.rule.as_ref());
                if is_bound || file.identity.is_none() || file.aside.is_some() {
                    continue;
                }
                let from = file.read.max(file.sent_below);
                changed.push((*id, file.bindings.clone(), from == 0));
                file.bindings.set(from, lineage.rule.clone());
                self.dirty_files.insert(*id);
            }
        }
        // A clean stop is still what the state says: a later process would draw the border at the same place.
        let is_as_stopped = self.was_stopped;
        let is_nothing = changed.is_empty() && !is_unsaved;
        let done = is_nothing || self.flush(now.mono) || is_as_stopped;
        for (id, before, is_unread) in changed {
            let Some(file) = self.files.get_mut(&id) else { continue };
            if done || is_unread {
                file.bound = self.lineages.get(&file.lineage).map_or(0, |lineage| lineage.rule_version);
            } else {
                file.bindings = before;
                file.bind_after = Some(now.mono + LAST_LOOK);
            }
        }
        for id in lineages {
            self.wake(id);
        }
    }
}
