//! The API as a client sees it.

use axum::body::to_bytes;
use axum::http::Request;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::*;
use crate::metrics::tests::{node, request};
use sonde_wire::view::MetricsRequest;

async fn get_json(metrics: &Metrics, path: &str) -> (u16, Value) {
    let service = TowerToHyperService::new(router(metrics.clone()));
    let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
    let response = service.call(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 22).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

/// Some nodes with a pod each, as they are now.
fn now(pods: &[(&str, &str, f64)]) -> Metrics {
    let metrics = Metrics::default();
    let now = unix_seconds();
    for (name, pod, cpu) in pods {
        for (at, cpu) in [(now - 10, 0.0), (now, *cpu)] {
            let bytes = request(name, "sonde-agent", at, &node(pod, cpu));
            metrics.take(MetricsRequest::trusted(&bytes), at);
        }
    }
    metrics
}

const HOSTILE: &str = "<img src=x onerror=alert(1)>\"\u{202e}";

#[tokio::test]
async fn nodes_namespaces_and_pods_are_told_with_their_history() {
    let metrics = now(&[("n1", "web", 5.0), ("n2", HOSTILE, 10.0)]);
    let (status, nodes) = get_json(&metrics, "/api/v1/nodes?points=6&span=1m&sort=cpu").await;
    assert_eq!(status, 200);
    let first = &nodes["nodes"][0];
    assert_eq!((&first["name"], &first["cpu_cores"]), (&json!("n2"), &json!(2.0)));
    assert_eq!(
        (&first["cpu_capacity_cores"], &first["memory_capacity_bytes"]),
        (&json!(2), &json!(8_000_000_000u64))
    );
    assert_eq!((&first["stale"], &first["pods"]), (&json!(false), &json!(1)));
    assert!(first["age_seconds"].as_u64().unwrap() < 5);
    let cpu = first["history"]["cpu_cores"].as_array().unwrap();
    assert!(cpu.len() == 6 && cpu.contains(&json!(2)) && cpu.contains(&Value::Null), "{cpu:?}");

    let (_, namespaces) = get_json(&metrics, "/api/v1/namespaces").await;
    let shop = &namespaces["namespaces"][0];
    assert_eq!(
        (&shop["name"], &shop["cpu_cores"], &shop["pods"]["running"]),
        (&json!("shop"), &json!(4.5), &json!(2))
    );
    assert_eq!(shop.get("history"), None);

    let (_, pods) = get_json(&metrics, "/api/v1/pods").await;
    let pod = &pods["pods"][0];
    assert_eq!(pod["name"], HOSTILE, "as it is: escaping is for who shows it");
    assert_eq!(
        (&pod["state"], &pod["restarts"], &pod["memory_bytes"]),
        (&json!("Running"), &json!(4), &json!(500_000_000))
    );
    assert_eq!(
        (&pod["containers"][0]["name"], &pod["containers"][0]["cpu_cores"]),
        (&json!("app"), &json!(1.0))
    );
    assert_eq!((&pods["total"], &pods["matched"], &pods["troubled"]), (&json!(2), &json!(2), &json!(0)));
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_cut() {
    let pods: Vec<(String, String, f64)> =
        (0..30u32).map(|n| (format!("n{}", n % 3), format!("web-{n:02}"), f64::from(n % 7))).collect();
    let metrics = Metrics::default();
    let now = unix_seconds();
    for name in ["n0", "n1", "n2"] {
        for at in [now - 10, now] {
            let rows = pods.iter().filter(|(own, ..)| own == name).flat_map(|(_, pod, cpu)| {
                let cpu = if at == now { *cpu } else { 0.0 };
                let mut rows = node(pod, cpu);
                if pod == "web-11" {
                    rows.push((
                        "kube_pod_container_status_waiting_reason",
                        vec![
                            ("namespace", "shop"),
                            ("pod", pod),
                            ("container", "app"),
                            ("reason", "CrashLoopBackOff"),
                        ],
                        1.0,
                    ));
                }
                rows
            });
            let bytes = request(name, "sonde-agent", at, &rows.collect());
            metrics.take(MetricsRequest::trusted(&bytes), at);
        }
    }
    let names = |found: &Value| -> Vec<String> {
        found["pods"].as_array().unwrap().iter().map(|pod| pod["name"].as_str().unwrap().to_owned()).collect()
    };
    for (query, matched, first) in [
        ("sort=cpu&limit=3", 30, &["web-06", "web-13", "web-20"][..]),
        ("sort=cpu&order=asc&limit=2&offset=1", 30, &["web-07", "web-14"]),
        ("sort=name&order=desc&limit=2", 30, &["web-29", "web-28"]),
        ("q=WEB-1%20n1&limit=2", 4, &["web-10", "web-13"]),
        ("q=crashloop", 1, &["web-11"]),
        ("problem=true", 1, &["web-11"]),
        ("sort=state&limit=1", 30, &["web-11"]),
        ("node=n2&limit=1", 10, &["web-02"]),
        ("namespace=other", 0, &[]),
        ("offset=30", 30, &[]),
    ] {
        let (_, found) = get_json(&metrics, &format!("/api/v1/pods?{query}")).await;
        assert_eq!(
            (found["matched"].as_u64(), &names(&found)[..]),
            (Some(matched), &first.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()[..]),
            "{query}"
        );
    }
    let (_, found) = get_json(&metrics, "/api/v1/pods?limit=0").await;
    assert_eq!(
        (&found["total"], &found["troubled"], found["pods"].as_array().unwrap().len()),
        (&json!(30), &json!(1), 0)
    );
}

#[tokio::test]
async fn the_history_of_one_thing_is_an_hour_long() {
    let metrics = now(&[("n1", "web", 5.0)]);
    for (query, series, value) in [
        ("namespace=shop&pod=web", "cpu_cores", 1.5),
        ("namespace=shop&pod=web&cluster=c&node=n1", "restarts", 4.0),
        ("namespace=shop&pod=web", "ready", 1.0),
        ("namespace=shop&pod=web&container=app", "memory_bytes", 4e8),
        ("node=n1", "cpu_cores", 1.0),
    ] {
        let (status, found) = get_json(&metrics, &format!("/api/v1/history?{query}")).await;
        let values = found["series"][series].as_array().unwrap();
        assert_eq!((status, values.len(), &found["step_seconds"]), (200, 360, &json!(10)), "{query}");
        let near = |seen: &Value| seen.as_f64().is_some_and(|seen| (seen / value - 1.0).abs() < 0.01);
        assert!(values.iter().any(near), "{query} {series}");
    }
    let (status, found) = get_json(&metrics, "/api/v1/history?namespace=shop").await;
    assert_eq!((status, found["series"]["cpu_cores"].as_array().unwrap().len()), (200, 360));
    for query in ["namespace=shop&pod=gone", "node=n1&cluster=other", "namespace=none"] {
        assert_eq!(get_json(&metrics, &format!("/api/v1/history?{query}")).await.0, 404, "{query}");
    }
    assert_eq!(get_json(&metrics, "/api/v1/history").await.0, 400);
    assert_eq!(get_json(&metrics, "/api/v1/pods?limit=many").await.0, 400);
}
