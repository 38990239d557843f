//! The kubelet's housekeeping: rotation, deletion of ended pods, and the cgroup counters.

use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::cgroup;
use crate::error::SimError;
use crate::load::{self, Use};
use crate::logfile::archive;
use crate::machine;
use crate::node::{Deletion, Shared};
use crate::random::Random;
use crate::rotation::{Place, Rotator};

const TICK: Duration = Duration::from_millis(5);
/// How often the files of cgroups and processes follow the writers.
const COUNTERS: Duration = Duration::from_millis(500);

pub(crate) fn run(shared: &Shared) {
    if let Err(error) = keep(shared) {
        shared.fail(error);
    }
}

fn keep(shared: &Shared) -> Result<(), SimError> {
    let (pod_logs, archive_dir) = (shared.pod_logs(), shared.archive());
    let mut random = Random::named(shared.options.seed, "kubelet");
    let mut rotators: Vec<Rotator> = Vec::new();
    let mut cgroups_at = Instant::now();
    while !shared.stopping.load(Ordering::Acquire) {
        let now = Instant::now();
        let running = shared.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rotators.retain(|rotator| !rotator.file.ended.load(Ordering::Acquire));
        for new in &running {
            if !rotators.iter().any(|rotator| Arc::ptr_eq(&rotator.file, &new.log)) {
                rotators.push(Rotator::new(Arc::clone(&new.log), now));
            }
        }
        let place = Place {
            pod_logs: &pod_logs,
            archive: &archive_dir,
            deletions_paused: shared.deletions_paused.load(Ordering::Acquire),
        };
        for rotator in &mut rotators {
            // After the end of all writing the files stay as they are.
            if shared.done.load(Ordering::Acquire) {
                break;
            }
            if rotator.step(Instant::now(), &shared.options.rotation, &place, &mut random)? {
                shared.rotations.fetch_add(1, Ordering::AcqRel);
            }
        }
        if !place.deletions_paused {
            delete_due(shared, now)?;
        }
        if now >= cgroups_at {
            cgroups_at = now + COUNTERS;
            for container in &running {
                cgroup::update(&container.cgroup, &Use::of(&container.log, &container.resources))?;
            }
            let pods = load::of_pods(shared);
            for pod in &pods {
                cgroup::update_pod(shared, pod)?;
            }
            machine::update(shared, &pods)?;
            shared.updates.fetch_add(1, Ordering::AcqRel);
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

fn delete_due(shared: &Shared, now: Instant) -> Result<(), SimError> {
    let due: Vec<Deletion> = {
        let mut all = shared.deletions.lock().unwrap_or_else(PoisonError::into_inner);
        all.extract_if(.., |deletion| deletion.at <= now).collect()
    };
    let (pod_logs, archive_dir) = (shared.pod_logs(), shared.archive());
    for deletion in due {
        if !deletion.dir.exists() {
            continue;
        }
        let io = |error| SimError::io(&deletion.dir)(error);
        let Some(restart) = deletion.restart else {
            archive(&pod_logs, &archive_dir, &deletion.dir)?;
            fs::remove_dir_all(&deletion.dir).map_err(io)?;
            continue;
        };
        let prefix = format!("{restart}.log");
        for entry in fs::read_dir(&deletion.dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) {
                archive(&pod_logs, &archive_dir, &path)?;
                fs::remove_file(&path).map_err(io)?;
            }
        }
    }
    Ok(())
}
