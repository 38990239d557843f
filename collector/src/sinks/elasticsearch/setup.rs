//! Before the first record: what kind of server it is, our template and lifecycle, the stream itself.

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use sonde_daemon::client::pool::Reply;
use sonde_daemon::units::Interval;

use super::answer::{error, shortened};
use super::client::{Client, Content};
use super::template::{self, Flavour};
use super::{not_sent, trouble};
use crate::config::{DataStream, Layout};
use crate::deliver::Trouble;

/// What is to be set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The documents' layout.
    pub layout: Layout,
    /// The stream.
    pub stream: DataStream,
    /// Install template and lifecycle.
    pub templates: bool,
    /// Age at which records go; `None` = the server's or the user's business.
    pub retention: Option<Interval>,
}

impl Setup {
    /// Does what is allowed; an answer of 401 or 403 to our template is no reason to stop, since somebody else may
    /// have set up everything. A stream that is not there and cannot be made is: without it the server would make a
    /// plain index of its own.
    pub async fn run(&self, client: &Client) -> Result<(), Trouble> {
        let flavour = flavour(&call(client, Method::GET, "/", None).await?)?;
        let stream = template::stream_name(self.layout, &self.stream);
        if self.templates {
            if flavour == Flavour::OpenSearch {
                self.install_policy(client).await?;
            }
            self.install_template(client, flavour).await?;
        }
        let path = format!("/_data_stream/{stream}");
        let made = call(client, Method::PUT, &path, None).await?;
        match made.status.as_u16() {
            200 => tracing::info!(stream, ?flavour, "the data stream is made"),
            400 if error(&made.body)
                .is_some_and(|error| error.kind == "resource_already_exists_exception") => {}
            // Not ours to make; it may be there, or be made by the first document.
            401 | 403 => {}
            _ => return Err(held("stream", &made)),
        }
        Ok(())
    }

    async fn install_template(&self, client: &Client, flavour: Flavour) -> Result<(), Trouble> {
        let name = template::name(self.layout, &self.stream);
        let path = format!("/_index_template/{name}");
        let existing = call(client, Method::GET, &path, None).await?;
        match existing.status.as_u16() {
            404 => {}
            200 if template::replaces(&serde_json::from_slice(&existing.body).unwrap_or_default()) => {}
            200 => return Ok(()),
            401 | 403 => {
                tracing::warn!(
                    template = name,
                    "we may not look at templates: whatever the server has is used"
                );
                return Ok(());
            }
            _ => return Err(held("template", &existing)),
        }
        let ours = template::template(self.layout, &self.stream, flavour, self.retention);
        let put = call(client, Method::PUT, &path, Some(&ours)).await?;
        match put.status.as_u16() {
            200 => tracing::info!(template = name, ?flavour, "the index template is installed"),
            401 | 403 => tracing::warn!(
                template = name,
                "we may not install our template: whatever the server has is used"
            ),
            _ => return Err(held("template", &put)),
        }
        Ok(())
    }

    /// A server without Index State Management does without; a policy that is there stays.
    async fn install_policy(&self, client: &Client) -> Result<(), Trouble> {
        let name = template::name(self.layout, &self.stream);
        let path = format!("/_plugins/_ism/policies/{name}");
        let existing = call(client, Method::GET, &path, None).await?;
        if existing.status.as_u16() != 404 {
            return Ok(());
        }
        let ours = template::policy(self.layout, &self.stream, self.retention);
        let put = call(client, Method::PUT, &path, Some(&ours)).await?;
        if !put.status.is_success() {
            let words = shortened(&String::from_utf8_lossy(&put.body));
            tracing::warn!(policy = name, words, "the lifecycle policy could not be installed");
        }
        Ok(())
    }
}

/// Every status but those that say "later" is for the caller.
async fn call(
    client: &Client,
    method: Method,
    path: &str,
    content: Option<&Value>,
) -> Result<Reply, Trouble> {
    let bytes = content.map_or_else(Bytes::new, |content| content.to_string().into());
    let reply =
        client.call(method, path, Content { bytes, gzip: false }).await.map_err(|error| not_sent(&error))?;
    match reply.status.as_u16() {
        408 | 429 | 500..=599 => Err(trouble(&reply)),
        _ => Ok(reply),
    }
}

fn held(what: &str, reply: &Reply) -> Trouble {
    let words = shortened(&String::from_utf8_lossy(&reply.body));
    Trouble::hold(what, format!("{}: {words}", reply.status.as_u16()))
}

/// What answers at `/`. Something that is neither is a wrong address, or a proxy's page.
fn flavour(reply: &Reply) -> Result<Flavour, Trouble> {
    let elastic = reply.headers.get("x-elastic-product").is_some_and(|value| value == "Elasticsearch");
    let status = reply.status.as_u16();
    if status == 403 {
        // We may write, not look.
        return Ok(if elastic { Flavour::Elasticsearch(0, 0) } else { Flavour::OpenSearch });
    }
    if status != 200 {
        return Err(trouble(reply));
    }
    let said: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let Some(number) = said["version"]["number"].as_str() else {
        return Err(Trouble::hold("no_elasticsearch", shortened(&String::from_utf8_lossy(&reply.body))));
    };
    if said["version"]["distribution"] == "opensearch" {
        return Ok(Flavour::OpenSearch);
    }
    let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0));
    Ok(Flavour::Elasticsearch(parts.next().unwrap_or(0), parts.next().unwrap_or(0)))
}
