//! What falls due by itself: ends, new starts, short-lived pods; and the rest that puts all of it off.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Active, BackOff, Engine};
use crate::clock::now_nanos;
use crate::container::{End, Fate};
use crate::error::SimError;
use crate::kubelet::{ContainerStatus, Ended, State};
use crate::pods::short_lived_pod;

impl Engine {
    /// Containers that end by themselves, and those that the kubelet starts again.
    pub(super) fn fates(&mut self, now: Instant) -> Result<(), SimError> {
        if self.shared.done.load(Ordering::Acquire) {
            return Ok(());
        }
        while let Some(at) = self.active.iter().position(|active| active.ends_at.is_some_and(|at| at <= now))
        {
            let ended = self.end(at)?;
            self.forget_before(&ended);
            if !self.completed(&ended) {
                self.back_off(&ended, now);
            }
        }
        while let Some(at) = self.back_offs.iter().position(|waiting| waiting.at <= now) {
            let due = self.back_offs.swap_remove(at);
            if let Some(spec) = self.spec_of(&due.pod_uid) {
                let status = self.start_container(&spec, due.container, due.restart)?;
                self.set_status(&due.pod_uid, due.container, status);
            }
        }
        Ok(())
    }

    /// Whether it is to stay ended; then its pod has succeeded.
    fn completed(&self, ended: &Active) -> bool {
        let mut pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pod) = pods.iter_mut().find(|pod| pod.spec.uid == ended.pod_uid) else { return false };
        pod.succeeded = matches!(pod.spec.containers[ended.container].fate, Fate::Completes { .. });
        pod.succeeded
    }

    /// The kubelet waits: the container is in CrashLoopBackOff.
    fn back_off(&mut self, ended: &Active, now: Instant) {
        let Some(spec) = self.spec_of(&ended.pod_uid) else { return };
        let (index, restart) = (ended.container, ended.writer.log.restart);
        let Fate::Ends { how, back_off, .. } = spec.containers[index].fate else { return };
        let (id, (reason, exit_code)) = (self.container_id(&spec, index, restart), how.told());
        if how == End::OomKilled {
            let mut past = self.shared.past.lock().unwrap_or_else(PoisonError::into_inner);
            past.entry(ended.pod_uid.clone()).or_default().oom_kills += 1;
        }
        let status = ContainerStatus {
            id: id.clone(),
            restart,
            started_nanos: now_nanos(),
            state: State::Waiting("CrashLoopBackOff"),
            last: Some(Ended { id, reason, exit_code }),
        };
        self.set_status(&ended.pod_uid, index, status);
        let pod_uid = ended.pod_uid.clone();
        self.back_offs.push(BackOff { at: now + back_off, pod_uid, container: index, restart: restart + 1 });
    }

    /// Short-lived pods and restarts, in turn.
    pub(super) fn churn(&mut self, now: Instant) -> Result<(), SimError> {
        if let Some(at) = self.short_lived.iter().position(|(end, _)| *end <= now) {
            let (_, uid) = self.short_lived.swap_remove(at);
            match self.delete_pod(&uid) {
                Ok(()) | Err(SimError::UnknownPod(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let (Some(period), Some(due)) = (self.shared.options.churn, self.churn_at) else { return Ok(()) };
        if now < due || self.shared.done.load(Ordering::Acquire) {
            return Ok(());
        }
        self.churn_at = Some(now + period);
        self.churned += 1;
        if self.churned % 2 == 1 {
            let pod = short_lived_pod(self.shared.options.seed, self.churned);
            self.short_lived.push((now + Duration::from_secs(1), pod.uid.clone()));
            return self.start_pod(pod);
        }
        let at = usize::try_from(self.churned / 2).unwrap_or(0) % self.active.len().max(1);
        let Some(active) = self.active.get(at) else { return Ok(()) };
        let (uid, index) = (active.pod_uid.clone(), active.container);
        let name = self.spec_of(&uid).map(|spec| spec.containers[index].name.clone());
        name.map_or(Ok(()), |name| self.restart(&uid, &name))
    }

    /// Nothing is written, starts or ends by itself while the node rests, and what would have is due that much later.
    pub(super) fn rest(&mut self, on: bool) -> Result<(), SimError> {
        if on {
            self.resting.get_or_insert_with(Instant::now);
            return self.flush();
        }
        let Some(since) = self.resting.take() else { return Ok(()) };
        let rested = since.elapsed();
        let ends = self.active.iter_mut().filter_map(|active| active.ends_at.as_mut());
        let back_offs = self.back_offs.iter_mut().map(|waiting| &mut waiting.at);
        let short_lived = self.short_lived.iter_mut().map(|(end, _)| end);
        for at in ends.chain(back_offs).chain(short_lived).chain(&mut self.churn_at) {
            *at += rested;
        }
        Ok(())
    }

    /// What was held back of torn writes; files that are to be opened anew are.
    pub(super) fn flush(&mut self) -> Result<(), SimError> {
        self.active.iter_mut().try_for_each(|active| active.writer.finish())
    }
}
