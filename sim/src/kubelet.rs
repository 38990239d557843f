//! The kubelet's HTTP endpoint: `/pods` and `/healthz`, plain HTTP on loopback.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::clock::rfc3339_seconds;
use crate::container::{ContainerSpec, Resources};
use crate::error::SimError;
use crate::node::Shared;
use crate::pods::{Owner, PodSpec};

/// A pod as the kubelet knows it now.
#[derive(Clone, Debug)]
pub(crate) struct PodStatus {
    pub(crate) spec: PodSpec,
    pub(crate) started_nanos: u64,
    pub(crate) containers: Vec<ContainerStatus>,
    pub(crate) succeeded: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct ContainerStatus {
    pub(crate) id: String,
    pub(crate) restart: u32,
    pub(crate) started_nanos: u64,
    pub(crate) state: State,
    pub(crate) last: Option<Ended>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// For this reason.
    Waiting(&'static str),
}

/// The instance before.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) id: String,
    pub(crate) reason: &'static str,
    pub(crate) exit_code: i32,
}

impl PodStatus {
    pub(crate) fn phase(&self) -> &'static str {
        let started = |container: &ContainerStatus| !container.id.is_empty();
        match self.succeeded {
            true => "Succeeded",
            false if self.containers.iter().all(started) => "Running",
            false => "Pending",
        }
    }

    fn is_ready(&self) -> bool {
        !self.succeeded && self.containers.iter().all(|container| container.state == State::Running)
    }
}

/// Faults that a test asks for.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// HTTP status instead of an answer; 0 = none.
    pub(crate) status: AtomicU64,
    pub(crate) delay_millis: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    pub(crate) fn start(shared: Arc<Shared>) -> Result<Self, SimError> {
        let stopped = |error: std::io::Error| SimError::Stopped(format!("kubelet endpoint: {error}"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(stopped)?;
        listener.set_nonblocking(true).map_err(stopped)?;
        let address = listener.local_addr().map_err(stopped)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(stopped)?;
        let (stop, stopping) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("sim-kubelet-http".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(listener, &shared) => {}
                        _ = stopping => {}
                    }
                });
            })
            .map_err(stopped)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, shared: &Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, std::convert::Infallible>(answer(&shared, &request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let delay = shared.faults.delay_millis.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let fault = u16::try_from(shared.faults.status.load(Ordering::Relaxed)).unwrap_or(0);
    if fault > 0 {
        let status = StatusCode::from_u16(fault).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        return plain(status, "asked to fail\n");
    }
    if let Some(token) = &shared.options.kubelet_token {
        let given = request.headers().get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
        if given != Some(format!("Bearer {token}").as_bytes()) {
            return plain(StatusCode::UNAUTHORIZED, "Unauthorized");
        }
    }
    match request.uri().path() {
        "/healthz" => plain(StatusCode::OK, "ok"),
        "/pods" | "/pods/" => {
            let mut response = plain(StatusCode::OK, &pod_list(shared).to_string());
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            shared.asked.fetch_add(1, Ordering::AcqRel);
            response
        }
        _ => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn plain(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response
}

fn pod_list(shared: &Shared) -> Value {
    let pods = shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
    let items: Vec<Value> = pods.iter().map(|pod| pod_json(&shared.options.node_name, pod)).collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// The shape of the recorded kubelet 1.36 `/pods`, without what nobody reads (managedFields, volumes).
fn pod_json(node: &str, pod: &PodStatus) -> Value {
    let spec = &pod.spec;
    let started = rfc3339_seconds(pod.started_nanos);
    let mut metadata = json!({
        "name": spec.name, "namespace": spec.namespace, "uid": spec.uid, "labels": spec.labels,
        "creationTimestamp": started,
        "annotations": {"kubernetes.io/config.seen": started, "kubernetes.io/config.source": "api"},
    });
    let owner = match &spec.owner {
        Owner::None => None,
        Owner::ReplicaSet(name) => Some(("apps/v1", "ReplicaSet", name)),
        Owner::StatefulSet(name) => Some(("apps/v1", "StatefulSet", name)),
        Owner::DaemonSet(name) => Some(("apps/v1", "DaemonSet", name)),
        Owner::Job(name) => Some(("batch/v1", "Job", name)),
        Owner::File => {
            metadata["annotations"]["kubernetes.io/config.source"] = json!("file");
            metadata["annotations"]["kubernetes.io/config.hash"] = json!(spec.uid);
            None
        }
    };
    if let Some((version, kind, name)) = owner {
        metadata["ownerReferences"] = json!([{
            "apiVersion": version, "kind": kind, "name": name, "uid": "328ba4d7-6920-476d-8248-e6bc87154750",
            "controller": true, "blockOwnerDeletion": true,
        }]);
    }
    let (phase, ready) = (pod.phase(), if pod.is_ready() { "True" } else { "False" });
    let address = if spec.host_network { "10.77.0.2" } else { "10.244.0.17" };
    let containers: Vec<Value> = spec
        .containers
        .iter()
        .map(|container| {
            json!({"name": container.name, "image": container.image,
                   "resources": resources(&container.resources)})
        })
        .collect();
    let statuses: Vec<Value> = spec
        .containers
        .iter()
        .zip(&pod.containers)
        .map(|(spec, status)| status_json(pod, spec, status))
        .collect();
    json!({
        "metadata": metadata,
        "spec": {"containers": containers, "restartPolicy": "Always", "nodeName": node,
                 "hostNetwork": spec.host_network},
        "status": {"phase": phase, "hostIP": "10.77.0.2", "podIP": address, "podIPs": [{"ip": address}],
                   "startTime": started, "qosClass": "Burstable", "containerStatuses": statuses,
                   "conditions": [{"type": "Ready", "status": ready, "lastProbeTime": null,
                                   "lastTransitionTime": started}]},
    })
}

fn resources(of: &Resources) -> Value {
    let mut resources = json!({"requests": {
        "cpu": format!("{}m", of.cpu_request_millis), "memory": of.memory_request_bytes.to_string(),
    }});
    if let Some(millis) = of.cpu_limit_millis {
        resources["limits"]["cpu"] = json!(format!("{millis}m"));
    }
    if let Some(bytes) = of.memory_limit_bytes {
        resources["limits"]["memory"] = json!(bytes.to_string());
    }
    resources
}

fn status_json(pod: &PodStatus, container: &ContainerSpec, status: &ContainerStatus) -> Value {
    let id = if status.id.is_empty() { String::new() } else { format!("containerd://{}", status.id) };
    let since = rfc3339_seconds(status.started_nanos);
    let state = match status.state {
        State::Waiting(reason) => json!({"waiting": {"reason": reason}}),
        State::Running if pod.succeeded => {
            json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": since,
                                  "finishedAt": since, "containerID": id}})
        }
        State::Running => json!({"running": {"startedAt": since}}),
    };
    let last = status.last.as_ref().map_or(json!({}), |last| {
        json!({"terminated": {"exitCode": last.exit_code, "reason": last.reason,
                              "startedAt": rfc3339_seconds(pod.started_nanos), "finishedAt": since,
                              "containerID": format!("containerd://{}", last.id)}})
    });
    let runs = status.state == State::Running && !pod.succeeded;
    json!({"name": container.name, "state": state, "lastState": last, "ready": runs,
           "restartCount": status.restart, "image": container.image,
           "imageID": format!("sha256:{}", status.id), "containerID": id, "started": runs})
}
