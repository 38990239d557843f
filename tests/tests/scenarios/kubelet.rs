//! Kubelets that say what a test wants them to say, in HTTP/1.0.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// What is answered to each request.
pub enum Says {
    Pods(Value),
    /// Not one byte.
    Nothing,
    /// A body without an end.
    Endless,
}

pub struct Kubelet {
    pub url: String,
    says: Arc<Mutex<Says>>,
}

impl Kubelet {
    /// Its threads end with the test's process.
    pub fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let says = Arc::new(Mutex::new(says));
        let shared = says.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let says = shared.clone();
                std::thread::spawn(move || answer(stream, &says));
            }
        });
        Self { url, says }
    }

    pub fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

fn answer(mut stream: TcpStream, says: &Mutex<Says>) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request);
    let head = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n";
    let pods = match &*says.lock().unwrap() {
        Says::Pods(pods) => Some(pods.to_string()),
        Says::Nothing => None,
        Says::Endless => Some(String::new()),
    };
    match pods.as_deref() {
        // Held open for as long as the other side likes.
        None => drop(stream.read(&mut request)),
        Some("") => {
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(b"{\"kind\": \"PodList\", \"items\": [");
            while stream.write_all(&[b' '; 65_536]).is_ok() {}
        }
        Some(pods) => drop(stream.write_all(format!("{head}{pods}").as_bytes())),
    }
}

/// A running pod of the node that [`sonde_tests::stack::Stack`] names.
pub fn pod(name: &str, uid: &str, app: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "ns", "uid": uid, "labels": {"app": app}},
        "spec": {"nodeName": "test-node", "containers": [{"name": "app", "image": format!("{app}:1")}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [{
                "name": "app", "image": format!("{app}:1"), "imageID": "", "ready": true, "restartCount": 0,
                "containerID": format!("containerd://{app}"),
            }],
        },
    })
}

pub fn list(pods: &[Value]) -> Says {
    Says::Pods(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}))
}
