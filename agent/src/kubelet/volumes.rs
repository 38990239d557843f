//! The kubelet's `/stats/summary` as the volumes of claims. Pure: bytes in, numbers out.
//!
//! Format: kubernetes/kubernetes, staging/src/k8s.io/kubelet/pkg/apis/stats/v1alpha1/types.go. Only volumes with a
//! `pvcRef` are read; all else, and what is null or missing, is passed over.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::pods::{Claim, VolumeStats};

#[derive(Deserialize)]
struct Summary {
    #[serde(default)]
    pods: Option<Vec<Pod>>,
}

#[derive(Deserialize)]
struct Pod {
    #[serde(default)]
    volume: Option<Vec<Volume>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    pvc_ref: Option<Reference>,
    capacity_bytes: Option<u64>,
    available_bytes: Option<u64>,
    used_bytes: Option<u64>,
    inodes: Option<u64>,
    inodes_free: Option<u64>,
    inodes_used: Option<u64>,
}

#[derive(Deserialize)]
struct Reference {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

/// Reads an answer. A claim that several pods have is there once; one without a capacity is not.
///
/// # Errors
/// When it is not JSON of this shape.
pub fn parse(json: &[u8]) -> Result<BTreeMap<Claim, VolumeStats>, serde_json::Error> {
    let summary: Summary = serde_json::from_slice(json)?;
    let volumes = summary.pods.unwrap_or_default().into_iter().flat_map(|pod| pod.volume.unwrap_or_default());
    Ok(volumes
        .filter_map(|volume| {
            let claim = volume.pvc_ref?;
            let of = |value: Option<u64>| value.unwrap_or_default();
            let stats = VolumeStats {
                capacity_bytes: volume.capacity_bytes?,
                available_bytes: of(volume.available_bytes),
                used_bytes: of(volume.used_bytes),
                inodes: of(volume.inodes),
                inodes_free: of(volume.inodes_free),
                inodes_used: of(volume.inodes_used),
            };
            Some(((claim.namespace, claim.name), stats))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUMMARY: &str = r#"{"node":{},"pods":[{"podRef":{"name":"two"},"volume":[
        {"name":"a","pvcRef":{"name":"data","namespace":"shop"},"capacityBytes":100,"availableBytes":60,"usedBytes":30,
         "inodes":10,"inodesFree":7,"inodesUsed":3},
        {"name":"b","pvcRef":{"name":"wal","namespace":"shop"},"time":null},
        {"name":"token","capacityBytes":5}]},{"podRef":{},"volume":null},{}]}"#;

    #[test]
    fn volumes_of_claims_are_read_and_all_else_is_passed_over() {
        let stats = VolumeStats {
            capacity_bytes: 100,
            available_bytes: 60,
            used_bytes: 30,
            inodes: 10,
            inodes_free: 7,
            inodes_used: 3,
        };
        let expected = BTreeMap::from([(("shop".to_owned(), "data".to_owned()), stats)]);
        assert_eq!(parse(SUMMARY.as_bytes()).unwrap(), expected);
        assert_eq!(parse(b"{}").unwrap(), BTreeMap::new());
        for bad in ["", "[]x", "{\"pods\":3}", "<html>"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(cut in 0..SUMMARY.len(), noise in "\\PC{0,20}") {
            let _ = parse(format!("{}{noise}", SUMMARY.get(..cut).unwrap_or_default()).as_bytes());
        }
    }
}
