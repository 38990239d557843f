//! JSON written straight into a buffer.

mod object;
mod value;

use std::io::Write;

pub use object::Object;
pub use value::{Nested, value_text, write_map, write_value};

/// Appends a string with its quotes (RFC 8259 section 7: quote, backslash and control characters are escaped).
pub fn write_str(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    write_escaped(text.as_bytes(), out);
    out.push(b'"');
}

/// Appends UTF-8 escaped, without quotes around it.
pub fn write_escaped(text: &[u8], out: &mut Vec<u8>) {
    let mut plain = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.extend_from_slice(&text[plain..]);
}

/// Appends a number; `NaN` and the infinities, which JSON lacks, as strings (as OTLP/JSON has them).
pub fn write_f64(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
    } else {
        // `{:?}` is the shortest text that reads back to the same number, with `.0` where it is whole.
        write_display(format_args!("{value:?}"), out);
    }
}

/// Appends what is displayed, unescaped.
pub fn write_display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{value}");
}

/// Appends bytes as a string in base64 (RFC 4648 section 4, padded), as OTLP/JSON's `bytesValue`.
pub fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let text = sonde_wire::base64::encode(bytes);
    out.extend_from_slice(text.as_bytes());
    out.resize(out.len() + text.len().next_multiple_of(4) - text.len(), b'=');
    out.push(b'"');
}

/// Appends bytes as lower-case hex in quotes.
pub fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in bytes {
        write_display(format_args!("{byte:02x}"), out);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests;
