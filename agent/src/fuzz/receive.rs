//! Requests of apps.

use sonde_wire::attrs::AttrSet;
use sonde_wire::enrich::{enrich, enriched_len};
use sonde_wire::limits::ViewLimits;
use sonde_wire::view;

/// A request gets its attributes in as many bytes as was said, gets none a second time, and is good for a receiver exactly if it
/// was before.
pub fn enriched(request: &[u8]) {
    let ours = AttrSet::builder().str("k8s.pod.name", "web-0").str("a", "b").build();
    let choose = |said: sonde_wire::enrich::Said<'_>| {
        // An app that names its pod gets nothing.
        if said.text("k8s.pod.uid").is_some() { AttrSet::default() } else { ours.clone() }
    };
    let mut out = Vec::new();
    if enrich(request, choose, &mut out).is_err() {
        assert!(enriched_len(request, usize::MAX, choose).is_err());
        return;
    }
    assert_eq!(enriched_len(request, usize::MAX, choose), Ok(out.len()));
    let mut again = Vec::new();
    enrich(&out, choose, &mut again).unwrap();
    assert_eq!(again, out);
    let limits = ViewLimits { values: u32::MAX, ..ViewLimits::default() };
    assert_eq!(view::check(request, &limits).is_ok(), view::check(&out, &limits).is_ok());
    assert_eq!(view::check_metrics(request, &limits).is_ok(), view::check_metrics(&out, &limits).is_ok());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let resource = |set: AttrSet| {
        let mut group = vec![0x0a, u8::try_from(set.bytes().len()).unwrap()];
        group.extend(set.bytes());
        group.extend([0x1a, 1, b'u']);
        let mut request = vec![0x0a, u8::try_from(group.len()).unwrap()];
        request.extend(group);
        request
    };
    let named = resource(AttrSet::builder().str("a", "x").int("n", 1).build());
    let other = resource(AttrSet::builder().str("k8s.pod.uid", "u").build());
    vec![Vec::new(), vec![0x0a, 0], named.clone(), other.clone(), [named, other, vec![0x7a, 1, 0]].concat()]
}
