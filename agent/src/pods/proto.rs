//! A Pod in protobuf, as the kubelet's socket has it, into what its JSON is read into: bytes in, a [`Pod`] out. Pure.
//!
//! Field numbers are those of `k8s.io/api/core/v1/generated.proto` and `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`, which
//! do not change within `v1`. What Sonde does not read is passed over without a look inside, so nothing nests deeper than the messages
//! below. A message that comes twice is merged, as protobuf has it; of anything else the last one counts. Text that is no UTF-8 is made so.
//!
//! Memory: [`MOST_PARTS`] elements of lists and maps of half a kilobyte, and as much text as there are bytes.

use std::collections::BTreeMap;

use sonde_wire::proto::{ProtoError, Reader, Value};

use super::v1::{
    Claim, Condition, Container, ContainerStatus, Metadata, OwnerReference, Pod, PodIp, Quantity, Resources,
    Running, Spec, State, Status, Terminated, Toleration, Volume, Waiting, rfc3339,
};

/// Elements of lists and maps in one pod. One with a hundred containers has a thousand.
pub const MOST_PARTS: usize = 16_384;

/// Why bytes are no pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// They are no protobuf.
    #[error("it is no protobuf: {0}")]
    Proto(#[from] ProtoError),
    /// Its lists are too long.
    #[error("it has more than {MOST_PARTS} containers, labels, volumes and the like")]
    Parts,
}

/// Reads one.
///
/// # Errors
/// It is none, or has more than [`MOST_PARTS`].
pub fn pod(bytes: &[u8]) -> Result<Pod, PodError> {
    let mut pod = Pod::default();
    pod.merge(bytes, &mut Parts(MOST_PARTS))?;
    Ok(pod)
}

/// How many more there may be.
struct Parts(usize);

impl Parts {
    fn take(&mut self) -> Result<(), PodError> {
        self.0 = self.0.checked_sub(1).ok_or(PodError::Parts)?;
        Ok(())
    }
}

/// A message that is read field by field.
trait Message: Default {
    /// Takes what is of use; the rest is of no interest.
    fn field(&mut self, number: u32, value: Value<'_>, parts: &mut Parts) -> Result<(), PodError>;

    fn merge(&mut self, bytes: &[u8], parts: &mut Parts) -> Result<(), PodError> {
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = next(&mut reader)? {
            self.field(number, value, parts)?;
        }
        Ok(())
    }
}

/// The reader's is inlined where it is called, which is fast and large; a node's pods are neither many nor often read.
#[inline(never)]
fn next<'a>(reader: &mut Reader<'a>) -> Result<Option<(u32, Value<'a>)>, ProtoError> {
    reader.field()
}

fn push<M: Message>(list: &mut Vec<M>, bytes: &[u8], parts: &mut Parts) -> Result<(), PodError> {
    parts.take()?;
    let mut element = M::default();
    element.merge(bytes, parts)?;
    list.push(element);
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An entry of a map is a message of key and value.
fn entry<'a>(bytes: &'a [u8], parts: &mut Parts) -> Result<(String, &'a [u8]), PodError> {
    parts.take()?;
    let (mut key, mut value) = (&[][..], &[][..]);
    let mut reader = Reader::new(bytes);
    while let Some(field) = next(&mut reader)? {
        match field {
            (1, Value::Len(bytes)) => key = bytes,
            (2, Value::Len(bytes)) => value = bytes,
            _ => {}
        }
    }
    Ok((text(key), value))
}

fn put_text(map: &mut BTreeMap<String, String>, bytes: &[u8], parts: &mut Parts) -> Result<(), PodError> {
    let (key, value) = entry(bytes, parts)?;
    map.insert(key, text(value));
    Ok(())
}

/// A `Quantity` is a message of its text.
fn put_quantity(
    map: &mut BTreeMap<String, Quantity>,
    bytes: &[u8],
    parts: &mut Parts,
) -> Result<(), PodError> {
    let (key, value) = entry(bytes, parts)?;
    let mut quantity = Quantity::default();
    let mut reader = Reader::new(value);
    while let Some(field) = next(&mut reader)? {
        if let (1, Value::Len(number)) = field {
            quantity = Quantity::parse(&text(number)).unwrap_or_default();
        }
    }
    map.insert(key, quantity);
    Ok(())
}

/// A `Time` is a message of seconds and nanoseconds, of which JSON has no more than the seconds. One that was never set has neither
/// (`k8s.io/apimachinery/pkg/apis/meta/v1/time_proto.go`), and is null in JSON.
fn time(bytes: &[u8]) -> Result<String, PodError> {
    let mut seconds = 0;
    let mut reader = Reader::new(bytes);
    while let Some(field) = next(&mut reader)? {
        if let (1, Value::Varint(value)) = field {
            seconds = value.cast_signed();
        }
    }
    Ok(if bytes.is_empty() { String::new() } else { rfc3339(seconds).unwrap_or_default() })
}

impl Message for Pod {
    fn field(&mut self, number: u32, value: Value<'_>, parts: &mut Parts) -> Result<(), PodError> {
        match (number, value) {
            (1, Value::Len(bytes)) => self.metadata.merge(bytes, parts),
            (2, Value::Len(bytes)) => self.spec.merge(bytes, parts),
            (3, Value::Len(bytes)) => self.status.merge(bytes, parts),
            _ => Ok(()),
        }
    }
}

impl Message for Metadata {
    fn field(&mut self, number: u32, value: Value<'_>, parts: &mut Parts) -> Result<(), PodError> {
        let Value::Len(bytes) = value else { return Ok(()) };
        match number {
            1 => self.name = text(bytes),
            3 => self.namespace = text(bytes),
            5 => self.uid = text(bytes),
            6 => self.resource_version = text(bytes),
            8 => self.creation_timestamp = time(bytes)?,
            9 => self.deletion_timestamp = time(bytes)?,
            11 => put_text(&mut self.labels, bytes, parts)?,
            12 => put_text(&mut self.annotations, bytes, parts)?,
            13 => push(&mut self.owner_references, bytes, parts)?,
            _ => {}
        }
        Ok(())
    }
}

impl Message for OwnerReference {
    fn field(&mut self, number: u32, value: Value<'_>, _: &mut Parts) -> Result<(), PodError> {
        match (number, value) {
            (1, Value::Len(bytes)) => self.kind = text(bytes),
            (3, Value::Len(bytes)) => self.name = text(bytes),
            (6, Value::Varint(is)) => self.controller = Some(is != 0),
            _ => {}
        }
        Ok(())
    }
}

impl Message for Spec {
    fn field(&mut self, number: u32, value: Value<'_>, parts: &mut Parts) -> Result<(), PodError> {
        match (number, value) {
            (1, Value::Len(bytes)) => push(&mut self.volumes, bytes, parts)?,
            (2, Value::Len(bytes)) => push(&mut self.containers, bytes, parts)?,
            (3, Value::Len(bytes)) => self.restart_policy = text(bytes),
            (7, Value::Len(bytes)) => put_text(&mut self.node_selector, bytes, parts)?,
            (8, Value::Len(bytes)) => self.service_account_name = text(bytes),
            (10, Value::Len(bytes)) => self.node_name = text(bytes),
            (11, Value::Varint(is)) => self.host_network = is != 0,
            (19, Value::Len(bytes)) => self.scheduler_name = text(bytes),
            (20, Value::Len(bytes)) => push(&mut self.init_containers, bytes, parts)?,
            (22, Value::Len(bytes)) => push(&mut self.tolerations, bytes, parts)?,
            (24, Value::Len(bytes)) => self.priority_class_name = text(bytes),
            (29, Value::Len(bytes)) => self.runtime_class_name = text(bytes),
            (32, Value::Len(bytes)) => put_quantity(&mut self.overhead, bytes, parts)?,
            (34, Value::Len(bytes)) => {
                let mut list = Vec::new();
                push::<Ephemeral>(&mut list, bytes, parts)?;
                self.ephemeral_containers.extend(list.into_iter().map(|Ephemeral(container)| container));
            }
            _ => {}
        }
        Ok(())
    }
}

/// `EphemeralContainer`: what it shares with the others is a message in it.
#[derive(Default)]
struct Ephemeral(Container);

impl Message for Ephemeral {
    fn field(&mut self, number: u32, value: Value<'_>, parts: &mut Parts) -> Result<(), PodError> {
        match (number, value) {
            (1, Value::Len(bytes)) => self.0.merge(bytes, parts),
            _ => Ok(()),
        }
    }
}

impl Message for Toleration {
    fn field(&mut self, number: u32, value: Value<'_>, _: &mut Parts) -> Result<(), PodError> {
        match (number, value) {
            (1, Value::Len(bytes)) => self.key = text(bytes),
            (2, Value::Len(bytes)) => self.operator = text(bytes),
            (3, Value::Len(bytes)) => self.value = text(bytes),
            (4, Value::Len(bytes)) => self.effect = text(bytes),
            (5, Value::Varint(seconds)) => self.toleration_seconds = Some(seconds.cast_signed()),
            _ => {}
        }
        Ok(())
    }
}

impl Message for Container {
    fn field(&mut self, number: u32, value: Value<'_>, parts: &mut Parts) -> Result<(), PodError> {
        let Value::Len(bytes) = value else { return Ok(()) };
        match number {
            1 => self.name = text(bytes),
            2 => self.image = text(bytes),
            8 => self.resources.merge(bytes, parts)?,
            24 => self.restart_policy = text(bytes),
            _ => {}
        }
        Ok(())
    }
}

impl Message for Resources {
    fn field(&mut self, number: u32, value: Value<'_>, parts: &mut Parts) -> Result<(), PodError> {
        match (number, value) {
            (1, Value::Len(bytes)) => put_quantity(&mut self.limits, bytes, parts),
            (2, Value::Len(bytes)) => put_quantity(&mut self.requests, bytes, parts),
            _ => Ok(()),
        }
    }
}

impl Message for Volume {
    fn field(&mut self, number: u32, value: Value<'_>, parts: &mut Parts) -> Result<(), PodError> {
        match (number, value) {
            (1, Value::Len(bytes)) => self.name = text(bytes),
            // `VolumeSource`, whose fields JSON has in the volume itself.
            (2, Value::Len(bytes)) => {
                let mut reader = Reader::new(bytes);
                while let Some(field) = next(&mut reader)? {
                    match field {
                        (10, Value::Len(bytes)) => {
                            self.persistent_volume_claim.get_or_insert_default().merge(bytes, parts)?;
                        }
                        (29, Value::Len(_)) => self.ephemeral = Some(super::v1::Ephemeral::default()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Message for Claim {
    fn field(&mut self, number: u32, value: Value<'_>, _: &mut Parts) -> Result<(), PodError> {
        match (number, value) {
            (1, Value::Len(bytes)) => self.claim_name = text(bytes),
            (2, Value::Varint(is)) => self.read_only = is != 0,
            _ => {}
        }
        Ok(())
    }
}

impl Message for Status {
    fn field(&mut self, number: u32, value: Value<'_>, parts: &mut Parts) -> Result<(), PodError> {
        let Value::Len(bytes) = value else { return Ok(()) };
        match number {
            1 => self.phase = text(bytes),
            2 => push(&mut self.conditions, bytes, parts)?,
            4 => self.reason = text(bytes),
            5 => self.host_ip = text(bytes),
            6 => self.pod_ip = text(bytes),
            7 => self.start_time = time(bytes)?,
            8 => push(&mut self.container_statuses, bytes, parts)?,
            9 => self.qos_class = text(bytes),
            10 => push(&mut self.init_container_statuses, bytes, parts)?,
            12 => push(&mut self.pod_ips, bytes, parts)?,
            13 => push(&mut self.ephemeral_container_statuses, bytes, parts)?,
            _ => {}
        }
        Ok(())
    }
}

impl Message for PodIp {
    fn field(&mut self, number: u32, value: Value<'_>, _: &mut Parts) -> Result<(), PodError> {
        if let (1, Value::Len(bytes)) = (number, value) {
            self.ip = text(bytes);
        }
        Ok(())
    }
}

impl Message for Condition {
    fn field(&mut self, number: u32, value: Value<'_>, _: &mut Parts) -> Result<(), PodError> {
        let Value::Len(bytes) = value else { return Ok(()) };
        match number {
            1 => self.kind = text(bytes),
            2 => self.status = text(bytes),
            4 => self.last_transition_time = time(bytes)?,
            5 => self.reason = text(bytes),
            _ => {}
        }
        Ok(())
    }
}

impl Message for ContainerStatus {
    fn field(&mut self, number: u32, value: Value<'_>, parts: &mut Parts) -> Result<(), PodError> {
        match (number, value) {
            (1, Value::Len(bytes)) => self.name = text(bytes),
            (2, Value::Len(bytes)) => self.state.merge(bytes, parts)?,
            (3, Value::Len(bytes)) => self.last_state.merge(bytes, parts)?,
            (4, Value::Varint(is)) => self.ready = is != 0,
            (5, Value::Varint(count)) => self.restart_count = count.cast_signed(),
            (6, Value::Len(bytes)) => self.image = text(bytes),
            (7, Value::Len(bytes)) => self.image_id = text(bytes),
            (8, Value::Len(bytes)) => self.container_id = text(bytes),
            _ => {}
        }
        Ok(())
    }
}

impl Message for State {
    fn field(&mut self, number: u32, value: Value<'_>, parts: &mut Parts) -> Result<(), PodError> {
        match (number, value) {
            (1, Value::Len(bytes)) => self.waiting.get_or_insert_default().merge(bytes, parts),
            (2, Value::Len(bytes)) => self.running.get_or_insert_default().merge(bytes, parts),
            (3, Value::Len(bytes)) => self.terminated.get_or_insert_default().merge(bytes, parts),
            _ => Ok(()),
        }
    }
}

impl Message for Running {
    fn field(&mut self, number: u32, value: Value<'_>, _: &mut Parts) -> Result<(), PodError> {
        if let (1, Value::Len(bytes)) = (number, value) {
            self.started_at = time(bytes)?;
        }
        Ok(())
    }
}

impl Message for Waiting {
    fn field(&mut self, number: u32, value: Value<'_>, _: &mut Parts) -> Result<(), PodError> {
        if let (1, Value::Len(bytes)) = (number, value) {
            self.reason = text(bytes);
        }
        Ok(())
    }
}

impl Message for Terminated {
    fn field(&mut self, number: u32, value: Value<'_>, _: &mut Parts) -> Result<(), PodError> {
        match (number, value) {
            (1, Value::Varint(code)) => self.exit_code = code.cast_signed(),
            (3, Value::Len(bytes)) => self.reason = text(bytes),
            (5, Value::Len(bytes)) => self.started_at = time(bytes)?,
            (6, Value::Len(bytes)) => self.finished_at = time(bytes)?,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
