use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use proptest::prelude::*;

use super::message::{HEAD, LARGEST, parse, whole};
use super::*;
use crate::metrics::tests::{families, rendered};

/// What a bus and systemd write, in either byte order.
#[derive(Clone, Default)]
struct Writer {
    bytes: Vec<u8>,
    big: bool,
}

impl Writer {
    fn new(big: bool) -> Self {
        Self { bytes: Vec::new(), big }
    }

    fn align(&mut self, to: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
        self
    }

    fn number(&mut self, number: u32) -> &mut Self {
        let bytes = if self.big { number.to_be_bytes() } else { number.to_le_bytes() };
        self.align(4).bytes.extend(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.number(u32::try_from(text.len()).unwrap());
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
        self
    }

    fn signature(&mut self, signature: &str) -> &mut Self {
        self.bytes.push(u8::try_from(signature.len()).unwrap());
        self.bytes.extend(signature.as_bytes());
        self.bytes.push(0);
        self
    }

    fn field(&mut self, code: u8, kind: &str) -> &mut Self {
        self.align(8).bytes.push(code);
        self.signature(kind)
    }
}

fn any_text(big: bool, text: &str) -> Writer {
    let mut body = Writer::new(big);
    body.signature("s").text(text);
    body
}

/// A return (2), an error (3) or a signal (4).
fn message(kind: u8, to: u32, body: &Writer) -> Vec<u8> {
    let mut fields = Writer::new(body.big);
    match kind {
        4 => drop(fields.field(3, "s").text("NameAcquired")),
        3 => drop(fields.field(4, "s").text("org.freedesktop.DBus.Error.UnknownProperty")),
        _ => {}
    }
    if kind != 4 {
        fields.field(5, "u").number(to);
    }
    fields.field(7, "s").text(":1.0").field(8, "g").signature("v");
    let mut message = Writer::new(body.big);
    message.bytes.extend([if body.big { b'B' } else { b'l' }, kind, 1, 1]);
    message.number(u32::try_from(body.bytes.len()).unwrap()).number(77);
    message.number(u32::try_from(fields.bytes.len()).unwrap()).bytes.extend(&fields.bytes);
    message.align(8).bytes.extend(&body.bytes);
    message.bytes
}

const UNITS: [[&str; 4]; 6] = [
    ["sshd.service", "loaded", "active", "/unit/sshd"],
    ["bad.service", "loaded", "failed", "/unit/bad"],
    ["gone.service", "not-found", "inactive", "/unit/gone"],
    ["x.timer", "loaded", "active", "/unit/timer"],
    ["home.mount", "loaded", "active", "/unit/home"],
    ["dev-vda.device", "loaded", "active", "/unit/vda"],
];

fn list(big: bool) -> Writer {
    let mut units = Writer::new(big);
    for [name, load, active, path] in UNITS {
        units.align(8).text(name).text("What it is").text(load).text(active).text("sub").text("").text(path);
        units.number(0).text("").text("/");
    }
    let mut body = Writer::new(big);
    body.number(u32::try_from(units.bytes.len()).unwrap()).align(8).bytes.extend(&units.bytes);
    body
}

/// What the call's bytes ask for.
fn answer(call: &[u8], big: bool) -> (u8, Writer) {
    let has = |text: &str| call.windows(text.len()).any(|part| part == text.as_bytes());
    if has("Hello") {
        let mut body = Writer::new(big);
        body.text(":1.7");
        return (2, body);
    }
    if has("ListUnits") {
        return (2, list(big));
    }
    if has("SystemState") {
        return (2, any_text(big, "degraded"));
    }
    if has("Version") {
        return (2, any_text(big, "252.39-1~deb12u2"));
    }
    if has("NRestarts") {
        if has("/unit/bad") {
            return (3, any_text(big, "no such property"));
        }
        let mut body = Writer::new(big);
        body.signature("u").number(3);
        return (2, body);
    }
    (2, any_text(big, if has("/unit/sshd") { "notify" } else { "oneshot" }))
}

fn line(stream: &mut UnixStream) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return String::new();
        }
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// A bus with systemd behind it, for one connection. It answers in the other order than it was asked. The calls that
/// it saw.
pub(crate) fn serve(socket: &Path, big: bool) -> JoinHandle<usize> {
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert_eq!(line(&mut stream), "\0AUTH EXTERNAL\r\n");
        stream.write_all(b"DATA\r\n").unwrap();
        assert_eq!(line(&mut stream), "DATA\r\n");
        stream.write_all(b"OK 1234deadbeef\r\n").unwrap();
        assert_eq!(line(&mut stream), "BEGIN\r\n");
        let (mut calls, mut late) = (0, Vec::<Vec<u8>>::new());
        loop {
            let mut call = vec![0; HEAD];
            stream.set_nonblocking(!late.is_empty()).unwrap();
            match stream.read(&mut call) {
                Ok(0) => return calls,
                Err(_) => {
                    stream.set_nonblocking(false).unwrap();
                    while let Some(answer) = late.pop() {
                        stream.write_all(&answer).unwrap();
                    }
                    continue;
                }
                Ok(count) => {
                    stream.set_nonblocking(false).unwrap();
                    stream.read_exact(&mut call[count..]).unwrap();
                }
            }
            call.resize(whole(&call).unwrap(), 0);
            stream.read_exact(&mut call[HEAD..]).unwrap();
            calls += 1;
            let serial = u32::from_le_bytes(call[8..12].try_into().unwrap());
            let (kind, body) = answer(&call, big);
            late.push(message(kind, serial, &body));
            late.push(message(4, 0, &any_text(big, "a signal that nobody asked for")));
        }
    })
}

fn page(root: &Path) -> String {
    let collector = Systemd::new(root);
    rendered(move |out| collector.collect(out).unwrap())
}

#[test]
fn units_and_restarts_are_told_as_node_exporter_tells_them() {
    for (big, socket, calls) in [
        (false, "run/dbus/system_bus_socket", 8),
        (true, "run/dbus/system_bus_socket", 8),
        (false, "run/systemd/private", 7),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let served = serve(&dir.path().join(socket), big);
        let text = page(dir.path());
        assert_eq!(served.join().unwrap(), calls, "only a bus is greeted, and only services are asked more");
        let families = families(&text);
        let rows = |name: &str| -> Vec<String> {
            families[name]
                .iter()
                .filter(|(labels, value)| **value > 0.0 || !labels.contains_key("state"))
                .map(|(labels, value)| format!("{:?} {value}", labels.values().collect::<Vec<_>>()))
                .collect()
        };
        assert_eq!(
            rows("node_systemd_unit_state"),
            [
                r#"["bad.service", "failed", "oneshot"] 1"#,
                r#"["sshd.service", "active", "notify"] 1"#,
                r#"["x.timer", "active", ""] 1"#,
            ]
        );
        assert_eq!(families["node_systemd_unit_state"].len(), 15);
        assert_eq!(rows("node_systemd_service_restart_total"), [r#"["sshd.service"] 3"#]);
        assert_eq!(rows("node_systemd_units"), [r#"["active"] 4"#, r#"["failed"] 1"#, r#"["inactive"] 1"#]);
        assert_eq!(rows("node_systemd_system_running"), ["[] 0"]);
        assert_eq!(rows("node_systemd_version"), [r#"["252.39-1~deb12u2"] 252.39"#]);
    }
}

#[test]
fn a_bus_that_is_not_there_refuses_or_closes_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let collect = || Systemd::new(dir.path()).collect(&mut Sink::default()).unwrap_err();
    assert!(collect().contains("system_bus_socket: not there"));
    let socket = dir.path().join("run/dbus/system_bus_socket");
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    assert!(collect().contains("in time"), "a bus that says nothing");
    drop(listener.accept().unwrap());
    for (says, error) in [
        (&b"REJECTED EXTERNAL\r\n"[..], "refuses us"),
        (b"", "closed"),
        (&[b'x'; 5000], "without an end"),
        (b"OK 1\r\nGET / HTTP/1.1\r\nand more", "not a message"),
        // A message of 4 GiB.
        (b"OK 1\r\nl\x02\x01\x01\xff\xff\xff\xff\x01\0\0\0\0\0\0\0", "bytes"),
        // Fields that go beyond the message: its length says 0.
        (b"OK 1\r\nl\x02\x01\x01\0\0\0\0\x01\0\0\0\x08\0\0\0\x05\x01u\0", "closed"),
    ] {
        let server = std::thread::spawn({
            let listener = listener.try_clone().unwrap();
            move || {
                let (mut stream, _) = listener.accept().unwrap();
                line(&mut stream);
                stream.write_all(says).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let said = collect();
        assert!(said.contains(error), "{said}, not {error}");
        server.join().unwrap();
    }
}

#[test]
fn a_length_that_lies_is_an_error_and_no_allocation() {
    let mut head = *b"l\x02\x01\x01\0\0\0\0\x01\0\0\0\0\0\0\0";
    assert_eq!(whole(&head).unwrap(), HEAD);
    head[4..8].copy_from_slice(&u32::try_from(LARGEST).unwrap().to_le_bytes());
    assert!(whole(&head).is_err());
    let mut body = Writer::new(false);
    body.number(u32::MAX);
    let message = message(2, 5, &body);
    let answer = parse(&message).unwrap();
    assert_eq!(answer.serial, 5);
    assert!(answer.body.clone().unwrap().structs(unit, MOST).unwrap_err().contains("cut off"));
    assert!(answer.body.unwrap().any_text().is_err());
}

#[test]
fn a_version_is_a_number_as_far_as_it_goes() {
    for (text, number) in [
        ("252.39-1~deb12u2", 252.39),
        ("257", 257.0),
        ("256~rc3", 256.0),
        ("255.4.1", 255.4),
        ("devel", 0.0),
        ("", 0.0),
    ] {
        assert!((number_of(text) - number).abs() < 1e-9, "{text}");
    }
}

proptest! {
    #[test]
    fn no_message_makes_it_panic(
        big: bool,
        cut in 0usize..1200,
        flips in proptest::collection::vec((0usize..1200, any::<u8>()), 0..6),
    ) {
        let mut message = message(2, 9, &list(big));
        for (at, byte) in flips {
            if let Some(place) = message.get_mut(at) {
                *place = byte;
            }
        }
        message.truncate(cut.max(HEAD));
        let _ = whole(&message);
        if let Ok(answer) = parse(&message)
            && let Ok(body) = answer.body
        {
            let _ = body.clone().any_text();
            let _ = body.clone().any_number();
            let _ = body.clone().structs(unit, MOST);
        }
    }
}
