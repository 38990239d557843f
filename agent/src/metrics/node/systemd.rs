//! States of systemd's units, asked over D-Bus, as node_exporter does (collector/systemd_linux.go) with its defaults
//! and the count of restarts. Off unless `metrics.node.enable` names it, as there.
//!
//! A scrape makes a connection, and some calls and two for each service, many under way at once. Memory: the largest
//! message (16 MiB) and [`MOST`] units.

mod bus;
mod message;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sonde_daemon::page::{Sink, Source};

use crate::metrics::help;
use bus::Bus;
use message::{Call, Reader};

/// Its name in `metrics.node.enable` and in the page's accounting.
pub(crate) const NAME: &str = "systemd";
/// Most units that are asked for.
const MOST: usize = 8192;
/// How long all of it may take.
const ALL: Duration = Duration::from_secs(2);
const STATES: [&str; 5] = ["active", "activating", "deactivating", "inactive", "failed"];
/// Kinds of units that node_exporter leaves out.
const LEFT_OUT: [&str; 5] = ["automount", "device", "mount", "scope", "slice"];
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const ROOT: &str = "/org/freedesktop/systemd1";

/// The collector.
pub(super) struct Systemd {
    /// Sockets in the order in which they are tried, and whether there is a bus behind them.
    sockets: [(PathBuf, bool); 2],
}

/// A unit as systemd lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unit {
    name: String,
    loaded: bool,
    state: String,
    path: String,
}

/// What a service is beyond a unit.
#[derive(Clone, Debug, Default)]
struct Service {
    kind: String,
    restarts: Option<u32>,
}

/// Everything that was asked.
struct Picture {
    version: String,
    running: bool,
    units: Vec<Unit>,
    /// By the unit's name.
    services: HashMap<String, Service>,
}

impl Systemd {
    /// `root` is the host's.
    pub(super) fn new(root: &Path) -> Self {
        let sockets =
            [(root.join("run/dbus/system_bus_socket"), true), (root.join("run/systemd/private"), false)];
        Self { sockets }
    }

    fn connect(&self) -> Result<Bus, String> {
        let until = Instant::now() + ALL;
        let [(bus, _), _] = &self.sockets;
        let there = self.sockets.iter().find(|(socket, _)| socket.exists());
        let Some((socket, hello)) = there else { return Err(format!("{}: not there", bus.display())) };
        Bus::connect(socket, *hello, until)
    }
}

impl Source for Systemd {
    fn name(&self) -> &'static str {
        NAME
    }

    fn patience(&self) -> Option<Duration> {
        Some(ALL * 2)
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        show(&ask(&mut self.connect()?)?, out);
        Ok(())
    }
}

fn get<'a>(path: &'a str, arguments: &'a [&'a str]) -> Call<'a> {
    let interface = "org.freedesktop.DBus.Properties";
    Call { destination: SYSTEMD, path, interface, member: "Get", arguments }
}

fn ask(bus: &mut Bus) -> Result<Picture, String> {
    let about = [get(ROOT, &[MANAGER, "Version"]), get(ROOT, &[MANAGER, "SystemState"])];
    let mut about = bus.ask(&about, |_, body| Ok(body?.any_text()?.to_owned()))?.into_iter();
    let mut text = || about.next().unwrap_or_else(|| Err("no answer".to_owned()));
    let (version, state) = (text()?, text()?);
    let list =
        Call { destination: SYSTEMD, path: ROOT, interface: MANAGER, member: "ListUnits", arguments: &[] };
    let mut units = Vec::new();
    for answer in bus.ask(&[list], |_, body| body?.structs(unit, MOST))? {
        units.extend(answer?);
    }
    let shown: Vec<&Unit> =
        units.iter().filter(|unit| unit.is_shown() && unit.name.ends_with(".service")).collect();
    let calls: Vec<Call<'_>> = shown
        .iter()
        .flat_map(|unit| [get(&unit.path, &[SERVICE, "Type"]), get(&unit.path, &[SERVICE, "NRestarts"])])
        .collect();
    let mut services: HashMap<String, Service> = HashMap::new();
    // A service that is gone by now, or a systemd that does not count, answers with an error.
    bus.ask(&calls, |at, body| {
        let (Some(unit), Ok(mut body)) = (shown.get(at / 2), body) else { return Ok(()) };
        let service = services.entry(unit.name.clone()).or_default();
        if at.is_multiple_of(2) {
            body.any_text()?.clone_into(&mut service.kind);
        } else {
            service.restarts = Some(body.any_number()?);
        }
        Ok(())
    })?;
    Ok(Picture { version, running: state == "running", units, services })
}

/// `(ssssssouso)`: name, description, whether it was loaded, state, state of its kind, whom it follows, path, job.
fn unit(reader: &mut Reader<'_>) -> Result<Unit, String> {
    let name = reader.text()?.to_owned();
    reader.text()?;
    let loaded = reader.text()? == "loaded";
    let state = reader.text()?.to_owned();
    reader.text()?;
    reader.text()?;
    let path = reader.text()?.to_owned();
    reader.number()?;
    reader.text()?;
    reader.text()?;
    Ok(Unit { name, loaded, state, path })
}

impl Unit {
    fn is_shown(&self) -> bool {
        let kind = self.name.rsplit_once('.').map_or("", |(_, kind)| kind);
        self.loaded && !LEFT_OUT.contains(&kind)
    }
}

fn show(picture: &Picture, out: &mut Sink) {
    let version = picture.version.as_str();
    help::gauge(out, "node_systemd_version").row([("version", version)], number_of(version));
    help::gauge(out, "node_systemd_system_running").row([], picture.running);
    let mut rows = help::gauge(out, "node_systemd_units");
    for state in STATES {
        let count = picture.units.iter().filter(|unit| unit.state == state).count() as u64;
        rows.row([("state", state)], count);
    }
    let none = Service::default();
    let shown = || picture.units.iter().filter(|unit| unit.is_shown());
    let mut rows = help::gauge(out, "node_systemd_unit_state");
    for unit in shown() {
        let service = picture.services.get(&unit.name).unwrap_or(&none);
        for state in STATES {
            let labels = [("name", unit.name.as_str()), ("state", state), ("type", service.kind.as_str())];
            rows.row(labels, u64::from(unit.state == state));
        }
    }
    let mut rows = help::counter(out, "node_systemd_service_restart_total");
    for unit in shown() {
        if let Some(restarts) = picture.services.get(&unit.name).and_then(|service| service.restarts) {
            rows.row([("name", unit.name.as_str())], u64::from(restarts));
        }
    }
}

/// `252.39-1~deb12u2` is 252.39; 0 where it is no number.
fn number_of(version: &str) -> f64 {
    let mut dots = 0;
    let end = version.find(|c: char| {
        dots += usize::from(c == '.');
        !(c.is_ascii_digit() || c == '.') || dots > 1
    });
    version.get(..end.unwrap_or(version.len())).and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
pub(crate) mod tests;
