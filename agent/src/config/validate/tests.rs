use sonde_daemon::config::{Problem, load};

use super::*;

fn problems(yaml: &str) -> Vec<Problem> {
    load::<Config>(yaml, "agent.yaml", |_| None).map(|_| Vec::new()).unwrap_or_else(|problems| problems)
}

#[test]
fn the_defaults_have_no_problem() {
    assert_eq!(problems(""), []);
    // Nobody in the kubelet's place.
    assert_eq!(problems("pods: {api: {url: ''}}"), []);
}

#[test]
fn every_mistake_is_reported_with_its_key() {
    for (yaml, key) in [
        ("listen: somewhere", "listen"),
        ("listen: ''", "listen"),
        ("state_dir: ''", "state_dir"),
        ("shutdown_grace: 0s", "shutdown_grace"),
        ("kubelet: {url: 'node:10250'}", "kubelet.url"),
        ("kubelet: {url: ''}\npods: {source: kubelet}", "kubelet.url"),
        ("kubelet: {server_name: 'a b'}", "kubelet.server_name"),
        ("pods: {source: api, api: {url: ''}}", "pods.api.url"),
        ("pods: {api: {url: 'api:6443'}}", "pods.api.url"),
        ("pods: {api: {server_name: 'a b'}}", "pods.api.server_name"),
        ("kubelet: {interval: 10ms}", "kubelet.interval"),
        ("pods: {labels: ['app[1]']}", "pods.labels[0]"),
        ("logs: {include: [{namespace: 'a?'}]}", "logs.include[0].namespace"),
        ("logs: {exclude: [{pod: ok}, {}]}", "logs.exclude[1]"),
        ("logs: {max_line: 10B}", "logs.max_line"),
        ("logs: {multiline: [{preset: cobol}]}", "logs.multiline[0].preset"),
        ("logs: {multiline: [{preset: java, start: x}]}", "logs.multiline[0]"),
        ("logs: {multiline: [{preset: java}, {start: '['}]}", "logs.multiline[1].start"),
        ("logs: {multiline: [{start: 'a*'}]}", "logs.multiline[0].start"),
        ("logs: {multiline: [{pod: 'a b', preset: java}]}", "logs.multiline[0].pod"),
        ("logs: {multiline: [{preset: java, max_lines: 1}]}", "logs.multiline[0].max_lines"),
        ("logs: {multiline: [{preset: java, max_bytes: 2MiB}]}", "logs.multiline[0].max_bytes"),
        ("logs: {multiline: [{preset: java, max_wait: 5m}]}", "logs.multiline[0].max_wait"),
        ("logs: {limits: {per_container: 10B}}", "logs.limits.per_container"),
        ("logs: {redact: [{preset: email}, {preset: phone}]}", "logs.redact[1].preset"),
        ("logs: {redact: [{pattern: '('}]}", "logs.redact[0].pattern"),
        ("logs: {redact: [{preset: card, pod: 'a b'}]}", "logs.redact[0].pod"),
        ("logs: {redact: [{preset: card, replace: 'a b'}]}", "logs.redact[0].replace"),
        ("logs: {files: [{path: /var/log/x}, {path: var/log/x}]}", "logs.files[1].path"),
        ("logs: {files: [{}]}", "logs.files[0].path"),
        ("logs: {files: [{path: /var/log/}]}", "logs.files[0].path"),
        ("logs: {files: [{path: '/var/**/x.log'}]}", "logs.files[0].path"),
        ("logs: {files: [{path: /var/../etc/x}]}", "logs.files[0].path"),
        ("logs: {files: [{path: /x, exclude: ['']}]}", "logs.files[0].exclude[0]"),
        ("logs: {files: [{path: /x, name: \"a\\tb\"}]}", "logs.files[0].name"),
        ("logs: {files: [{path: /x, attributes: {k8s.pod.name: x}}]}", "logs.files[0].attributes"),
        ("metrics: {interval: 1ms}", "metrics.interval"),
        ("metrics: {drop: [ok, '(']}", "metrics.drop[1]"),
        ("metrics: {node: {fs_exclude: '[a'}}", "metrics.node.fs_exclude"),
        ("metrics: {node: {enable: [systemd, wifi]}}", "metrics.node.enable[1]"),
        ("metrics: {node: {disable: [zfs, arp, systemd, nosuch]}}", "metrics.node.disable[3]"),
        ("canary: {interval: 1ms}", "canary.interval"),
        ("export: {endpoint: 'collector:4317'}", "export.endpoint"),
        ("export: {in_flight: 0}", "export.in_flight"),
        ("receive: {otlp_grpc: '4317'}", "receive.otlp_grpc"),
        ("receive: {otlp_grpc: '[::]:4317'}", "receive.otlp_grpc"),
        (
            "receive: {otlp_http: ':4318'}\nexport: {endpoint: 'http://localhost', protocol: http}",
            "receive.otlp_http",
        ),
        (
            "receive: {otlp_grpc: '10.0.0.1:99'}\nexport: {endpoint: 'http://10.0.0.1:99'}",
            "receive.otlp_grpc",
        ),
        ("receive: {limits: {request: 1KiB}}", "receive.limits.request"),
        ("receive: {limits: {request: 16MiB}}", "receive.limits.in_flight"),
        ("receive: {limits: {connections: 0}}", "receive.limits.connections"),
        ("export: {batch: {bytes: 1GiB}}", "export.batch.bytes"),
        ("export: {batch: {age: 0s}}", "export.batch.age"),
        ("export: {batch: {age: 1h}}", "export.batch.age"),
        ("export: {headers: {'a b': c}}", "export.headers.a b"),
        ("export: {headers: {a: (not shown)}}", "export.headers.a"),
        ("export: {headers: {Content-Type: c}}", "export.headers.Content-Type"),
        ("export: {headers: {authorization: c}, token_file: /t}", "export.headers.authorization"),
        ("export: {tls: {insecure_skip_verify: true}}", "export.tls"),
        ("export: {endpoint: 'https://c', tls: {cert_file: /c}}", "export.tls.key_file"),
        ("export: {endpoint: 'https://c', tls: {server_name: '*'}}", "export.tls.server_name"),
    ] {
        let found = problems(yaml);
        assert_eq!(found.len(), 1, "{yaml}: {found:?}");
        assert_eq!(found[0].path, key, "{yaml}");
    }
}

#[test]
fn what_people_write_is_fine() {
    for yaml in [
        "listen: ':9464'",
        "listen: 127.0.0.1:0",
        "listen: localhost:9464",
        "logs: {include: [{namespace: 'shop-*'}], exclude: [{container: istio-proxy}], read_existing: true}",
        "logs: {multiline: [{namespace: 's-*', preset: auto}, {start: '^\\d', max_lines: 50, max_bytes: 64KiB, max_wait: 1s}]}",
        "logs: {limits: {per_container: 1MiB, per_namespace: 10MiB}}",
        "logs: {redact: [{preset: email}, {namespace: pay-*, pattern: 'iban=(\\w+)', replace: '***'}]}",
        "logs: {redact: [{preset: email, container: 'file:/var/log/my app/*.log'}]}",
        "logs: {files: [{path: '/var/log/*/a b*.log', exclude: ['*-debug*'], name: x, attributes: {team.name: a}}]}",
        "export: {endpoint: 'https://[fd00::1]:4317', headers: {X-Scope-OrgID: team-a}}",
        "kubelet: {url: ''}",
        "canary: {interval: 1s}",
        "metrics: {interval: 30s, push: false, drop: ['node_.*']}",
        "kubelet: {url: 'http://127.0.0.1:10255', server_name: 10.0.0.1}",
    ] {
        assert_eq!(problems(yaml), [], "{yaml}");
    }
}

#[test]
fn in_a_pod_a_missing_node_name_is_a_problem() {
    let mut config = Config::default();
    config.node.name = String::new();
    let found = |config: &Config, in_pod| {
        let mut problems = Problems::default();
        config.check(&mut problems, in_pod);
        format!("{problems:?}")
    };
    assert!(found(&config, true).contains("NODE_NAME"));
    assert!(!found(&config, false).contains("NODE_NAME"));
    config.node.name = "n".repeat(254);
    assert!(found(&config, true).contains("longer than 253"));
    config.node.name = "node-1".to_owned();
    assert!(!found(&config, true).contains("NODE_NAME"));
}
