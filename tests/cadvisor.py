"""cAdvisor's rows of a simulated node, made of its cgroups and processes as cAdvisor makes them: the names that the standard rules ask
for. Shares no code with the agent.
"""

import pathlib
import re

def numbers(path):
    """`key value` lines, or one number under the empty key."""
    out = {}
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.rpartition(" ")
            if value.isdigit():
                out[key] = int(value)
    except OSError:
        pass
    return out


def names(pods):
    """Pods by uid, and containers by their ids at the runtime."""
    by_uid, by_id = {}, {}
    for pod in pods:
        by_uid[pod["metadata"]["uid"]] = pod
        for group in ("containerStatuses", "initContainerStatuses"):
            for status in pod["status"].get(group, []):
                by_id[status.get("containerID", "").rpartition("/")[2]] = status
    return by_uid, by_id


def page(root, pods):
    root, (by_uid, by_id), lines = pathlib.Path(root), names(pods), []
    groups = root / "sys/fs/cgroup"
    for directory in sorted(each.parent for each in groups.rglob("cpu.stat")):
        found = re.search(r"pod([0-9a-f_-]{32,36})\.slice(?:/cri-containerd-([0-9a-f]{64})\.scope)?$", str(directory))
        labels = {"id": "/" + str(directory.relative_to(groups)).lstrip("."), "container": "", "image": "", "name": "", "namespace": "", "pod": ""}
        if found:
            pod = by_uid.get(found[1].replace("_", "-"))
            if pod is None:
                continue
            labels |= {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}
            if found[2]:
                status = by_id.get(found[2])
                labels |= {"name": found[2], "container": status["name"] if status else "", "image": status["image"] if status else "pause"}
                if status is None and not pod["spec"].get("hostNetwork"):
                    lines += network(root, directory, labels)
        lines += rows(directory, labels)
    return "\n".join(lines) + "\n"


def put(name, labels, value):
    return "%s{%s} %s" % (name, ",".join(f'{key}="{text}"' for key, text in labels.items()), value)


def rows(directory, labels):
    cpu, memory, out = numbers(directory / "cpu.stat"), numbers(directory / "memory.stat"), []
    if cpu.get("usage_usec"):
        out.append(put("container_cpu_usage_seconds_total", labels | {"cpu": "total"}, cpu["usage_usec"] / 1e6))
    limit = directory / "cpu.max"
    if limit.exists() and not limit.read_text().startswith("max"):
        out.append(put("container_cpu_cfs_periods_total", labels, cpu.get("nr_periods", 0)))
        out.append(put("container_cpu_cfs_throttled_periods_total", labels, cpu.get("nr_throttled", 0)))
    usage = numbers(directory / "memory.current").get("", memory.get("anon", 0) + memory.get("file", 0))
    out.append(put("container_memory_working_set_bytes", labels, max(usage - memory.get("inactive_file", 0), 0)))
    out.append(put("container_memory_rss", labels, memory.get("anon", 0)))
    out.append(put("container_memory_cache", labels, memory.get("file", 0)))
    out.append(put("container_memory_swap", labels, numbers(directory / "memory.swap.current").get("", 0)))
    io = directory / "io.stat"
    for line in io.read_text().splitlines() if io.exists() else ():
        counts = dict(re.findall(r"(\w+)=(\d+)", line))
        for key, name in (("rbytes", "container_fs_reads_bytes_total"), ("wbytes", "container_fs_writes_bytes_total")):
            if key in counts:
                out.append(put(name, labels | {"device": "/dev/vda"}, counts[key]))
    return out


def network(root, directory, labels):
    """Of a pod's sandbox, from its process."""
    process, out = (directory / "cgroup.procs").read_text().split()[:1], []
    for line in (root / "proc" / process[0] / "net/dev").read_text().splitlines() if process else ():
        name, _, counts = line.partition(":")
        name, counts = name.strip(), counts.split()
        if len(counts) < 16 or re.match("lo|veth|docker|nerdctl", name):
            continue
        for direction, at in (("receive", 0), ("transmit", 8)):
            for what, value in zip(("bytes", "packets", "errors", "packets_dropped"), counts[at:]):
                out.append(put(f"container_network_{direction}_{what}_total", labels | {"interface": name}, value))
    return out
