//! Metrics of the node, its cgroups, its pods and their namespaces: the sources behind the pages of the contract's
//! section 3.
//!
//! A source is isolated and timed by `sonde_daemon::page`. What pages and the push have in common is a
//! [`sampler::Sample`], one pass over everything. Where our rows differ from the originals', `METRICS.md` says why.

mod busiest;
pub mod cgroup;
mod class;
mod containers;
mod help;
mod kubelet_counts;
mod machine;
mod namespace_logs;
mod namespaces;
pub mod node;
pub mod pod_network;
mod pod_state;
mod read;
pub mod sampler;
mod statfs;
mod volumes;

use std::sync::Arc;

use regex::RegexSet;
use sonde_daemon::page::{Accounting, Section, Sink, Source};

use crate::config;
use crate::host::HostPaths;
use crate::logs::metrics::LogMetrics;
use crate::pods::PodIndex;
use node::PatternError;
use sampler::Sampler;

/// The sections of the pages; one that is switched off is `None`.
#[derive(Clone, Debug)]
pub struct Sections {
    /// `/metrics/node`.
    pub node: Option<Arc<Section>>,
    /// `/metrics/containers`.
    pub containers: Option<Arc<Section>>,
    /// `/metrics/pods`.
    pub pods: Option<Arc<Section>>,
    /// `/metrics/kubelet`.
    pub kubelet: Option<Arc<Section>>,
    /// `/metrics/namespaces`.
    pub namespaces: Option<Arc<Section>>,
}

/// A source without the families that the configuration drops.
struct Dropping {
    source: Box<dyn Source>,
    drop: RegexSet,
}

impl Source for Dropping {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let mut own = Sink::default();
        let result = self.source.collect(&mut own);
        own.retain(|name| !self.drop.is_match(name));
        out.absorb(own);
        result
    }

    fn patience(&self) -> Option<std::time::Duration> {
        self.source.patience()
    }
}

/// A pattern matches a whole name, as in Prometheus' relabelling.
fn whole(pattern: &str) -> String {
    format!("^(?:{pattern})$")
}

/// The names that the configuration drops.
///
/// # Errors
/// When a pattern is none.
pub fn dropped(config: &config::Metrics) -> Result<RegexSet, PatternError> {
    RegexSet::new(config.drop.iter().map(|pattern| whole(pattern)))
        .map_err(|error| PatternError::new("metrics.drop", error))
}

/// Every source of metrics.
pub struct Sources {
    sampler: Arc<Sampler>,
    sections: Sections,
}

impl Sources {
    /// Makes the sources; `node` is this node's name, `logs` what the log reader publishes. Little is read yet, and nothing waited for.
    ///
    /// # Errors
    /// When a pattern of the configuration is none.
    pub fn new(
        config: &config::Metrics,
        paths: &HostPaths,
        node: &str,
        index: &PodIndex,
        logs: &LogMetrics,
    ) -> Result<Self, PatternError> {
        let sampler = Arc::new(Sampler::new(paths, index.clone()));
        let drop = dropped(config)?;
        let section = |prefix: &str, label: &str, mut sources: Vec<Box<dyn Source>>| {
            if !drop.is_empty() {
                let dropping =
                    |source| -> Box<dyn Source> { Box::new(Dropping { source, drop: drop.clone() }) };
                sources = sources.into_iter().map(dropping).collect();
            }
            let accounting = Accounting { prefix: prefix.to_owned(), label: label.to_owned() };
            Section::new(Some(accounting), sources)
        };
        let ours = |source: Box<dyn Source>| section("sonde_agent_source", "source", vec![source]);
        let node = if config.node.enabled {
            let collectors = node::sources(&config.node, paths, node)?;
            Some(section("node_scrape_collector", "collector", collectors))
        } else {
            None
        };
        let containers = config.containers.then(|| {
            let machine = machine::Machine::read(&paths.proc, &paths.sys, &paths.root);
            let proc = paths.proc.clone();
            ours(Box::new(containers::Containers {
                sampler: Arc::clone(&sampler),
                machine,
                proc,
                busiest: Default::default(),
            }))
        });
        let pods = config.pods.then(|| ours(Box::new(pod_state::PodState { index: index.clone() })));
        let counts = kubelet_counts::KubeletCounts { sampler: Arc::clone(&sampler) };
        let volumes = volumes::Volumes::new(paths.kubelet_dir.clone(), index.clone());
        let kubelet = config
            .pods
            .then(|| section("sonde_agent_source", "source", vec![Box::new(counts), Box::new(volumes)]));
        let namespaces = config
            .namespaces
            .then(|| ours(Box::new(namespaces::Namespaces::new(Arc::clone(&sampler), logs.clone()))));
        Ok(Self { sampler, sections: Sections { node, containers, pods, kubelet, namespaces } })
    }

    /// What the pages show.
    pub fn sections(&self) -> Sections {
        self.sections.clone()
    }

    /// What the push reads.
    pub fn sampler(&self) -> Arc<Sampler> {
        Arc::clone(&self.sampler)
    }
}

#[cfg(test)]
pub(crate) mod tests;
