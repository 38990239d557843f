//! Before the first record: what kind of server it is, our template and lifecycle, the stream itself.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use sonde_daemon::client::pool::Reply;
use sonde_daemon::units::Interval;

use super::answer::{error, shortened};
use super::client::{Client, Content};
use super::template::{self, Existing, Flavour};
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
        let mut template = Existing::Other;
        if self.templates {
            if flavour == Flavour::OpenSearch {
                self.install_policy(client).await?;
            } else if self.retention.is_some() && !template::has_lifecycle(flavour) {
                tracing::error!(
                    ?flavour,
                    "`retention` of this sink does nothing: only Elasticsearch 8.14 and newer has a lifecycle that we can \
                     set; the policy `logs` of the server says how long records are kept"
                );
            }
            template = self.install_template(client, flavour).await?;
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
        match template {
            // The template only says how a stream begins.
            Existing::Ours(before) | Existing::Replaceable(before) if template::has_lifecycle(flavour) => {
                self.install_lifecycle(client, &stream, before).await
            }
            _ => Ok(()),
        }
    }

    /// Sees to it that the stream keeps records as long as is asked for. Where nothing is asked for, only what we asked
    /// for `before` is taken back.
    async fn install_lifecycle(
        &self,
        client: &Client,
        stream: &str,
        before: Option<String>,
    ) -> Result<(), Trouble> {
        let path = format!("/_data_stream/{stream}/_lifecycle");
        let existing = call(client, Method::GET, &path, None).await?;
        let said: Value = serde_json::from_slice(&existing.body).unwrap_or_default();
        let now = said["data_streams"][0]["lifecycle"]["data_retention"].as_str().map(str::to_owned);
        let stays = match self.retention.map(template::age) {
            Some(wanted) => now == Some(wanted),
            None => now.is_none() || now != before,
        };
        if stays {
            return Ok(());
        }
        let put = call(client, Method::PUT, &path, Some(&template::lifecycle(self.retention))).await?;
        if put.status.is_success() {
            tracing::info!(stream, before = now, retention = ?self.retention, "the stream's retention is set");
        } else {
            let words = shortened(&String::from_utf8_lossy(&put.body));
            tracing::warn!(stream, words, "the stream's retention could not be set");
        }
        Ok(())
    }

    /// Gives what was there.
    async fn install_template(&self, client: &Client, flavour: Flavour) -> Result<Existing, Trouble> {
        let name = template::name(self.layout, &self.stream);
        let path = format!("/_index_template/{name}");
        let ours = template::template(self.layout, &self.stream, flavour, self.retention);
        let found = call(client, Method::GET, &path, None).await?;
        let existing = match found.status.as_u16() {
            404 => Existing::Replaceable(None),
            200 => template::compare(&serde_json::from_slice(&found.body).unwrap_or_default(), &ours),
            401 | 403 => {
                tracing::warn!(
                    template = name,
                    "we may not look at templates: whatever the server has is used"
                );
                Existing::Other
            }
            _ => return Err(held("template", &found)),
        };
        if !matches!(existing, Existing::Replaceable(_)) {
            return Ok(existing);
        }
        let put = call(client, Method::PUT, &path, Some(&ours)).await?;
        match put.status.as_u16() {
            200 => tracing::info!(template = name, ?flavour, "the index template is installed"),
            401 | 403 => {
                tracing::warn!(
                    template = name,
                    "we may not install our template: whatever the server has is used"
                );
                return Ok(Existing::Other);
            }
            _ => return Err(held("template", &put)),
        }
        Ok(existing)
    }

    /// A server without Index State Management does without; a policy that is there stays, but for ours with another
    /// retention. That goes to the indices that are there too.
    async fn install_policy(&self, client: &Client) -> Result<(), Trouble> {
        let name = template::name(self.layout, &self.stream);
        let path = format!("/_plugins/_ism/policies/{name}");
        let existing = call(client, Method::GET, &path, None).await?;
        let ours = template::policy(self.layout, &self.stream, self.retention);
        let said: Value = serde_json::from_slice(&existing.body).unwrap_or_default();
        let only_if = match existing.status.as_u16() {
            404 => String::new(),
            200 if template::policy_differs(&said, &ours) => {
                format!("?if_seq_no={}&if_primary_term={}", said["_seq_no"], said["_primary_term"])
            }
            _ => return Ok(()),
        };
        let put = call(client, Method::PUT, &format!("{path}{only_if}"), Some(&ours)).await?;
        if !put.status.is_success() {
            let words = shortened(&String::from_utf8_lossy(&put.body));
            tracing::warn!(policy = name, words, "the lifecycle policy could not be installed");
            return Ok(());
        }
        tracing::info!(policy = name, retention = ?self.retention, "the lifecycle policy is installed");
        if only_if.is_empty() {
            return Ok(());
        }
        // What is managed already goes on by the policy as it was, until it is told.
        let indices = template::backing_pattern(self.layout, &self.stream);
        let path = format!("/_plugins/_ism/change_policy/{indices}");
        let changed = call(client, Method::POST, &path, Some(&json!({"policy_id": name}))).await?;
        let words = shortened(&String::from_utf8_lossy(&changed.body));
        if changed.status.is_success() {
            tracing::info!(policy = name, words, "the indices that are there go by the changed policy");
        } else {
            tracing::warn!(policy = name, words, "the indices that are there stay with the policy as it was");
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
