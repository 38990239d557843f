"""The recording rules and alerts of kubernetes-mixin, node-mixin and kube-prometheus that ask for an agent's metrics, as expressions
written by us for jobs `node-exporter`, `cadvisor` and `kube-state-metrics`. Of an alert: the number that it holds against a
threshold, and the threshold, so that there is something to compare where it does not fire.
"""

CADVISOR, STATE, NODE = 'job="cadvisor"', 'job="kube-state-metrics"', 'job="node-exporter"'
POD_NODE = 'group_left (node) topk by (cluster, namespace, pod) (1, max by (cluster, namespace, pod, node) (kube_pod_info{node!=""}))'
ACTIVE = 'max by (cluster, namespace, pod) (kube_pod_status_phase{phase=~"Pending|Running"} == 1)'
FILESYSTEM = f'{NODE}, fstype!="", mountpoint!=""'


def of_containers(name):
    return f'{name}{{{CADVISOR}, image!=""}} * on (cluster, namespace, pod) {POD_NODE}'


def used_cpu(function):
    rates = f'sum by (cluster, namespace, pod, container) ({function}(container_cpu_usage_seconds_total{{{CADVISOR}, image!=""}}[5m]))'
    return f"{rates} * on (cluster, namespace, pod) {POD_NODE}"


def active(which, resource):
    return f'kube_pod_container_resource_{which}{{resource="{resource}", {STATE}}} * on (namespace, pod, cluster) group_left () {ACTIVE}'


def by_namespace(which, resource):
    amounts = f'max by (namespace, pod, container, cluster) (kube_pod_container_resource_{which}{{resource="{resource}", {STATE}}})'
    return f"sum by (namespace, cluster) (sum by (namespace, pod, cluster) ({amounts} * on (namespace, pod, cluster) group_left () {ACTIVE}))"


def workload(kind, label="owner_name"):
    return f'max by (cluster, namespace, workload, pod) (label_replace(kube_pod_owner{{{STATE}, owner_kind="{kind}"}}, "workload", "$1", "{label}", "(.*)"))'


def node_rate(name, matchers="", aggregate="without (device)"):
    return f"sum {aggregate} (rate({name}{{{NODE}{matchers}}}[5m]))"


RECORDS = {
    # kubernetes-mixin
    "node_namespace_pod_container:container_cpu_usage_seconds_total:sum_rate5m": used_cpu("rate"),
    "node_namespace_pod_container:container_cpu_usage_seconds_total:sum_irate": used_cpu("irate"),
    "node_namespace_pod_container:container_memory_working_set_bytes": of_containers("container_memory_working_set_bytes"),
    "node_namespace_pod_container:container_memory_rss": of_containers("container_memory_rss"),
    "node_namespace_pod_container:container_memory_cache": of_containers("container_memory_cache"),
    "node_namespace_pod_container:container_memory_swap": of_containers("container_memory_swap"),
    "cluster:namespace:pod_memory:active:kube_pod_container_resource_requests": active("requests", "memory"),
    "cluster:namespace:pod_cpu:active:kube_pod_container_resource_requests": active("requests", "cpu"),
    "cluster:namespace:pod_memory:active:kube_pod_container_resource_limits": active("limits", "memory"),
    "cluster:namespace:pod_cpu:active:kube_pod_container_resource_limits": active("limits", "cpu"),
    "namespace_memory:kube_pod_container_resource_requests:sum": by_namespace("requests", "memory"),
    "namespace_cpu:kube_pod_container_resource_requests:sum": by_namespace("requests", "cpu"),
    "namespace_memory:kube_pod_container_resource_limits:sum": by_namespace("limits", "memory"),
    "namespace_cpu:kube_pod_container_resource_limits:sum": by_namespace("limits", "cpu"),
    "namespace_workload_pod:kube_pod_owner:relabel (DaemonSet)": workload("DaemonSet"),
    "namespace_workload_pod:kube_pod_owner:relabel (StatefulSet)": workload("StatefulSet"),
    "namespace_workload_pod:kube_pod_owner:relabel (ReplicaSet, before its Deployment)": workload("ReplicaSet"),
    "namespace_workload_pod:kube_pod_owner:relabel (Job)": workload("Job"),
    "namespace_workload_pod:kube_pod_owner:relabel (static)": workload("Node", "pod"),
    "namespace_workload_pod:kube_pod_owner:relabel (bare)": workload("", "pod"),
    "node_namespace_pod:kube_pod_info:": f'topk by (cluster, namespace, pod) (1, max by (cluster, node, namespace, pod) (kube_pod_info{{{STATE}, node!=""}}))',
    "node:node_num_cpu:sum": f'count by (cluster, node) (node_cpu_seconds_total{{mode="idle", {NODE}}} * on (cluster, namespace, pod) '
                             "group_left (node) topk by (cluster, namespace, pod) (1, node_namespace_pod:kube_pod_info:))",
    ":node_memory_MemAvailable_bytes:sum": f"sum by (cluster) (node_memory_MemAvailable_bytes{{{NODE}}} or (node_memory_Buffers_bytes{{{NODE}}} "
                                           f"+ node_memory_Cached_bytes{{{NODE}}} + node_memory_MemFree_bytes{{{NODE}}} + node_memory_Slab_bytes{{{NODE}}}))",
    "node:node_cpu_utilization:ratio_rate5m":
        f'avg by (cluster, node) (sum without (mode) (rate(node_cpu_seconds_total{{mode!="idle", mode!="iowait", mode!="steal", {NODE}}}[5m])))',
    # dashboards of kubernetes-mixin: network and disk of pods, without those on the host's network
    "receive bandwidth by pod": f'sum by (cluster, namespace, pod) (rate(container_network_receive_bytes_total{{{CADVISOR}, namespace!=""}}[5m])) '
                                '* on (cluster, namespace, pod) group_left () topk by (cluster, namespace, pod) (1, max by (cluster, namespace, pod) (kube_pod_info{host_network="false"}))',
    "transmit bandwidth by namespace": f'sum by (cluster, namespace) (rate(container_network_transmit_bytes_total{{{CADVISOR}, namespace!=""}}[5m]) '
                                       '* on (cluster, namespace, pod) group_left () topk by (cluster, namespace, pod) (1, max by (cluster, namespace, pod) (kube_pod_info{host_network="false"})))',
    "dropped by pod": f'sum by (cluster, namespace, pod) (rate(container_network_receive_packets_dropped_total{{{CADVISOR}, namespace!=""}}[5m])) '
                      '* on (cluster, namespace, pod) group_left () topk by (cluster, namespace, pod) (1, max by (cluster, namespace, pod) (kube_pod_info{host_network="false"}))',
    "throughput of disks by container": f'sum by (cluster, namespace, pod, container) (rate(container_fs_reads_bytes_total{{{CADVISOR}, device=~"(/dev/)?(.+)", container!=""}}[5m]) '
                                        f'+ rate(container_fs_writes_bytes_total{{{CADVISOR}, device=~"(/dev/)?(.+)", container!=""}}[5m]))',
    # node-mixin
    "instance:node_num_cpu:sum": f'count without (cpu, mode) (node_cpu_seconds_total{{{NODE}, mode="idle"}})',
    "instance:node_cpu_utilisation:rate5m": f'1 - avg without (cpu) (sum without (mode) (rate(node_cpu_seconds_total{{{NODE}, mode=~"idle|iowait|steal"}}[5m])))',
    "instance:node_load1_per_cpu:ratio": f"node_load1{{{NODE}}} / instance:node_num_cpu:sum{{{NODE}}}",
    "instance:node_memory_utilisation:ratio": f"1 - ((node_memory_MemAvailable_bytes{{{NODE}}} or (node_memory_Buffers_bytes{{{NODE}}} + node_memory_Cached_bytes{{{NODE}}} "
                                              f"+ node_memory_MemFree_bytes{{{NODE}}} + node_memory_Slab_bytes{{{NODE}}})) / node_memory_MemTotal_bytes{{{NODE}}})",
    "instance:node_vmstat_pgmajfault:rate5m": f"rate(node_vmstat_pgmajfault{{{NODE}}}[5m])",
    "instance_device:node_disk_io_time_seconds:rate5m": f'rate(node_disk_io_time_seconds_total{{{NODE}, device!=""}}[5m])',
    "instance_device:node_disk_io_time_weighted_seconds:rate5m": f'rate(node_disk_io_time_weighted_seconds_total{{{NODE}, device!=""}}[5m])',
    "instance:node_network_receive_bytes_excluding_lo:rate5m": node_rate("node_network_receive_bytes_total", ', device!="lo"'),
    "instance:node_network_transmit_bytes_excluding_lo:rate5m": node_rate("node_network_transmit_bytes_total", ', device!="lo"'),
    "instance:node_network_receive_drop_excluding_lo:rate5m": node_rate("node_network_receive_drop_total", ', device!="lo"'),
    "instance:node_network_transmit_drop_excluding_lo:rate5m": node_rate("node_network_transmit_drop_total", ', device!="lo"'),
    # kube-prometheus
    "instance:node_cpu:rate:sum": f'sum by (cluster, instance) (rate(node_cpu_seconds_total{{{NODE}, mode!="idle", mode!="iowait", mode!="steal"}}[5m]))',
    "cluster:node_cpu:sum_rate5m": f'sum by (cluster) (rate(node_cpu_seconds_total{{{NODE}, mode!="idle", mode!="iowait", mode!="steal"}}[5m]))',
}

# Name: what is held against the threshold, and the threshold.
ALERTS = {
    # kubernetes-mixin
    "CPUThrottlingHigh": (f'sum without (id, metrics_path, name, image, endpoint, job, node) (topk by (cluster, namespace, pod, container, instance) (1, increase(container_cpu_cfs_throttled_periods_total{{{CADVISOR}, container!=""}}[5m]))) '
                          f'/ on (cluster, namespace, pod, container, instance) group_left () sum without (id, metrics_path, name, image, endpoint, job, node) (topk by (cluster, namespace, pod, container, instance) (1, increase(container_cpu_cfs_periods_total{{{CADVISOR}}}[5m])))',
                          "> 0.25"),
    "KubePodCrashLooping": (f'max_over_time(kube_pod_container_status_waiting_reason{{reason="CrashLoopBackOff", {STATE}}}[1m])', ">= 1"),
    "KubePodNotReady": ('sum by (cluster, namespace, pod) (max by (cluster, namespace, pod) (kube_pod_status_phase{' + STATE + ', phase=~"Pending|Unknown|Failed"}) '
                        '* on (cluster, namespace, pod) group_left (owner_kind) topk by (cluster, namespace, pod) (1, max by (cluster, namespace, pod, owner_kind) (kube_pod_owner{owner_kind!="Job"})))', "> 0"),
    "KubeContainerWaiting": (f'kube_pod_container_status_waiting_reason{{reason!="CrashLoopBackOff", {STATE}}}', "> 0"),
    # node-mixin
    "NodeFilesystemAlmostOutOfSpace": (f"node_filesystem_avail_bytes{{{FILESYSTEM}}} / node_filesystem_size_bytes{{{FILESYSTEM}}} * 100", "< 3"),
    "NodeFilesystemSpaceFillingUp": (f"predict_linear(node_filesystem_avail_bytes{{{FILESYSTEM}}}[6h], 24*60*60)", "< 0"),
    "NodeFilesystemAlmostOutOfFiles": (f"node_filesystem_files_free{{{FILESYSTEM}}} / node_filesystem_files{{{FILESYSTEM}}} * 100", "< 3"),
    "NodeFilesystemFilesFillingUp": (f"predict_linear(node_filesystem_files_free{{{FILESYSTEM}}}[6h], 24*60*60)", "< 0"),
    "NodeFilesystem… (not read-only)": (f"node_filesystem_readonly{{{FILESYSTEM}}}", "== 1"),
    "NodeNetworkReceiveErrs": (f"rate(node_network_receive_errs_total{{{NODE}}}[2m]) / rate(node_network_receive_packets_total{{{NODE}}}[2m])", "> 0.01"),
    "NodeNetworkTransmitErrs": (f"rate(node_network_transmit_errs_total{{{NODE}}}[2m]) / rate(node_network_transmit_packets_total{{{NODE}}}[2m])", "> 0.01"),
    "NodeHighNumberConntrackEntriesUsed": (f"node_nf_conntrack_entries{{{NODE}}} / node_nf_conntrack_entries_limit", "> 0.75"),
    "NodeTextFileCollectorScrapeError": (f"node_textfile_scrape_error{{{NODE}}}", "== 1"),
    "NodeClockSkewDetected": (f"node_timex_offset_seconds{{{NODE}}}", "> 0.05"),
    "NodeClockNotSynchronising": (f"min_over_time(node_timex_sync_status{{{NODE}}}[5m])", "== 0"),
    "NodeClockNotSynchronising (error)": (f"node_timex_maxerror_seconds{{{NODE}}}", ">= 16"),
    "NodeFileDescriptorLimit": (f"node_filefd_allocated{{{NODE}}} * 100 / node_filefd_maximum{{{NODE}}}", "> 70"),
    "NodeCPUHighUsage": (f'sum without (mode) (avg without (cpu) (rate(node_cpu_seconds_total{{{NODE}, mode!~"idle|iowait"}}[2m]))) * 100', "> 90"),
    "NodeSystemSaturation": (f'node_load1{{{NODE}}} / count without (cpu, mode) (node_cpu_seconds_total{{{NODE}, mode="idle"}})', "> 2"),
    "NodeMemoryMajorPagesFaults": (f"rate(node_vmstat_pgmajfault{{{NODE}}}[5m])", "> 500"),
    "NodeMemoryHighUtilization": (f"100 - (node_memory_MemAvailable_bytes{{{NODE}}} / node_memory_MemTotal_bytes{{{NODE}}} * 100)", "> 90"),
    "NodeDiskIOSaturation": (f'rate(node_disk_io_time_weighted_seconds_total{{{NODE}, device!=""}}[5m])', "> 10"),
    "NodeNetworkInterfaceFlapping": (f'changes(node_network_up{{{NODE}, device!~"veth.+"}}[2m])', "> 2"),
}
