//! A real OpenSearch on this machine: `tests/servers/opensearch` puts it below `target/servers`.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{free_port, http, root, wait_until};

/// What the node says of itself, for the day when it does not come up.
const LOG: &str = "rootLogger.level = warn\nrootLogger.appenderRef.console.ref = console\nappender.console.type = Console\n\
                   appender.console.name = console\nappender.console.layout.type = PatternLayout\n\
                   appender.console.layout.pattern = %d %p %c %m%n\n";

/// A node that keeps its data when it is killed and started again; killed when dropped.
pub struct OpenSearch {
    installed: PathBuf,
    home: PathBuf,
    /// Its HTTP port on 127.0.0.1.
    pub port: u16,
    child: Option<Child>,
}

impl OpenSearch {
    /// One with its data below `home`, not started. `None` where it was not installed, which is said as a skip of `test`.
    ///
    /// # Errors
    /// No free port.
    pub fn new(test: &str, home: PathBuf) -> anyhow::Result<Option<Self>> {
        let exe = std::env::current_exe()?;
        // A program lies two folders deep in the target folder, a test three.
        let targets = exe.ancestors().skip(2).take(2).map(Path::to_owned).chain([root().join("target")]);
        let mut places = targets.map(|target| target.join("servers/opensearch"));
        let Some(installed) = places.find(|place| place.join("stamp").exists()) else {
            eprintln!(
                "SKIPPED {test}: no server below target/servers/opensearch (run tests/servers/opensearch)"
            );
            return Ok(None);
        };
        Ok(Some(Self { installed, home, port: free_port()?, child: None }))
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// No Java, or it is not up within ten minutes; its log is in the message.
    pub fn start(&mut self) -> anyhow::Result<()> {
        fs::create_dir_all(self.home.join("config"))?;
        fs::write(self.home.join("config/log4j2.properties"), LOG)?;
        let log = File::options().create(true).append(true).open(self.home.join("node.log"))?;
        let lib = self.installed.join("lib");
        let path = format!("{}/*:{}", lib.display(), self.installed.join("classes").display());
        let child = Command::new("java")
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                self.home.join("config/log4j2.properties").display()
            ))
            .args(["-Xms512m", "-Xmx1g", "-cp", &path, "OpenSearchNode"])
            .arg(&self.home)
            .arg(self.port.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        let up = || {
            http::get(self.port, "/_cluster/health?wait_for_status=yellow&timeout=1s")
                .is_ok_and(|a| a.status == 200)
        };
        wait_until("OpenSearch", Duration::from_secs(600), up)
            .with_context(|| fs::read_to_string(self.home.join("node.log")).unwrap_or_default())
    }

    /// kill -9.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Calls its API; `Null` = no content.
    ///
    /// # Errors
    /// No answer, or one that is not 200.
    pub fn call(&self, method: &str, path: &str, content: &Value) -> anyhow::Result<Value> {
        let content = if content.is_null() { String::new() } else { content.to_string() };
        let mut answer = http::send(self.port, method, path, &content)?;
        let mut text = String::new();
        answer.body.read_to_string(&mut text)?;
        ensure!(answer.status == 200, "{method} {path}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Documents of a stream that a query finds.
    ///
    /// # Errors
    /// See [`Self::call`].
    pub fn count(&self, stream: &str, query: &Value) -> anyhow::Result<u64> {
        let answer = self.call("POST", &format!("/{stream}/_count"), &json!({"query": query}))?;
        answer["count"].as_u64().context("no count")
    }

    /// Documents that are there, or 0 while there is no answer.
    pub fn total(&self, stream: &str) -> u64 {
        let refresh = http::send(self.port, "POST", &format!("/{stream}/_refresh"), "");
        if refresh.is_ok_and(|answer| answer.status == 200) {
            self.count(stream, &json!({"match_all": {}})).unwrap_or(0)
        } else {
            0
        }
    }

    /// A field (its path with dots) of every document, read page by page.
    ///
    /// # Errors
    /// See [`Self::call`]; a document without the field.
    pub fn texts(&self, stream: &str, field: &str) -> anyhow::Result<Vec<String>> {
        let mut texts = Vec::new();
        self.each_hit(stream, &json!([field]), |hit| {
            let text = field.split('.').fold(&hit["_source"], |at, part| &at[part]);
            texts.push(text.as_str().context("no such field")?.to_owned());
            Ok(())
        })?;
        Ok(texts)
    }

    /// Writes every document, one hit of a search (`_index`, `_id`, `_source`) a line.
    ///
    /// # Errors
    /// See [`Self::call`], or the disk's.
    pub fn export(&self, stream: &str, to: &Path) -> anyhow::Result<()> {
        self.call("POST", &format!("/{stream}/_refresh"), &Value::Null)?;
        let mut out = BufWriter::new(File::create(to)?);
        self.each_hit(stream, &json!(true), |hit| Ok(writeln!(out, "{hit}")?))?;
        Ok(out.flush()?)
    }

    fn each_hit(
        &self,
        stream: &str,
        fields: &Value,
        mut each: impl FnMut(&Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let ask = json!({"size": 10_000, "_source": fields, "sort": ["_doc"]});
        let mut page = self.call("POST", &format!("/{stream}/_search?scroll=5m"), &ask)?;
        loop {
            let hits = page["hits"]["hits"].as_array().context("no hits")?;
            if hits.is_empty() {
                return Ok(());
            }
            hits.iter().try_for_each(&mut each)?;
            let scroll = json!({"scroll": "5m", "scroll_id": page["_scroll_id"]});
            page = self.call("POST", "/_search/scroll", &scroll)?;
        }
    }
}

impl Drop for OpenSearch {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
