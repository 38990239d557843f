//! The parts of Kubernetes' `core/v1` Pod that Sonde reads, as they stand in JSON. Unknown fields and nulls are
//! passed over, so that neither an older nor a newer kubelet can break the answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Declares structs all of whose fields may be missing or null.
macro_rules! nullable {
    ($($(#[$meta:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize, PartialEq)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $(
                #[allow(missing_docs, reason = "the Kubernetes API reference is their documentation")]
                $(#[$attr])*
                #[serde(default, deserialize_with = "null_is_default")]
                pub $field: $kind,
            )*
        }
    )*};
}

nullable! {
    /// `PodList`.
    PodList {
        kind: String,
        metadata: ListMeta,
        items: Vec<Pod>,
    }
    /// `ListMeta`.
    ListMeta {
        resource_version: String,
    }
    /// `Pod`.
    Pod {
        metadata: Metadata,
        spec: Spec,
        status: Status,
    }
    /// `ObjectMeta`.
    Metadata {
        uid: String,
        resource_version: String,
        namespace: String,
        name: String,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        owner_references: Vec<OwnerReference>,
        creation_timestamp: String,
        deletion_timestamp: String,
    }
    /// `OwnerReference`.
    OwnerReference {
        kind: String,
        name: String,
        controller: Option<bool>,
    }
    /// `PodSpec`.
    Spec {
        node_name: String,
        host_network: bool,
        restart_policy: String,
        priority_class_name: String,
        service_account_name: String,
        scheduler_name: String,
        runtime_class_name: String,
        node_selector: BTreeMap<String, String>,
        tolerations: Vec<Toleration>,
        overhead: BTreeMap<String, Quantity>,
        init_containers: Vec<Container>,
        containers: Vec<Container>,
        ephemeral_containers: Vec<Container>,
        volumes: Vec<Volume>,
    }
    /// `Toleration`.
    Toleration {
        key: String,
        operator: String,
        value: String,
        effect: String,
        toleration_seconds: Option<i64>,
    }
    /// `Container`.
    Container {
        name: String,
        image: String,
        restart_policy: String,
        resources: Resources,
    }
    /// `ResourceRequirements`.
    Resources {
        requests: BTreeMap<String, Quantity>,
        limits: BTreeMap<String, Quantity>,
    }
    /// `Volume`.
    Volume {
        name: String,
        persistent_volume_claim: Option<Claim>,
        ephemeral: Option<Ephemeral>,
    }
    /// `PersistentVolumeClaimVolumeSource`.
    Claim {
        claim_name: String,
        read_only: bool,
    }
    /// `EphemeralVolumeSource`.
    Ephemeral {}
    /// `PodStatus`.
    Status {
        phase: String,
        reason: String,
        #[serde(rename = "hostIP")]
        host_ip: String,
        #[serde(rename = "podIP")]
        pod_ip: String,
        #[serde(rename = "podIPs")]
        pod_ips: Vec<PodIp>,
        start_time: String,
        qos_class: String,
        conditions: Vec<Condition>,
        init_container_statuses: Vec<ContainerStatus>,
        container_statuses: Vec<ContainerStatus>,
        ephemeral_container_statuses: Vec<ContainerStatus>,
    }
    /// `PodIP`.
    PodIp {
        ip: String,
    }
    /// `PodCondition`.
    Condition {
        #[serde(rename = "type")]
        kind: String,
        status: String,
        reason: String,
        last_transition_time: String,
    }
    /// `ContainerStatus`.
    ContainerStatus {
        name: String,
        image: String,
        #[serde(rename = "imageID")]
        image_id: String,
        #[serde(rename = "containerID")]
        container_id: String,
        restart_count: i64,
        ready: bool,
        state: State,
        last_state: State,
    }
    /// `ContainerState`.
    State {
        running: Option<Running>,
        waiting: Option<Waiting>,
        terminated: Option<Terminated>,
    }
    /// `ContainerStateRunning`.
    Running {
        started_at: String,
    }
    /// `ContainerStateWaiting`.
    Waiting {
        reason: String,
    }
    /// `ContainerStateTerminated`.
    Terminated {
        reason: String,
        exit_code: i64,
        started_at: String,
        finished_at: String,
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A resource quantity as a number of its base unit: `100m` is 0.1, `64Mi` is 67,108,864.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantity(pub f64);

impl Quantity {
    /// Parses the notation of `k8s.io/apimachinery/pkg/api/resource`; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text
            .char_indices()
            .find(|(at, letter)| {
                !(letter.is_ascii_digit() || *letter == '.' || (*at == 0 && "+-".contains(*letter)))
            })
            .map_or(text.len(), |(at, _)| at);
        let (number, suffix) = text.split_at(end);
        let number: f64 = number.parse().ok()?;
        let factor: f64 = match suffix {
            "" => 1.0,
            "n" => 1e-9,
            "u" => 1e-6,
            "m" => 1e-3,
            "k" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            "T" => 1e12,
            "P" => 1e15,
            "E" => 1e18,
            "Ki" => 1024.0,
            "Mi" => 1_048_576.0,
            "Gi" => 1_073_741_824.0,
            "Ti" => 1_099_511_627_776.0,
            "Pi" => 1_125_899_906_842_624.0,
            "Ei" => 1_152_921_504_606_846_976.0,
            _ => {
                let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
                return Some(Self(number * 10f64.powi(exponent)));
            }
        };
        // A thousandth is not a binary fraction: dividing gives the nearest number, multiplying may not.
        Some(Self(if factor < 1.0 { number / (1.0 / factor).round() } else { number * factor }))
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Plain {
            Text(String),
            Number(f64),
            Other(serde::de::IgnoredAny),
        }
        Ok(match Plain::deserialize(from)? {
            Plain::Text(text) => Self::parse(&text).unwrap_or_default(),
            Plain::Number(number) => Self(number),
            Plain::Other(_) => Self::default(),
        })
    }
}

/// Seconds since 1970 of a time as the API writes it, `2026-11-20T16:35:00Z` (RFC 3339); `None` where it is none.
pub fn unix_seconds(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-');
    let mut next = || date.next()?.parse::<u32>().ok();
    let (year, month, day) = (i64::from(next()?), i64::from(next()?), i64::from(next()?));
    if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (clock, offset) = match time.strip_suffix('Z') {
        Some(clock) => (clock, 0),
        None => {
            let at = time.rfind(['+', '-'])?;
            let (hours, minutes) = time.get(at + 1..)?.split_once(':')?;
            let (hours, minutes) = (hours.parse::<u8>().ok()?, minutes.parse::<u8>().ok()?);
            let seconds = i64::from(hours) * 3600 + i64::from(minutes) * 60;
            (time.get(..at)?, if time.as_bytes().get(at) == Some(&b'-') { -seconds } else { seconds })
        }
    };
    let mut clock = clock.split('.').next()?.splitn(3, ':');
    let mut next = || clock.next()?.parse::<u8>().ok().map(i64::from);
    let (hour, minute, second) = (next()?, next()?, next()?);
    // Days since 1970 of a civil date (Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// The same the other way round, in UTC; `None` outside the years 1 to 9999.
pub fn rfc3339(seconds: i64) -> Option<String> {
    // Hinnant, as above, from days to the date.
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days.checked_add(719_468)?;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    (1..=9999)
        .contains(&year)
        .then(|| format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_numbers_of_their_base_unit() {
        for (text, want) in [
            ("100m", 0.1),
            ("2", 2.0),
            ("0.5", 0.5),
            ("64Mi", 67_108_864.0),
            ("1e3", 1000.0),
            ("12E", 12e18),
            ("1500n", 1.5e-6),
            ("1Gi", 1_073_741_824.0),
            ("-1k", -1000.0),
        ] {
            assert_eq!(Quantity::parse(text), Some(Quantity(want)), "{text}");
        }
        for text in ["", "m", "1X", "1 Mi", "1ee3", "--1", "1e"] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_seconds_since_1970() {
        for (text, want) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-20T16:35:00Z", 1_795_192_500),
            ("2026-11-20T16:35:00.123456Z", 1_795_192_500),
            ("2026-11-20T18:35:00+02:00", 1_795_192_500),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
        ] {
            assert_eq!(unix_seconds(text), Some(want), "{text}");
        }
        assert_eq!(rfc3339(1_795_192_500).as_deref(), Some("2026-11-20T16:35:00Z"));
        assert_eq!(rfc3339(-62_135_596_800).as_deref(), Some("0001-01-01T00:00:00Z"));
        for seconds in [i64::MIN, -62_135_596_801, 253_402_300_800, i64::MAX] {
            assert_eq!(rfc3339(seconds), None, "{seconds}");
        }
        for text in ["", "T", "2026-11-20", "2026-13-20T00:00:00Z", "2026-11-20T00:00Z", "x-1-1T1:1:1Z"] {
            assert_eq!(unix_seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_time_that_is_written_is_read_as_the_same(seconds in -62_135_596_800i64..253_402_300_800) {
            prop_assert_eq!(unix_seconds(&rfc3339(seconds).unwrap()), Some(seconds));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}", year in 0u32..20_000, rest in "[0-9:TZ.+-]{0,24}") {
            let _ = (Quantity::parse(&text), unix_seconds(&text), unix_seconds(&format!("{year}-{rest}")));
        }
    }
}
