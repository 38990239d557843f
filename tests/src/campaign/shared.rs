//! What several collectors share: an index, and another one that dies again and again. Both have to have each line once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::Server;
use crate::bulk::Bulk;
use crate::link::{Fault, Link};
use crate::opensearch::OpenSearch;
use crate::{verify, wait_until};

/// The stream of layout otel.
const OTEL: &str = "logs-kubernetes.container_logs.otel-default";

/// Names of the sinks.
pub(super) const SHARED: &str = "shared";

enum Index {
    Stub(Bulk),
    Real(OpenSearch),
}

pub(super) struct Shared {
    index: Index,
    dying: Bulk,
    way: Link,
}

impl Shared {
    /// Both run; their files are below `dir`.
    pub(super) fn start(server: Server, dir: &Path) -> anyhow::Result<Self> {
        let index = match server {
            Server::Stub => Index::Stub(Bulk::keeping(&dir.join("shared.ndjson"))?),
            Server::OpenSearch => {
                let real = OpenSearch::new("the campaign", dir.join("opensearch"))?;
                let mut real = real.context("no OpenSearch: run tests/servers/opensearch")?;
                real.start()?;
                Index::Real(real)
            }
        };
        let dying = Bulk::keeping(&dir.join("dying.ndjson"))?;
        let way = Link::start(true)?;
        way.forward_to(dying.port);
        Ok(Self { index, dying, way })
    }

    /// The `sinks` of each collector.
    pub(super) fn sinks(&self) -> String {
        let port = match &self.index {
            Index::Stub(stub) => stub.port,
            Index::Real(real) => real.port,
        };
        let url = |port: u16| format!("endpoints: [\"http://127.0.0.1:{port}\"]");
        format!(
            "sinks:\n  - {{name: {SHARED}, type: elasticsearch, {}}}\n  \
             - {{name: dying, type: elasticsearch, layout: ecs, {}}}\n",
            url(port),
            url(self.way.port)
        )
    }

    pub(super) fn roll_over(&self) -> anyhow::Result<()> {
        self.dying.roll_over();
        match &self.index {
            Index::Stub(stub) => stub.roll_over(),
            Index::Real(real) => {
                // The collectors make it with the first record that one of them gets through.
                let made = || real.call("GET", &format!("/_data_stream/{OTEL}"), &Value::Null).is_ok();
                wait_until("the shared stream", Duration::from_secs(120), made)?;
                real.call("POST", &format!("/{OTEL}/_rollover"), &Value::Null)?;
            }
        }
        Ok(())
    }

    /// What is wrong with the sink that dies.
    pub(super) fn dies(&self, fault: Fault) {
        self.way.set(fault);
    }

    /// Compares both with the files below `trees`, but for one line that `alter` may change in the shared one's export.
    pub(super) fn verify(
        &self,
        trees: &[PathBuf],
        dir: &Path,
        alter: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<String> {
        let (shared, dying) = (dir.join("shared.hits"), dir.join("dying.hits"));
        let stubs = match &self.index {
            Index::Stub(stub) => vec![stub, &self.dying],
            Index::Real(_) => vec![&self.dying],
        };
        let strange: Vec<String> = stubs.iter().flat_map(|stub| stub.strange()).take(5).collect();
        ensure!(strange.is_empty(), "the collectors asked or sent what they should not: {strange:?}");
        match &self.index {
            Index::Stub(stub) => stub.export(&shared)?,
            Index::Real(real) => real.export(OTEL, &shared)?,
        }
        alter(&shared)?;
        let of = |name: &str, hits: &Path| {
            let verdict =
                verify::verify_documents(trees, hits).with_context(|| format!("the {name} sink"))?;
            anyhow::Ok(format!("the {name} sink:\n{verdict}"))
        };
        let verdict = of("shared", &shared)?;
        self.dying.export(&dying)?;
        Ok(verdict + &of("dying", &dying)?)
    }
}
