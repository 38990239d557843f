//! OOM kills on cgroup v1: the kernel counts one where it happened and nowhere above (mm/memcontrol.c,
//! `memcg_memory_event`), so that it is gone with the container. Here they are added up for the pod, its class and all pods, as
//! v2's `memory.events` has them. What was counted before this process began, of containers that are gone, is not known.
//!
//! Memory: a path and a number for each cgroup that is there now, whether it can be read or not (at most `walk`'s).

use std::collections::{BTreeMap, BTreeSet};

use super::{Cgroup, Kind};

/// Kills by cgroup.
#[derive(Debug, Default)]
pub(super) struct Kills {
    /// Of containers, as the kernel last counted them.
    seen: BTreeMap<String, u64>,
    /// Of those below, also of those that are gone.
    below: BTreeMap<String, u64>,
}

impl Kills {
    /// Adds to each cgroup of pods what happened below it.
    pub(super) fn add(&mut self, cgroups: &mut [Cgroup]) {
        for cgroup in cgroups.iter().filter(|cgroup| matches!(cgroup.kind, Kind::Container { .. })) {
            let memory = cgroup.memory.filter(|memory| memory.oom_kills_here_only);
            let Some(kills) = memory.and_then(|memory| memory.oom_kills) else { continue };
            let new = kills.saturating_sub(self.seen.insert(cgroup.id.clone(), kills).unwrap_or(0));
            let mut above = cgroup.id.as_str();
            while new > 0
                && let Some((parent, _)) = above.rsplit_once('/')
                && !parent.is_empty()
            {
                *self.below.entry(parent.to_owned()).or_default() += new;
                above = parent;
            }
        }
        let there: BTreeSet<&str> = cgroups.iter().map(|cgroup| cgroup.id.as_str()).collect();
        self.seen.retain(|id, _| there.contains(id.as_str()));
        self.below.retain(|id, _| there.contains(id.as_str()));
        for cgroup in cgroups.iter_mut().filter(|cgroup| !matches!(cgroup.kind, Kind::Container { .. })) {
            let own = cgroup.memory.as_mut().and_then(|memory| memory.oom_kills.as_mut());
            if let (Some(own), Some(kills)) = (own, self.below.get(&cgroup.id)) {
                *own = own.saturating_add(*kills);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::super::pids::Pids;
    use super::*;

    fn cgroup(id: &str, kind: Kind, kills: u64) -> Cgroup {
        let memory = Memory { oom_kills: Some(kills), oom_kills_here_only: true, ..Memory::default() };
        Cgroup {
            id: id.to_owned(),
            kind,
            started: 0.0,
            cpu: None,
            memory: Some(memory),
            io: Vec::new(),
            pids: Pids::default(),
            pressure: None,
        }
    }

    #[test]
    fn a_kill_stays_with_the_pod_when_its_container_is_gone_and_is_counted_once() {
        let container = |name: &str, kills| {
            let kind = Kind::Container { uid: "u".to_owned(), id: name.to_owned() };
            cgroup(&format!("/kubepods/podu/{name}"), kind, kills)
        };
        let mut kills = Kills::default();
        let mut shown = |containers: &[Cgroup]| -> Vec<u64> {
            let mut all = vec![
                cgroup("/kubepods", Kind::Slice, 0),
                cgroup("/kubepods/podu", Kind::Pod { uid: "u".to_owned() }, 1),
            ];
            all.extend_from_slice(containers);
            kills.add(&mut all);
            all.iter().map(|cgroup| cgroup.memory.map_or(9, |memory| memory.oom_kills.unwrap())).collect()
        };
        assert_eq!(shown(&[container("a", 2)]), [2, 3, 2]);
        assert_eq!(shown(&[container("a", 2)]), [2, 3, 2]);
        assert_eq!(shown(&[container("a", 3), container("b", 1)]), [4, 5, 3, 1]);
        let unread = Cgroup { memory: None, ..container("b", 1) };
        assert_eq!(shown(&[container("a", 3), unread]), [4, 5, 3, 9]);
        assert_eq!(shown(&[container("a", 3), container("b", 1)]), [4, 5, 3, 1], "it was counted before");
        assert_eq!(shown(&[container("b", 1)]), [4, 5, 1]);
        kills.add(&mut []);
        assert!(kills.below.is_empty() && kills.seen.is_empty(), "what is gone is forgotten");
    }
}
