use std::collections::{BTreeMap, BTreeSet};

use crate::metrics::tests::{families, recorded_pods, rendered};

type Rows = BTreeMap<BTreeMap<String, String>, f64>;

fn page() -> BTreeMap<String, Rows> {
    let pods = recorded_pods().states();
    families(&rendered(move |out| super::show(&pods, out)).replace("sha256:", "sha256/"))
}

fn row<'r>(rows: &'r Rows, pod: &str, more: &[(&str, &str)]) -> Vec<(&'r BTreeMap<String, String>, f64)> {
    rows.iter()
        .filter(|(labels, _)| labels["pod"] == pod && more.iter().all(|(key, value)| labels[*key] == *value))
        .map(|(labels, value)| (labels, *value))
        .collect()
}

#[test]
fn every_row_carries_namespace_pod_and_uid() {
    for (family, rows) in page() {
        for labels in rows.keys() {
            for key in ["namespace", "pod", "uid"] {
                assert!(labels.get(key).is_some_and(|value| !value.is_empty()), "{family} {labels:?}");
            }
        }
    }
}

#[test]
fn one_phase_of_five_is_one() {
    let page = page();
    let rows = &page["kube_pod_status_phase"];
    let phases = row(rows, "db-0", &[]);
    assert_eq!(phases.len(), 5);
    assert_eq!(phases.iter().map(|(_, value)| value).sum::<f64>(), 1.0);
    assert_eq!(row(rows, "db-0", &[("phase", "Running")])[0].1, 1.0);
}

#[test]
fn owners_are_told_and_their_absence_too() {
    let page = page();
    let db = row(&page["kube_pod_info"], "db-0", &[])[0].0;
    assert_eq!((db["created_by_kind"].as_str(), db["created_by_name"].as_str()), ("StatefulSet", "db"));
    assert_eq!((db["host_network"].as_str(), db["node"].as_str()), ("false", "lab-node-1"));
    let fixed = row(&page["kube_pod_owner"], "static-web-lab-node-1", &[])[0].0;
    assert_eq!(
        (fixed["owner_kind"].as_str(), fixed["owner_name"].as_str()),
        ("Node", "lab-node-1"),
        "as its mirror"
    );
    let none = row(&page["kube_pod_owner"], "bigline", &[])[0].0;
    assert_eq!((none["owner_kind"].as_str(), none["owner_is_controller"].as_str()), ("", ""));
}

#[test]
fn reasons_stand_only_while_there_is_one() {
    let page = page();
    let waiting: BTreeSet<(String, String)> = page["kube_pod_container_status_waiting_reason"]
        .keys()
        .map(|labels| (labels["pod"].clone(), labels["reason"].clone()))
        .collect();
    for (pod, reason) in [("noconfig", "CreateContainerConfigError"), ("nopull", "ImagePullBackOff")] {
        assert!(waiting.contains(&(pod.to_owned(), reason.to_owned())), "{waiting:?}");
    }
    assert!(waiting.iter().all(|(pod, _)| pod != "db-0"));
    let last = row(&page["kube_pod_container_status_last_terminated_reason"], "oomer", &[]);
    assert_eq!(last.len(), 1);
    assert!(row(&page["kube_pod_container_status_last_terminated_exitcode"], "db-0", &[])[0].1 > 0.0);
}

#[test]
fn resources_have_a_unit_and_restarts_are_a_counter() {
    let page = page();
    let memory = row(&page["kube_pod_container_resource_limits"], "db-0", &[("resource", "memory")]);
    assert_eq!((memory[0].0["unit"].as_str(), memory[0].1), ("byte", 67_108_864.0));
    let cpu = row(&page["kube_pod_container_resource_requests"], "db-0", &[("resource", "cpu")]);
    assert_eq!((cpu[0].0["unit"].as_str(), cpu[0].1), ("core", 0.05));
    let pods = recorded_pods().states();
    let text = rendered(move |out| super::show(&pods, out));
    assert!(text.contains("# TYPE kube_pod_container_status_restarts_total counter\n"));
    assert!(
        page["kube_pod_init_container_status_terminated"].keys().any(|labels| labels["pod"] == "initpod")
    );
}

#[test]
fn an_empty_pod_list_and_empty_pods_are_fine() {
    let pods = [crate::pods::v1::Pod::default()];
    assert!(!rendered(move |out| super::show(&pods, out)).is_empty());
    rendered(|out| super::show(&[], out));
}

#[test]
fn a_pod_without_a_service_account_has_its_row_and_a_toleration_given_twice_has_one() {
    let mut pod = recorded_pods().states().first().unwrap().clone();
    pod.spec.service_account_name.clear();
    pod.spec.tolerations = vec![pod.spec.tolerations[0].clone(); 2];
    let page = families(
        &rendered(move |out| super::show(std::slice::from_ref(&pod), out)).replace("sha256:", "sha256/"),
    );
    assert_eq!(page["kube_pod_service_account"].len(), 1);
    assert_eq!(page["kube_pod_tolerations"].len(), 1);
}
