"""The page of pods as kube-state-metrics makes it of what the API server has, for a node of which no such page was recorded:
its documented families (docs/metrics/workload/pod-metrics.md), written from that page alone. Shares no code with the agent.
"""

import datetime
import re

PHASES = ("Pending", "Succeeded", "Failed", "Unknown", "Running")
REASONS = ("Evicted", "NodeAffinity", "NodeLost", "PreemptionByScheduler", "SchedulingGated", "Shutdown", "TerminationByKubelet", "UnexpectedAdmissionError")
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text):
    number, unit = re.fullmatch(r"([0-9.eE+]+)([A-Za-z]*)", str(text)).groups()
    return float(number) * UNITS[unit]


def seconds(stamp):
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


class Page:
    """Rows by name and labels; an empty label is none."""

    def __init__(self):
        self.rows, self.types = {}, {}

    def put(self, name, labels, value, kind="gauge"):
        self.types[name] = kind
        self.rows[name, frozenset((key, str(text)) for key, text in labels.items())] = float(value)

    def text(self):
        lines = []
        for name, kind in sorted(self.types.items()):
            lines.append(f"# TYPE {name} {kind}")
            for (own, labels), value in self.rows.items():
                if own == name:
                    lines.append("%s{%s} %s" % (name, ",".join(f'{key}="{text}"' for key, text in sorted(labels)), repr(value)))
        return "\n".join(lines) + "\n"


def page(pods):
    out = Page()
    for pod in pods:
        of_pod(out, pod)
    return out


def of_pod(out, pod):
    meta, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    base = {"namespace": meta["namespace"], "pod": meta["name"], "uid": meta["uid"]}

    def put(name, value=1, /, **labels):
        out.put(f"kube_pod_{name}", base | labels, value)

    owners = meta.get("ownerReferences", [])
    controller = next((each for each in owners if each.get("controller")), {})
    put("info", host_ip=status.get("hostIP", ""), pod_ip=status.get("podIP", ""), node=spec.get("nodeName", ""),
        created_by_kind=controller.get("kind", ""), created_by_name=controller.get("name", ""),
        priority_class=spec.get("priorityClassName", ""), host_network=str(spec.get("hostNetwork", False)).lower())
    for each in owners:
        put("owner", owner_kind=each["kind"], owner_name=each["name"], owner_is_controller=str(each.get("controller", False)).lower())
    if not owners:
        put("owner", owner_kind="", owner_name="", owner_is_controller="")
    for each in status.get("podIPs", []):
        put("ips", ip=each["ip"], ip_family="6" if ":" in each["ip"] else "4")
    put("created", seconds(meta["creationTimestamp"]))
    if "deletionTimestamp" in meta:
        put("deletion_timestamp", seconds(meta["deletionTimestamp"]))
    if "startTime" in status:
        put("start_time", seconds(status["startTime"]))
    ends = [seconds(each["state"]["terminated"]["finishedAt"]) for each in status.get("containerStatuses", []) if "terminated" in each["state"]]
    if ends:
        put("completion_time", max(ends))
    for phase in PHASES if status.get("phase") else ():
        put("status_phase", status["phase"] == phase, phase=phase)
    if status.get("qosClass"):
        put("status_qos_class", qos_class=status["qosClass"])
    if status.get("reason"):
        put("status_reason", reason=status["reason"] if status["reason"] in REASONS else "Other")
    conditions(put, status)
    if "restartPolicy" in spec:
        put("restart_policy", type=spec["restartPolicy"])
    put("service_account", service_account=spec.get("serviceAccountName", ""))
    if "schedulerName" in spec:
        put("scheduler", name=spec["schedulerName"])
    for each in spec.get("tolerations", []):
        known = {"key": "key", "operator": "operator", "value": "value", "effect": "effect", "tolerationSeconds": "toleration_seconds"}
        put("tolerations", **{label: each[key] for key, label in known.items() if key in each})
    for volume in spec.get("volumes", []):
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]
            labels = {"volume": volume["name"], "persistentvolumeclaim": claim["claimName"], "ephemeral": "false"}
            put("spec_volumes_persistentvolumeclaims_info", **labels)
            put("spec_volumes_persistentvolumeclaims_readonly", claim.get("readOnly", False), **labels)
    containers(out, base, spec, "container", spec["containers"], status.get("containerStatuses", []))
    containers(out, base, spec, "init_container", spec.get("initContainers", []), status.get("initContainerStatuses", []))


def conditions(put, status):
    times = {"Ready": "ready_time", "ContainersReady": "container_ready_time", "Initialized": "initialized_time", "PodScheduled": "scheduled_time"}
    for each in status.get("conditions", []):
        kind, is_now = each["type"], each["status"]
        for name in {"Ready": ["ready"], "PodScheduled": ["scheduled"]}.get(kind, []):
            for condition in ("true", "false", "unknown"):
                put(f"status_{name}", condition == is_now.lower(), condition=condition)
        if kind in times and is_now == "True":
            put(f"status_{times[kind]}", seconds(each["lastTransitionTime"]))
        if kind == "PodScheduled" and is_now == "False":
            put("status_unschedulable")
            put("status_unscheduled_time", seconds(each["lastTransitionTime"]))
        if kind == "DisruptionTarget" and is_now == "True":
            put("status_disruption_reason", reason=each["reason"])


def containers(out, base, spec, group, specs, statuses):
    def put(name, value=1, kind="gauge", /, **labels):
        out.put(f"kube_pod_{group}_{name}", base | labels, value, kind)

    by_name = {each["name"]: each for each in specs}
    for each in specs:
        for which in ("requests", "limits"):
            for resource, amount in each.get("resources", {}).get(which, {}).items():
                unit = "core" if resource == "cpu" else "byte"
                put(f"resource_{which}", quantity(amount), container=each["name"], node=spec.get("nodeName", ""),
                    resource=resource.replace("-", "_"), unit=unit)
    for each in statuses:
        own, state, last = {"container": each["name"]}, each["state"], each.get("lastState", {}).get("terminated")
        own_spec = by_name.get(each["name"], {})
        more = {"restart_policy": own_spec.get("restartPolicy", "")} if group == "init_container" else {}
        put("info", **own, **more, image_spec=own_spec.get("image", ""), image=each.get("image", ""), image_id=each.get("imageID", ""),
            container_id=each.get("containerID", ""))
        for what in ("running", "waiting", "terminated"):
            put(f"status_{what}", what in state, **own)
        put("status_ready", each["ready"], **own)
        put("status_restarts_total", each["restartCount"], "counter", **own)
        begun = state.get("running", state.get("terminated", {})).get("startedAt")
        if begun:
            put("state_started", seconds(begun), **own)
        for what in ("waiting", "terminated"):
            if state.get(what, {}).get("reason"):
                put(f"status_{what}_reason", reason=state[what]["reason"], **own)
        if last:
            put("status_last_terminated_reason", reason=last["reason"], **own)
            put("status_last_terminated_exitcode", last["exitCode"], **own)
            put("status_last_terminated_timestamp", seconds(last["finishedAt"]), **own)
