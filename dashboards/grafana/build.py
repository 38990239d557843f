#!/usr/bin/env python3
"""Writes the dashboards beside this file. The JSON is checked in; dashboards/check compares it with what this writes.

Usage: dashboards/grafana/build.py [FOLDER]
"""

import json
import pathlib
import sys

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
HEIGHT = 8


def variable(name, label, query, multi=True, hide=0):
    """A variable from label values; `.+` for all would miss rows without the label, as `cluster` in a single cluster."""
    return {
        "type": "query", "name": name, "label": label, "datasource": DATASOURCE, "hide": hide,
        "definition": query, "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "regex": "",
        "multi": multi, "includeAll": True, "allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [], "skipUrlSync": False,
    }


DATASOURCE_VARIABLE = {
    "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1, "hide": 0,
    "multi": False, "includeAll": False, "regex": "", "current": {}, "options": [], "skipUrlSync": False,
}


def target(expr, legend="", **more):
    return {"datasource": DATASOURCE, "expr": expr, "legendFormat": legend or "__auto", "editorMode": "code", "range": True, **more}


def targets(listed, **more):
    return [{"refId": chr(ord("A") + at), **target(expr, legend, **more)} for at, (expr, legend) in enumerate(listed)]


def steps(*pairs):
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in pairs]}


PLAIN = steps((None, "green"))


def series(title, description, unit, *listed, stack=False, links=(), width=12, minimum=0):
    custom = {
        "drawStyle": "line", "lineWidth": 1, "fillOpacity": 25 if stack else 8, "showPoints": "never", "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"}, "axisSoftMin": 0,
    }
    defaults = {"unit": unit, "custom": custom, "color": {"mode": "palette-classic"}, "thresholds": PLAIN, "links": list(links)}
    if minimum is not None:
        defaults["min"] = minimum
    return {
        "type": "timeseries", "title": title, "description": description, "datasource": DATASOURCE, "width": width,
        "targets": targets(listed), "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["mean", "max", "lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def stat(title, description, unit, expr, thresholds=PLAIN, width=4):
    return {
        "type": "stat", "title": title, "description": description, "datasource": DATASOURCE, "width": width, "height": 4,
        "targets": targets([(expr, "")], instant=True),
        "fieldConfig": {"defaults": {"unit": unit, "thresholds": thresholds, "color": {"mode": "thresholds"}, "noValue": "–"}, "overrides": []},
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value",
            "graphMode": "none", "justifyMode": "auto", "textMode": "auto", "orientation": "auto",
        },
    }


def table(title, description, columns, by, width=24, links=()):
    """`columns`: (name, unit, query), joined by the labels `by`."""
    listed = targets([(expr, "") for _, _, expr in columns], instant=True)
    for each in listed:
        each |= {"format": "table", "range": False}
    rename = {f"Value #{each['refId']}": name for each, (name, _, _) in zip(listed, columns)}
    if len(columns) == 1:
        rename["Value"] = columns[0][0]
    overrides = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]} for name, unit, _ in columns
    ]
    for label, url in links:
        overrides.append({
            "matcher": {"id": "byName", "options": label},
            "properties": [{"id": "links", "value": [{"title": "Show ${__value.text}", "url": url}]}],
        })
    return {
        "type": "table", "title": title, "description": description, "datasource": DATASOURCE, "width": width, "height": 10,
        "targets": listed,
        "fieldConfig": {"defaults": {"unit": "short", "custom": {"align": "auto", "filterable": True}, "thresholds": PLAIN}, "overrides": overrides},
        "options": {"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": columns[0][0], "desc": True}]},
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "filterFieldsByName", "options": {"include": {"names": [*by, *rename]}}},
            {"id": "organize", "options": {"renameByName": rename, "indexByName": {n: i for i, n in enumerate([*by, *rename])}}},
        ],
    }


def row(title, collapsed=False, panels=()):
    return {"type": "row", "title": title, "collapsed": collapsed, "panels": list(panels)}


def laid_out(panels):
    """Gives panels their ids and their places, left to right, a new line where one does not fit."""
    x = y = line = 0
    for number, panel in enumerate(panels, 1):
        width, height = panel.pop("width", 24), panel.pop("height", 1 if panel["type"] == "row" else HEIGHT)
        if x + width > 24 or panel["type"] == "row":
            x, y, line = 0, y + line, 0
        panel |= {"id": number, "gridPos": {"h": height, "w": width, "x": x, "y": y}}
        x, line = x + width, max(line, height)
    return panels


def dashboard(uid, title, description, variables, panels, links):
    return {
        "id": None, "uid": uid, "title": title, "description": description, "tags": ["sonde"], "schemaVersion": 41, "version": 1,
        "editable": False, "graphTooltip": 1, "liveNow": False, "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser", "fiscalYearStartMonth": 0, "weekStart": "", "timepicker": {},
        "annotations": {"list": [{
            "builtIn": 1, "datasource": {"type": "grafana", "uid": "-- Grafana --"}, "enable": True, "hide": True,
            "iconColor": "rgba(0, 211, 255, 1)", "name": "Annotations & Alerts", "type": "dashboard",
        }]},
        "links": [
            {"type": "link", "title": text, "url": f"/d/{to}", "icon": "dashboard", "includeVars": True, "keepTime": True,
             "asDropdown": False, "tags": [], "targetBlank": False, "tooltip": ""} for text, to in links
        ],
        "templating": {"list": [DATASOURCE_VARIABLE, *variables]},
        "panels": laid_out(panels),
    }


NS = 'cluster=~"$cluster", namespace=~"$namespace"'
POD = f'{NS}, pod=~"$pod"'


def namespaces():
    def by_namespace(expr, how="rate"):
        inner = f"rate({expr}{{{NS}}}[$__rate_interval])" if how == "rate" else f"{expr}{{{NS}}}"
        return f"sum by (namespace) ({inner})"

    def by_pod(expr, how="rate", more='container!="", container!="POD"'):
        selector = f"{POD}, {more}" if more else POD
        inner = f"rate({expr}{{{selector}}}[$__rate_interval])" if how == "rate" else f"{expr}{{{selector}}}"
        return f"sum by (namespace, pod) ({inner})"

    to_namespace = {"title": "Only this namespace", "url": "/d/sonde-namespaces?${datasource:queryparam}&${cluster:queryparam}&var-namespace=${__field.labels.namespace}&${__url_time_range}"}
    to_pod = {"title": "Only this pod", "url": "/d/sonde-namespaces?${datasource:queryparam}&${cluster:queryparam}&var-namespace=${__field.labels.namespace}&var-pod=${__field.labels.pod}&${__url_time_range}"}
    received, sent = "sonde_namespace_network_receive", "sonde_namespace_network_transmit"
    rate = "[$__rate_interval]"
    panels = [
        row("Overview"),
        stat("CPU", "Cores in use by the pods of the chosen namespaces.", "short", f"sum(rate(sonde_namespace_cpu_usage_seconds_total{{{NS}}}{rate}))"),
        stat("CPU of requests", "CPU in use as a share of what the pods request.", "percentunit",
             f"sum(rate(sonde_namespace_cpu_usage_seconds_total{{{NS}}}{rate})) / sum(sonde_namespace_cpu_request_cores{{{NS}}})",
             steps((None, "green"), (0.9, "orange"), (1.2, "red"))),
        stat("Memory", "Working set: memory that the kernel cannot simply drop.", "bytes", f"sum(sonde_namespace_memory_working_set_bytes{{{NS}}})"),
        stat("Memory of limits", "Working set as a share of the memory limits; at 100 % the kernel kills.", "percentunit",
             f"sum(sonde_namespace_memory_working_set_bytes{{{NS}}}) / sum(sonde_namespace_memory_limit_bytes{{{NS}}})",
             steps((None, "green"), (0.8, "orange"), (0.95, "red"))),
        stat("Running pods", "Pods in phase Running.", "short", f'sum(sonde_namespace_pods{{{NS}, phase="Running"}})'),
        stat("Pods not well", "Pods in phase Pending, Failed or Unknown.", "short",
             f'sum(sonde_namespace_pods{{{NS}, phase=~"Pending|Failed|Unknown"}})', steps((None, "green"), (1, "orange"))),
        row("Namespaces"),
        series("CPU by namespace", "Cores in use, summed over the pods of a namespace. Counted on the nodes from cgroups; a pod that ends does not let it fall back.",
               "short", (by_namespace("sonde_namespace_cpu_usage_seconds_total"), "{{namespace}}"), stack=True, links=[to_namespace]),
        series("Memory by namespace", "Working set, summed over the pods of a namespace.", "bytes",
               (by_namespace("sonde_namespace_memory_working_set_bytes", "sum"), "{{namespace}}"), stack=True, links=[to_namespace]),
        series("Network by namespace", "Bytes received and sent by the pods of a namespace. Pods on the host's network are not counted.", "Bps",
               (by_namespace(f"{received}_bytes_total"), "{{namespace}} received"), (by_namespace(f"{sent}_bytes_total"), "{{namespace}} sent"), links=[to_namespace]),
        series("Log volume by namespace", "Bytes a second that containers write to their logs, as read by the agents.", "Bps",
               (by_namespace("sonde_namespace_log_bytes_total"), "{{namespace}}"), stack=True, links=[to_namespace]),
        series("Log lines by namespace", "Lines a second that containers write to their logs.", "cps",
               (by_namespace("sonde_namespace_log_lines_total"), "{{namespace}}"), stack=True, links=[to_namespace]),
        series("Network errors and drops", "Packets that were dropped or damaged, by namespace and direction.", "pps",
               (f"{by_namespace(f'{received}_errors_total')} + {by_namespace(f'{received}_dropped_total')}", "{{namespace}} received"),
               (f"{by_namespace(f'{sent}_errors_total')} + {by_namespace(f'{sent}_dropped_total')}", "{{namespace}} sent")),
        table("Use and requests", "What each namespace uses beside what its pods request and may use at most.", [
            ("CPU", "short", by_namespace("sonde_namespace_cpu_usage_seconds_total")),
            ("CPU requests", "short", by_namespace("sonde_namespace_cpu_request_cores", "sum")),
            ("CPU limits", "short", by_namespace("sonde_namespace_cpu_limit_cores", "sum")),
            ("Memory", "bytes", by_namespace("sonde_namespace_memory_working_set_bytes", "sum")),
            ("Memory requests", "bytes", by_namespace("sonde_namespace_memory_request_bytes", "sum")),
            ("Memory limits", "bytes", by_namespace("sonde_namespace_memory_limit_bytes", "sum")),
            ("Containers", "short", by_namespace("sonde_namespace_containers", "sum")),
            ("Log bytes/s", "Bps", by_namespace("sonde_namespace_log_bytes_total")),
        ], ["namespace"], links=[("namespace", "/d/sonde-namespaces?${datasource:queryparam}&${cluster:queryparam}&var-namespace=${__value.text}&${__url_time_range}")]),
        row("Pod states"),
        series("Pods by phase", "Pods of the chosen namespaces by phase.", "short", (f"sum by (phase) (sonde_namespace_pods{{{NS}}})", "{{phase}}"), stack=True),
        series("Restarts", "Container restarts within the last 10 minutes, by pod.", "short",
               (f"sum by (namespace, pod) (increase(kube_pod_container_status_restarts_total{{{POD}}}[10m])) > 0", "{{namespace}}/{{pod}}"), links=[to_pod]),
        table("Waiting containers", "Containers that do not run now, and why: CrashLoopBackOff, ImagePullBackOff, CreateContainerConfigError and so on.", [
            ("Waiting", "short", f"sum by (namespace, pod, container, reason) (kube_pod_container_status_waiting_reason{{{POD}}}) > 0"),
        ], ["namespace", "pod", "container", "reason"], width=12),
        table("Last ends", "Containers that have ended at least once, and the reason of the last end.", [
            ("Ended", "short", f"sum by (namespace, pod, container, reason) (kube_pod_container_status_last_terminated_reason{{{POD}}}) > 0"),
        ], ["namespace", "pod", "container", "reason"], width=12),
        series("OOM kills", "Processes that the kernel killed for lack of memory within the last 10 minutes, by namespace.", "short",
               (f"sum by (namespace) (increase(sonde_namespace_oom_kills_total{{{NS}}}[10m]))", "{{namespace}}")),
        series("CPU throttling", "Cores' worth of time that containers wanted to run and were held back by their CPU limit.", "short",
               (by_namespace("sonde_namespace_cpu_throttled_seconds_total"), "{{namespace}}")),
        row("Pods"),
        series("CPU by pod", "Cores in use, summed over the containers of a pod.", "short", (by_pod("container_cpu_usage_seconds_total"), "{{namespace}}/{{pod}}"), links=[to_pod]),
        series("Memory by pod", "Working set, summed over the containers of a pod.", "bytes",
               (by_pod("container_memory_working_set_bytes", "sum"), "{{namespace}}/{{pod}}"), links=[to_pod]),
        series("Network received by pod", "Bytes a second received, all interfaces of the pod.", "Bps",
               (by_pod("container_network_receive_bytes_total", more='pod!=""'), "{{namespace}}/{{pod}}"), links=[to_pod]),
        series("Network sent by pod", "Bytes a second sent, all interfaces of the pod.", "Bps",
               (by_pod("container_network_transmit_bytes_total", more='pod!=""'), "{{namespace}}/{{pod}}"), links=[to_pod]),
        series("Log volume by pod", "Bytes a second of the pod's logs that the agents saw.", "Bps",
               (by_pod("sonde_agent_log_observed_bytes_total", more=""), "{{namespace}}/{{pod}}"), links=[to_pod]),
        series("Memory by container", "Resident anonymous memory (rss) and working set of each container.", "bytes",
               (f'sum by (pod, container) (container_memory_working_set_bytes{{{POD}, container!="", container!="POD"}})', "{{pod}} {{container}} working set"),
               (f'sum by (pod, container) (container_memory_rss{{{POD}, container!="", container!="POD"}})', "{{pod}} {{container}} rss")),
    ]
    variables = [
        variable("cluster", "Cluster", "label_values(sonde_namespace_pods, cluster)"),
        variable("namespace", "Namespace", 'label_values(sonde_namespace_pods{cluster=~"$cluster"}, namespace)'),
        variable("pod", "Pod", f"label_values(kube_pod_info{{{NS}}}, pod)"),
    ]
    return dashboard("sonde-namespaces", "Sonde / Namespaces", "CPU, memory, network, log volume and pod states by namespace and pod.",
                     variables, panels, [("Sonde itself", "sonde-self")])


def itself():
    node = 'cluster=~"$cluster", node=~"$node"'
    sink = 'cluster=~"$cluster", sink=~"$sink"'
    collector = 'cluster=~"$cluster"'
    rate = "[$__rate_interval]"
    red_at_one = steps((None, "green"), (1, "red"))
    ledger = "sonde_agent_log_{}"
    # A first loss makes its row: increase() does not see the step from no row to a value, this difference does.
    lost, shed = (f"node_namespace_reason:sonde_agent_log_{what}_bytes:sum" for what in ("lost", "shed"))

    def within(recorded):
        total = f"sum by (reason) ({recorded}{{{node}}})"
        return f"{total} - (sum by (reason) ({recorded}{{{node}}} offset $__rate_interval) or {total} * 0)"

    panels = [
        row("Health"),
        stat("Agents that answer", "Nodes whose agent Prometheus reaches.", "short", f'count(max by (node) (up{{job="sonde", {node}}}) == 1)'),
        stat("Silent agents", "Nodes whose agent Prometheus does not reach.", "short",
             f'count(max by (node) (up{{job="sonde", {node}}}) == 0) or vector(0)', red_at_one),
        stat("Lost", "Bytes of logs that could not be delivered, within the chosen time.", "bytes",
             f"(sum({lost}{{{node}}}) or vector(0)) - (sum({lost}{{{node}}} offset $__range) or vector(0))", red_at_one),
        stat("Missed rotations", "Rotations of log files that no agent saw, within the chosen time.", "short",
             f"sum(increase(sonde_agent_log_gaps_total{{{node}}}[$__range]))", red_at_one),
        stat("Refused", "Agents that a receiver holds with its answer (an expired token, say).", "short",
             f"sum(max by (node) (sonde_agent_export_blocked{{{node}}})) or vector(0)", red_at_one),
        stat("Dead letters", "Records that a sink refused for good, within the chosen time.", "short",
             f'sum(increase(sonde_collector_records_total{{{sink}, outcome="dead_letter"}}[$__range]))', red_at_one),
        row("Ledger: every byte of every log file"),
        series("Observed and acknowledged", "Bytes a second that appear in log files, and that the receiver acknowledged. In the long run they are equal, less what was excluded or shed on purpose.", "Bps",
               (f"sum(rate({ledger.format('observed_bytes_total')}{{{node}}}{rate}))", "observed"),
               (f"sum(rate({ledger.format('acked_bytes_total')}{{{node}}}{rate}))", "acknowledged")),
        series("Waiting", "Bytes seen in log files and not settled yet, by node: the lag in bytes.", "bytes",
               (f"sum by (node) ({ledger.format('pending_bytes')}{{{node}}})", "{{node}}")),
        series("Left out and lost", "Bytes that were lost, shed by a limit, or excluded by a rule within a step, with the reason.", "bytes",
               (within(lost), "lost: {{reason}}"), (within(shed), "shed: {{reason}}"),
               (f"sum by (reason) (increase({ledger.format('excluded_bytes_total')}{{{node}}}{rate}))", "excluded: {{reason}}")),
        series("Unaccounted", "Observed bytes that are in no other row of the ledger. Anything but 0 is a defect of Sonde.", "bytes",
               (f"node:sonde_agent_log_unaccounted_bytes:sum{{{node}}}", "{{node}}"), minimum=None),
        series("Records", "Records a second by outcome; `sent` counts each sending, so resends show as the gap to `acked`.", "cps",
               (f"sum by (outcome) (rate({ledger.format('records_total')}{{{node}}}{rate}))", "{{outcome}}")),
        table("Who waits most", "Containers with the most bytes that are not acknowledged.", [
            ("Waiting", "bytes", f"topk(20, sum by (node, namespace, pod, container) ({ledger.format('pending_bytes')}{{{node}}}) > 0)"),
        ], ["node", "namespace", "pod", "container"], width=12),
        series("Log files", "Files that the agents know and hold open, and those that cannot be opened or were set aside.", "short",
               (f"sum({ledger.format('files')}{{{node}}})", "known"), (f"sum({ledger.format('open_files')}{{{node}}})", "open"),
               (f"sum({ledger.format('unreadable_files')}{{{node}}})", "unreadable"),
               (f"sum(increase({ledger.format('set_aside_files_total')}{{{node}}}[$__range]))", "set aside")),
        series("Deleted files held open", "Bytes of deleted log files that are held until they are shipped; bounded by logs.pinned_deleted.", "bytes",
               (f"sum by (node) ({ledger.format('pinned_bytes')}{{{node}}})", "{{node}}")),
        series("Positions", "Failed writes of the state file, and nodes whose last write failed.", "short",
               (f"sum(increase({ledger.format('state_errors_total')}{{{node}}}{rate}))", "failed writes"),
               (f"sum({ledger.format('state_failing')}{{{node}}})", "failing now"),
               (f"count({ledger.format('inotify')}{{{node}}} == 0) or vector(0)", "nodes without inotify")),
        row("Export"),
        series("Answers", "Requests a second by the receiver's answer.", "reqps", (f"sum by (code) (rate(sonde_agent_export_requests_total{{{node}}}{rate}))", "{{code}}")),
        series("Sent again", "Requests a second that had to be sent again, by the reason.", "reqps",
               (f"sum by (code) (rate(sonde_agent_export_retries_total{{{node}}}{rate}))", "{{code}}")),
        series("Time to acknowledgement", "From taking over a request to its acknowledgement, retries included.", "s",
               (f"histogram_quantile(0.5, sum by (le) (rate(sonde_agent_export_ack_seconds_bucket{{{node}}}{rate})))", "half"),
               (f"histogram_quantile(0.99, sum by (le) (rate(sonde_agent_export_ack_seconds_bucket{{{node}}}{rate})))", "99 of 100")),
        series("Bytes on the wire", "Bytes a second before compression and as sent.", "Bps",
               (f"sum(rate(sonde_agent_export_uncompressed_bytes_total{{{node}}}{rate}))", "before compression"),
               (f"sum by (compression) (rate(sonde_agent_export_bytes_total{{{node}}}{rate}))", "sent: {{compression}}")),
        series("Requests under way", "Requests that are not acknowledged, by node; bounded by export.in_flight.", "short",
               (f"sum by (node) (sonde_agent_export_in_flight{{{node}}})", "{{node}}")),
        series("Held and refused", "1 while a receiver's answer holds an agent; and records a second that a receiver refused for good.", "short",
               (f"max by (node, code) (sonde_agent_export_blocked{{{node}}})", "{{node}} held: {{code}}"),
               (f"sum by (node) (rate(sonde_agent_export_rejected_records_total{{{node}}}{rate}))", "{{node}} refused")),
        row("Collector"),
        series("Queue", "Bytes that each sink has still to take.", "bytes", (f"sum by (instance, sink) (sonde_collector_queue_bytes{{{sink}}})", "{{instance}} {{sink}}"),
               (f"sum by (instance) (sonde_collector_queue_disk_bytes{{{collector}}})", "{{instance}} on disk")),
        series("Oldest record", "Age of the oldest record that a sink has still to take: the lag in time.", "s",
               (f"max by (instance, sink) (sonde_collector_queue_oldest_seconds{{{sink}}})", "{{instance}} {{sink}}")),
        series("Records at the sinks", "Records a second by sink and outcome.", "cps",
               (f"sum by (sink, outcome) (rate(sonde_collector_records_total{{{sink}}}{rate}))", "{{sink}} {{outcome}}")),
        series("Tries at the sinks", "Tries a second that failed and were made again.", "cps",
               (f"sum by (sink, code) (rate(sonde_collector_retries_total{{{sink}}}{rate}))", "{{sink}} {{code}}")),
        series("Received", "Bytes a second of acknowledged requests, before and after decompression.", "Bps",
               (f"sum(rate(sonde_collector_received_bytes_total{{{collector}}}{rate}))", "as received"),
               (f"sum(rate(sonde_collector_received_uncompressed_bytes_total{{{collector}}}{rate}))", "after decompression")),
        series("Requests", "OTLP requests a second by answer, and those that were refused by reason.", "reqps",
               (f"sum by (transport, code) (rate(sonde_collector_requests_total{{{collector}}}{rate}))", "{{transport}} {{code}}"),
               (f"sum by (reason) (rate(sonde_collector_requests_refused_total{{{collector}}}{rate}))", "refused: {{reason}}")),
        series("Time to acknowledge", "From a request's head to its acknowledgement: mostly the queue's fsync.", "s",
               (f"histogram_quantile(0.5, sum by (le) (rate(sonde_collector_ack_seconds_bucket{{{collector}}}{rate})))", "half"),
               (f"histogram_quantile(0.99, sum by (le) (rate(sonde_collector_ack_seconds_bucket{{{collector}}}{rate})))", "99 of 100")),
        series("Store", "Disk space of the embedded store.", "bytes", (f"sum by (instance) (sonde_collector_store_disk_bytes{{{collector}}})", "{{instance}}")),
        row("Canaries"),
        series("Delay to the sinks", "From writing a canary on its node until all that was queued up to it is settled at the sink, with `canary.interval`.", "s",
               (f"histogram_quantile(0.5, sum by (sink, le) (rate(sonde_collector_canary_delay_seconds_bucket{{{sink}}}{rate})))", "{{sink}}: half"),
               (f"histogram_quantile(0.99, sum by (sink, le) (rate(sonde_collector_canary_delay_seconds_bucket{{{sink}}}{rate})))", "{{sink}}: 99 of 100"),
               (f"max(sonde_agent_canary_oldest_unacknowledged_seconds{{{node}}})", "oldest unacknowledged")),
        series("Canaries at the sinks", "Canaries within a step: acknowledged, and by what became of them. `missing` is lost, or gone to another replica.", "short",
               (f"sum(increase(sonde_agent_canary_acknowledged_total{{{node}}}{rate}))", "acknowledged"),
               (f'sum by (sink, outcome) (increase(sonde_collector_canary_records_total{{{node}, sink=~"$sink"}}{rate}))', "{{sink}}: {{outcome}}")),
        row("Cost"),
        series("CPU of the agents", "Cores that an agent uses.", "short", (f'sum by (node) (rate(process_cpu_seconds_total{{job="sonde", {node}}}{rate}))', "{{node}}")),
        series("Memory of the agents", "Resident memory of an agent.", "bytes", (f'max by (node) (process_resident_memory_bytes{{job="sonde", {node}}})', "{{node}}")),
        series("CPU of the collector", "Cores that a collector uses.", "short",
               (f'sum by (instance) (rate(process_cpu_seconds_total{{job="sonde-collector", {collector}}}{rate}))', "{{instance}}")),
        series("Memory of the collector", "Resident memory of a collector, and memory reserved for requests under way.", "bytes",
               (f'max by (instance) (process_resident_memory_bytes{{job="sonde-collector", {collector}}})', "{{instance}}"),
               (f"sum by (instance) (sonde_collector_in_flight_bytes{{{collector}}})", "{{instance}} requests under way")),
        series("Sources", "Time that each source of the agent's pages takes, the slowest node.", "s",
               (f"max by (source) (sonde_agent_source_duration_seconds{{{node}}})", "{{source}}")),
        series("Failing sources", "Nodes on which a source could not be read.", "short",
               (f"count by (source) (sonde_agent_source_success{{{node}}} == 0) or vector(0)", "{{source}}")),
    ]
    variables = [
        variable("cluster", "Cluster", 'label_values(up{job="sonde"}, cluster)'),
        variable("node", "Node", 'label_values(up{job="sonde", cluster=~"$cluster"}, node)'),
        variable("sink", "Sink", 'label_values(sonde_collector_queue_bytes{cluster=~"$cluster"}, sink)'),
    ]
    return dashboard("sonde-self", "Sonde / Itself", "What Sonde does with your logs, byte by byte, and what it costs.",
                     variables, panels, [("Namespaces", "sonde-namespaces")])


def main():
    into = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    for name, content in [("namespaces.json", namespaces()), ("sonde.json", itself())]:
        (into / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
