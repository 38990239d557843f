use std::fmt::Write;

use super::super::tests::{index, node, tell};
use super::*;

/// A pod list of rows `uid, address, phase, made, host_network`.
fn list(rows: &[(&str, &str, &str, &str, bool)]) -> Vec<u8> {
    let mut items = Vec::new();
    for (uid, ip, phase, made, host) in rows {
        let mut item = String::new();
        write!(
            item,
            r#"{{"metadata":{{"name":"{uid}","namespace":"shop","uid":"{uid}","creationTimestamp":"{made}"}},
            "spec":{{"hostNetwork":{host},"containers":[{{"name":"a"}},{{"name":"b"}}]}},
            "status":{{"phase":"{phase}","podIP":"{ip}","hostIP":"192.0.2.1"}}}}"#
        )
        .unwrap();
        items.push(item);
    }
    format!(r#"{{"kind":"PodList","items":[{}]}}"#, items.join(",")).into_bytes()
}

fn uid_at(senders: &Senders, ip: &str) -> Option<String> {
    let sender = senders.find(Some(ip.parse().unwrap()));
    let bytes = [0x0a, 0];
    let mut found = None;
    sonde_wire::enrich::enrich(
        &bytes,
        |said| {
            let set = sender.attributes(said);
            found = Some(String::from_utf8_lossy(set.bytes()).into_owned());
            set
        },
        &mut Vec::new(),
    )
    .unwrap();
    let all = found.unwrap();
    ["old", "new", "host"].into_iter().find(|uid| all.contains(uid)).map(str::to_owned)
}

#[test]
fn an_address_that_another_pod_has_now_is_that_pods() {
    let (early, late) = ("2026-11-20T10:00:00Z", "2026-11-20T11:00:00Z");
    for rows in [
        [("old", "10.0.0.7", "Succeeded", late, false), ("new", "10.0.0.7", "Running", early, false)],
        [("new", "10.0.0.7", "Running", early, false), ("old", "10.0.0.7", "Failed", late, false)],
        [("old", "10.0.0.7", "Running", early, false), ("new", "10.0.0.7", "Running", late, false)],
        [("new", "10.0.0.7", "Running", late, false), ("old", "10.0.0.7", "Running", early, false)],
    ] {
        let senders = Senders::new(node(), index(&list(&rows)), true);
        assert_eq!(uid_at(&senders, "10.0.0.7").as_deref(), Some("new"), "{rows:?}");
    }
    let index = index(&list(&[("old", "10.0.0.7", "Running", early, false)]));
    let senders = Senders::new(node(), index.clone(), true);
    assert_eq!(uid_at(&senders, "10.0.0.7").as_deref(), Some("old"));
    tell(&index, &list(&[("new", "10.0.0.7", "Running", late, false)]));
    assert_eq!(uid_at(&senders, "10.0.0.7").as_deref(), Some("new"));
    tell(&index, &list(&[]));
    assert_eq!(uid_at(&senders, "10.0.0.7"), None);
}

#[test]
fn the_hosts_address_is_no_pods() {
    let at = "2026-11-20T10:00:00Z";
    let rows = [("host", "192.0.2.1", "Running", at, true), ("old", "192.0.2.1", "Running", at, false)];
    let senders = Senders::new(node(), index(&list(&rows)), true);
    assert_eq!(uid_at(&senders, "192.0.2.1"), None);
    assert_eq!(uid_at(&senders, "192.0.2.2"), None);
}

#[test]
fn of_several_containers_the_one_that_the_app_names_is_named() {
    use sonde_wire::attrs::AttrSet;
    let rows = [("new", "10.0.0.7", "Running", "", false)];
    let senders = Senders::new(node(), index(&list(&rows)), true);
    let sender = senders.find(Some("10.0.0.7".parse().unwrap()));
    let given = |resource: AttrSet| {
        let mut group = vec![0x0a, u8::try_from(resource.bytes().len()).unwrap()];
        group.extend(resource.bytes());
        let mut request = vec![0x0a, u8::try_from(group.len()).unwrap()];
        request.extend(group);
        let mut set = String::new();
        let note = |said: sonde_wire::enrich::Said<'_>| {
            set = String::from_utf8_lossy(sender.attributes(said).bytes()).into_owned();
            AttrSet::default()
        };
        sonde_wire::enrich::enrich(&request, note, &mut Vec::new()).unwrap();
        set
    };
    assert!(!given(AttrSet::default()).contains("k8s.container.name"));
    let named = |name| AttrSet::builder().str("k8s.container.name", name).build();
    assert!(given(named("b")).contains("k8s.container.name"));
    assert!(!given(named("c")).contains("k8s.container.name"));
}

#[tokio::test]
async fn an_address_that_nobody_knows_is_waited_for_once() {
    let pods = index(&list(&[]));
    let senders = Arc::new(Senders::new(node(), pods.clone(), true));
    let address: IpAddr = "10.0.0.7".parse().unwrap();
    let waiting = tokio::spawn({
        let senders = Arc::clone(&senders);
        async move { senders.settle(address).await }
    });
    pods.wanted().await;
    tell(&pods, &list(&[("new", "10.0.0.7", "Running", "", false)]));
    waiting.await.unwrap();
    assert_eq!(uid_at(&senders, "10.0.0.7").as_deref(), Some("new"));

    let stranger: IpAddr = "10.9.9.9".parse().unwrap();
    for want in ["waits", "goes on"] {
        let went = tokio::select! {
            biased;
            () = senders.settle(stranger) => "goes on",
            () = std::future::ready(()) => "waits",
        };
        assert_eq!(went, want);
    }
    for number in 0..200u32 {
        senders.may_wait(IpAddr::from(number.to_be_bytes()));
    }
    assert!(senders.strangers.lock().unwrap().len() <= STRANGERS, "strangers cost no memory");
}
