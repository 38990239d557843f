//! Attribute keys, and a resource's attributes encoded once for all its requests.

use std::sync::Arc;

use crate::proto::{LEN, VARINT, bytes_field_len, key, put_bytes, put_uint, put_varint, varint_len};

/// Attribute keys: OpenTelemetry's semantic conventions 1.44, and ours under `log.`.
pub mod keys {
    /// `k8s.cluster.name`
    pub const CLUSTER_NAME: &str = "k8s.cluster.name";
    /// `k8s.node.name`
    pub const NODE_NAME: &str = "k8s.node.name";
    /// `k8s.namespace.name`
    pub const NAMESPACE_NAME: &str = "k8s.namespace.name";
    /// `k8s.pod.name`
    pub const POD_NAME: &str = "k8s.pod.name";
    /// `k8s.pod.uid`
    pub const POD_UID: &str = "k8s.pod.uid";
    /// Prefix of `k8s.pod.label.<key>`
    pub const POD_LABEL: &str = "k8s.pod.label.";
    /// `k8s.container.name`
    pub const CONTAINER_NAME: &str = "k8s.container.name";
    /// `k8s.container.restart_count`, an integer
    pub const RESTART_COUNT: &str = "k8s.container.restart_count";
    /// `container.id`
    pub const CONTAINER_ID: &str = "container.id";
    /// `container.image.name`
    pub const IMAGE_NAME: &str = "container.image.name";
    /// `container.image.tags`, an array of strings
    pub const IMAGE_TAGS: &str = "container.image.tags";
    /// `service.name`
    pub const SERVICE_NAME: &str = "service.name";
    /// `log.iostream`: `stdout` or `stderr`
    pub const IOSTREAM: &str = "log.iostream";
    /// `log.record.uid`, see [`crate::uid`]
    pub const RECORD_UID: &str = "log.record.uid";
    /// `log.truncated`: `true` where `max_line` cut the record
    pub const TRUNCATED: &str = "log.truncated";
    /// `log.malformed`: `true` where the line was not in the runtime's format
    pub const MALFORMED: &str = "log.malformed";
}

// KeyValue, AnyValue and ArrayValue of common.proto.
const ATTRIBUTES: u8 = 1;
const KEY: u8 = 1;
const VALUE: u8 = 2;
const STRING_VALUE: u8 = 1;
const BOOL_VALUE: u8 = 2;
const INT_VALUE: u8 = 3;
const ARRAY_VALUE: u8 = 5;
const VALUES: u8 = 1;

/// The attributes of one Resource as the bytes of its message. A clone shares them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttrSet(Arc<[u8]>);

impl AttrSet {
    /// Starts an empty set.
    #[must_use]
    pub fn builder() -> AttrSetBuilder {
        AttrSetBuilder::default()
    }

    /// The bytes of a `opentelemetry.proto.resource.v1.Resource`.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Default for AttrSet {
    fn default() -> Self {
        Self(Arc::from([].as_slice()))
    }
}

/// Builds an [`AttrSet`] in the order of the calls. Keys must differ (OTLP leaves what else happens open).
#[derive(Clone, Debug, Default)]
pub struct AttrSetBuilder {
    bytes: Vec<u8>,
}

impl AttrSetBuilder {
    /// Adds a string.
    #[must_use]
    pub fn str(mut self, name: &str, value: &str) -> Self {
        self.head(name, bytes_field_len(value.len()));
        put_bytes(&mut self.bytes, STRING_VALUE, value.as_bytes());
        self
    }

    /// Adds an integer.
    #[must_use]
    pub fn int(mut self, name: &str, value: i64) -> Self {
        // int64 travels as its two's complement (encoding guide, "Signed Integers").
        let value = value.cast_unsigned();
        self.head(name, 1 + varint_len(value));
        put_uint(&mut self.bytes, INT_VALUE, value);
        self
    }

    /// Adds a truth value.
    #[must_use]
    pub fn bool(mut self, name: &str, value: bool) -> Self {
        self.head(name, 2);
        self.bytes.extend_from_slice(&[key(BOOL_VALUE, VARINT), u8::from(value)]);
        self
    }

    /// Adds an array of strings.
    #[must_use]
    pub fn str_array<'v>(mut self, name: &str, values: impl IntoIterator<Item = &'v str>) -> Self {
        let mut array = Vec::new();
        for value in values {
            array.push(key(VALUES, LEN));
            put_varint(&mut array, bytes_field_len(value.len()) as u64);
            put_bytes(&mut array, STRING_VALUE, value.as_bytes());
        }
        self.head(name, bytes_field_len(array.len()));
        put_bytes(&mut self.bytes, ARRAY_VALUE, &array);
        self
    }

    /// The set.
    #[must_use]
    pub fn build(self) -> AttrSet {
        AttrSet(self.bytes.into())
    }

    /// Everything of one attribute before the contents of its AnyValue, which are `value_len` bytes.
    fn head(&mut self, name: &str, value_len: usize) {
        self.bytes.push(key(ATTRIBUTES, LEN));
        put_varint(&mut self.bytes, (bytes_field_len(name.len()) + bytes_field_len(value_len)) as u64);
        put_bytes(&mut self.bytes, KEY, name.as_bytes());
        self.bytes.push(key(VALUE, LEN));
        put_varint(&mut self.bytes, value_len as u64);
    }
}

/// Attributes of one record beyond those that [`LogRecord`](crate::logs::LogRecord) has a field for, encoded. To be cleared
/// for the next record; the buffer stays.
#[derive(Clone, Debug, Default)]
pub struct RecordAttrs {
    bytes: Vec<u8>,
}

/// LogRecord.attributes = 6
const RECORD_ATTRIBUTES: u8 = 6;

impl RecordAttrs {
    /// No attributes any more.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Adds a string. Keys must differ, also from the record's own.
    pub fn str(&mut self, name: &str, value: &str) {
        put_string_pair(&mut self.bytes, RECORD_ATTRIBUTES, name, value);
    }

    /// Adds an integer.
    pub fn int(&mut self, name: &str, value: i64) {
        let value = value.cast_unsigned();
        let value_len = 1 + varint_len(value);
        self.bytes.push(key(RECORD_ATTRIBUTES, LEN));
        put_varint(&mut self.bytes, (bytes_field_len(name.len()) + bytes_field_len(value_len)) as u64);
        put_bytes(&mut self.bytes, KEY, name.as_bytes());
        self.bytes.push(key(VALUE, LEN));
        put_varint(&mut self.bytes, value_len as u64);
        put_uint(&mut self.bytes, INT_VALUE, value);
    }

    /// Fields `attributes` of a `LogRecord`, one behind the other.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Appends the field `field`, a `KeyValue` of two strings.
pub(crate) fn put_string_pair(buf: &mut Vec<u8>, field: u8, name: &str, value: &str) {
    let value_len = bytes_field_len(value.len());
    buf.push(key(field, LEN));
    put_varint(buf, (bytes_field_len(name.len()) + bytes_field_len(value_len)) as u64);
    put_bytes(buf, KEY, name.as_bytes());
    buf.push(key(VALUE, LEN));
    put_varint(buf, value_len as u64);
    put_bytes(buf, STRING_VALUE, value.as_bytes());
}

#[cfg(test)]
mod tests;
