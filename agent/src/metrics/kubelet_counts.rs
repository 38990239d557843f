//! `kubelet_running_pods` and `kubelet_running_containers` (kubernetes/kubernetes, pkg/kubelet/metrics), counted here:
//! pods that have a cgroup of a sandbox or of a container, and containers that the kubelet says run.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sonde_daemon::page::{Sink, Source};

use super::cgroup::Kind;
use super::help;
use super::namespaces::running;
use super::sampler::{Row, Sampler};

/// The page's source.
pub(super) struct KubeletCounts {
    pub(super) sampler: Arc<Sampler>,
}

/// Pods with a sandbox or a container.
fn pods_that_run(rows: &[Row]) -> u64 {
    let uid = |row: &Row| match &row.cgroup.kind {
        Kind::Container { uid, .. } => Some(uid.clone()),
        _ => None,
    };
    rows.iter().filter_map(uid).collect::<HashSet<_>>().len() as u64
}

impl Source for KubeletCounts {
    fn name(&self) -> &'static str {
        "kubelet_counts"
    }

    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_secs(5))
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let sample = self.sampler.sample()?;
        help::gauge(out, "kubelet_running_pods").row([], pods_that_run(&sample.rows));
        let containers: u64 = sample.pods.iter().map(running).sum();
        help::gauge(out, "kubelet_running_containers").row([("container_state", "running")], containers);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::{Cgroup, pids::Pids};
    use super::super::sampler::Names;
    use super::*;

    fn row(kind: Kind) -> Row {
        let cgroup = Cgroup {
            id: String::new(),
            kind,
            started: 0.0,
            cpu: None,
            memory: None,
            io: Vec::new(),
            pids: Pids::default(),
            pressure: None,
        };
        Row { cgroup, names: Names::default(), shown: true }
    }

    #[test]
    fn a_pod_without_a_sandbox_does_not_run() {
        let container = |uid: &str, id: &str| Kind::Container { uid: uid.to_owned(), id: id.to_owned() };
        let rows = [
            row(Kind::Pod { uid: "waits".to_owned() }),
            row(container("a", "1")),
            row(container("a", "2")),
            row(container("b", "3")),
            row(Kind::Slice),
        ];
        assert_eq!(pods_that_run(&rows), 2);
    }
}
