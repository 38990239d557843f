//! Before the first record: what kind of server it is, our template and lifecycle, the stream itself.
//!
//! Of the lifecycle a server may say no, or nothing, and records go on all the same: what is [`Left`] of it is tried again
//! later. Each try looks at what is there first, so that also the next process finds what this one could not do.

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

/// Indices that are named in one request.
const AT_A_TIME: usize = 20;

/// The setting of an index that is `false` where its policy was taken away by the API.
const AUTO_MANAGE: &str = "index.plugins.index_state_management.auto_manage";

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

/// What the server did not take of the lifecycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// The stream's retention, of Elasticsearch. With the one that we asked for before.
    Retention(Option<String>),
    /// The policy of OpenSearch, or that indices that are there go by it.
    Policy {
        /// They are to be told, whatever they go by as far as can be seen.
        tell: bool,
    },
}

/// What is left, and why: the server's words.
type NotSet = (Left, String);

impl Setup {
    /// Does what is allowed; an answer of 401 or 403 to our template is no reason to stop, since somebody else may
    /// have set up everything. A stream that is not there and cannot be made is: without it the server would make a
    /// plain index of its own.
    pub async fn run(&self, client: &Client) -> Result<Result<(), NotSet>, Trouble> {
        let flavour = flavour(&call(client, Method::GET, "/", None).await?)?;
        let stream = template::stream_name(self.layout, &self.stream);
        let (mut template, mut policy) = (Existing::Other, Ok(false));
        if self.templates {
            if flavour == Flavour::OpenSearch {
                // Where nothing answers at all, what comes next says so.
                let installed = self.install_policy(client, None).await;
                policy = installed.unwrap_or_else(|why| Err((Left::Policy { tell: false }, said(&why))));
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
        let is_made = match made.status.as_u16() {
            200 => true,
            400 if error(&made.body)
                .is_some_and(|error| error.kind == "resource_already_exists_exception") =>
            {
                false
            }
            // Not ours to make; it may be there, or be made by the first document.
            401 | 403 => false,
            _ => return Err(held("stream", &made)),
        };
        if is_made {
            tracing::info!(stream, ?flavour, "the data stream is made");
        } else if policy == Ok(true) {
            policy = self.again(client, Left::Policy { tell: false }).await.map(|()| false);
        }
        match template {
            // The template only says how a stream begins.
            Existing::Ours(before) | Existing::Replaceable(before) if template::has_lifecycle(flavour) => {
                Ok(self.install_lifecycle(client, before).await)
            }
            _ => Ok(policy.map(drop)),
        }
    }

    /// Tries again what was left.
    pub async fn again(&self, client: &Client, left: Left) -> Result<(), NotSet> {
        match left {
            Left::Retention(before) => self.install_lifecycle(client, before).await,
            Left::Policy { tell } => {
                let set = self.install_policy(client, Some(tell)).await;
                set.unwrap_or_else(|why| Err((Left::Policy { tell }, said(&why)))).map(drop)
            }
        }
    }

    /// Sees to it that the stream keeps records as long as is asked for. Where nothing is asked for, only what we asked
    /// for `before` is taken back.
    async fn install_lifecycle(&self, client: &Client, before: Option<String>) -> Result<(), NotSet> {
        let stream = template::stream_name(self.layout, &self.stream);
        let path = format!("/_data_stream/{stream}/_lifecycle");
        let set = async {
            let existing = call(client, Method::GET, &path, None).await.map_err(|why| said(&why))?;
            let now = json_of(&existing);
            let now = now["data_streams"][0]["lifecycle"]["data_retention"].as_str().map(str::to_owned);
            let stays = match self.retention.map(template::age) {
                Some(wanted) => now == Some(wanted),
                None => now.is_none() || now != before,
            };
            if stays {
                return Ok::<(), String>(());
            }
            let content = template::lifecycle(self.retention);
            done(client, Method::PUT, &path, Some(&content)).await?;
            tracing::info!(stream, before = now, retention = ?self.retention, "the stream's retention is set");
            Ok(())
        };
        set.await.map_err(|why| (Left::Retention(before), why))
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
    /// retention. That goes to the indices that are there too, also where an earlier try did not bring it there.
    ///
    /// `again` = it is tried again, behind the making of the stream; and whether the indices are to be told. Gives whether the
    /// policy is new, and a stream that was there does not know it.
    async fn install_policy(
        &self,
        client: &Client,
        again: Option<bool>,
    ) -> Result<Result<bool, NotSet>, Trouble> {
        let name = template::name(self.layout, &self.stream);
        let path = format!("/_plugins/_ism/policies/{name}");
        let existing = call(client, Method::GET, &path, None).await?;
        let ours = template::policy(self.layout, &self.stream, self.retention);
        let said = json_of(&existing);
        let not_set = |tell: bool, why: String| Ok(Err((Left::Policy { tell }, why)));
        let (only_if, is_new) = match existing.status.as_u16() {
            404 => (Some(String::new()), true),
            200 if template::policy_differs(&said, &ours) => {
                let only_if =
                    format!("?if_seq_no={}&if_primary_term={}", said["_seq_no"], said["_primary_term"]);
                (Some(only_if), false)
            }
            200 if template::is_our_policy(&said) => (None, false),
            401 | 403 if self.retention.is_some() => return not_set(false, words(&existing)),
            _ => return Ok(Ok(false)),
        };
        let is_changed = only_if.is_some() && !is_new;
        if let Some(only_if) = only_if {
            let put = call(client, Method::PUT, &format!("{path}{only_if}"), Some(&ours)).await?;
            if !put.status.is_success() {
                return not_set(again.unwrap_or(false), words(&put));
            }
            tracing::info!(policy = name, retention = ?self.retention, "the lifecycle policy is installed");
            if is_new && again.is_none() {
                return Ok(Ok(true));
            }
        }
        let tell = is_changed || again.unwrap_or(false);
        // Its version, where it stays as it is.
        let version = said["_seq_no"].as_i64().filter(|_| !is_new && !is_changed);
        match self.bring_along(client, &name, version, tell).await {
            Ok(()) => Ok(Ok(false)),
            Err(why) => not_set(tell, why),
        }
    }

    /// Sees to it that the indices that are there go by the policy as it is: what is managed already goes on by the one that
    /// it was given, until it is told. Those without any may be older than the policy, also where the process that
    /// installed it ended before it came to them.
    async fn bring_along(
        &self,
        client: &Client,
        policy: &str,
        version: Option<i64>,
        mut tell: bool,
    ) -> Result<(), String> {
        let pattern = template::backing_pattern(self.layout, &self.stream);
        let path = format!("/_plugins/_ism/explain/{pattern}");
        let explained = call(client, Method::GET, &path, None).await.map_err(|why| said(&why))?;
        if !tell && !explained.status.is_success() {
            return Err(words(&explained));
        }
        let explained = json_of(&explained);
        let indices = explained.as_object().into_iter().flatten().filter(|(_, index)| index.is_object());
        let (managed, others): (Vec<_>, Vec<_>) =
            indices.partition(|(_, index)| index["policy_id"].is_string());
        let others: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).collect();
        // One that cannot be added keeps no other from the policy.
        let added = self.add(client, policy, others).await;
        // What was not looked at by the server yet has no version, or a negative one, and gets the policy as it is.
        let of_another = |index: &Value| {
            let seen = index["policy_seq_no"].as_i64().filter(|seen| *seen >= 0);
            seen.is_some() && version.is_some() && seen != version
        };
        tell |= managed.iter().any(|(_, index)| index["policy_id"] == policy && of_another(index));
        if tell {
            let path = format!("/_plugins/_ism/change_policy/{pattern}");
            done(client, Method::POST, &path, Some(&json!({"policy_id": policy}))).await?;
            tracing::info!(policy, "the indices that are there go by the changed policy");
        }
        added
    }

    /// Gives the policy to indices without any, but for those that somebody has taken it from: they stay as they are.
    async fn add(&self, client: &Client, policy: &str, mut indices: Vec<&str>) -> Result<(), String> {
        if indices.is_empty() {
            return Ok(());
        }
        let pattern = template::backing_pattern(self.layout, &self.stream);
        let path = format!("/{pattern}/_settings/{AUTO_MANAGE}?flat_settings=true");
        let settings = call(client, Method::GET, &path, None).await.map_err(|why| said(&why))?;
        if !settings.status.is_success() {
            return Err(words(&settings));
        }
        let settings = json_of(&settings);
        indices.retain(|index| settings[*index]["settings"][AUTO_MANAGE] != "false");
        let now = &indices[..indices.len().min(AT_A_TIME)];
        if now.is_empty() {
            return Ok(());
        }
        let path = format!("/_plugins/_ism/add/{}", now.join(","));
        done(client, Method::POST, &path, Some(&json!({"policy_id": policy}))).await?;
        tracing::info!(policy, indices = now.len(), "indices that are older than the policy go by it");
        if indices.len() > now.len() {
            return Err("there are more indices without a policy".to_owned());
        }
        Ok(())
    }
}

/// Sends a change; the text says why it was not done. The lifecycle of OpenSearch says yes to what it could not do, and what
/// that was.
async fn done(client: &Client, method: Method, path: &str, content: Option<&Value>) -> Result<(), String> {
    let reply = call(client, method, path, content).await.map_err(|why| said(&why))?;
    if reply.status.is_success() && json_of(&reply)["failures"] != true { Ok(()) } else { Err(words(&reply)) }
}

fn json_of(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_default()
}

fn words(reply: &Reply) -> String {
    format!("{}: {}", reply.status.as_u16(), shortened(&String::from_utf8_lossy(&reply.body)))
}

fn said(trouble: &Trouble) -> String {
    format!("{}: {}", trouble.code, trouble.message)
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
    Trouble::hold(what, words(reply))
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
