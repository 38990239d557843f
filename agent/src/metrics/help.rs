//! The originals' help texts, so that the pages are as easy to read, and to lint, as theirs.

use sonde_daemon::page::{Kind, Rows, Sink};

/// A counter with its help.
pub(super) fn counter<'s>(out: &'s mut Sink, name: &str) -> Rows<'s> {
    family(out, Kind::Counter, name)
}

/// A gauge with its help.
pub(super) fn gauge<'s>(out: &'s mut Sink, name: &str) -> Rows<'s> {
    family(out, Kind::Gauge, name)
}

/// A family with its help.
pub(super) fn family<'s>(out: &'s mut Sink, kind: Kind, name: &str) -> Rows<'s> {
    let known = TEXTS.binary_search_by_key(&name, |(known, _)| known).ok();
    let exact = known.and_then(|at| TEXTS.get(at)).map(|(_, text)| *text);
    let text =
        exact.or_else(|| GROUPS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, text)| *text));
    out.family(kind, name, text.unwrap_or("A metric from a text file."))
}

/// Families whose names are made of the kernel's own.
const GROUPS: [(&str, &str); 8] = [
    ("node_memory_", "Memory information field of /proc/meminfo."),
    ("node_network_receive_", "Network device statistic of the receive side."),
    ("node_network_transmit_", "Network device statistic of the transmit side."),
    ("node_vmstat_", "/proc/vmstat information field."),
    ("node_netstat_", "Statistic of /proc/net/netstat, snmp or snmp6."),
    ("node_sockstat_", "Number of sockets or their memory, by state."),
    ("node_pressure_", "Total time in seconds that processes have waited for the resource."),
    ("node_disk_", "Field of /proc/diskstats, in the base unit of its name."),
];

/// Sorted by name.
#[rustfmt::skip]
const TEXTS: &[(&str, &str)] = &[
    ("container_cpu_cfs_burst_periods_total", "Number of periods when burst occurs."),
    ("container_cpu_cfs_burst_seconds_total", "Total time duration the container has been bursted."),
    ("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals."),
    ("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals."),
    ("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled."),
    ("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds."),
    ("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds."),
    ("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds."),
    ("container_fs_reads_bytes_total", "Cumulative count of bytes read"),
    ("container_fs_reads_total", "Cumulative count of reads completed"),
    ("container_fs_writes_bytes_total", "Cumulative count of bytes written"),
    ("container_fs_writes_total", "Cumulative count of writes completed"),
    ("container_last_seen", "Last time a container was seen by the exporter"),
    ("container_memory_cache", "Number of bytes of page cache memory."),
    ("container_memory_failcnt", "Number of memory usage hits limits"),
    ("container_memory_failures_total", "Cumulative count of memory allocation failures."),
    ("container_memory_kernel_usage", "Size of kernel memory allocated in bytes."),
    ("container_memory_mapped_file", "Size of memory mapped files in bytes."),
    ("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes"),
    ("container_memory_rss", "Size of RSS in bytes."),
    ("container_memory_swap", "Container swap usage in bytes."),
    ("container_memory_total_active_file_bytes", "Current total active file in bytes."),
    ("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes."),
    ("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed"),
    ("container_memory_working_set_bytes", "Current working set in bytes."),
    ("container_network_receive_bytes_total", "Cumulative count of bytes received"),
    ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving"),
    ("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving"),
    ("container_network_receive_packets_total", "Cumulative count of packets received"),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted"),
    ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting"),
    ("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting"),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted"),
    ("container_oom_events_total", "Count of out of memory events observed for the container"),
    ("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion."),
    ("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion."),
    ("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion."),
    ("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion."),
    ("container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion."),
    ("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion."),
    ("container_processes", "Number of processes running inside the container."),
    ("container_spec_cpu_period", "CPU period of the container."),
    ("container_spec_cpu_quota", "CPU quota of the container."),
    ("container_spec_cpu_shares", "CPU share of the container."),
    ("container_spec_memory_limit_bytes", "Memory limit for the container."),
    ("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container."),
    ("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container."),
    ("container_start_time_seconds", "Start time of the container since unix epoch in seconds."),
    ("container_threads", "Number of threads running inside the container"),
    ("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero"),
    ("kube_pod_completion_time", "Completion time in unix timestamp for a pod."),
    ("kube_pod_container_info", "Information about a container in a pod."),
    ("kube_pod_container_resource_limits", "The number of requested limit resources by a container."),
    ("kube_pod_container_resource_requests", "The number of requested resources by a container."),
    ("kube_pod_container_state_started", "Start time in unix timestamp for a container."),
    ("kube_pod_container_status_last_terminated_exitcode", "Describes the exit code for the last termination of a container."),
    ("kube_pod_container_status_last_terminated_reason", "Describes the last reason a container was in terminated state."),
    ("kube_pod_container_status_last_terminated_timestamp", "Last terminated time for a container in unix timestamp."),
    ("kube_pod_container_status_ready", "Describes whether the readiness check of a container succeeded."),
    ("kube_pod_container_status_restarts_total", "The number of restarts of a container."),
    ("kube_pod_container_status_running", "Describes whether a container is currently in running state."),
    ("kube_pod_container_status_terminated", "Describes whether a container is currently in terminated state."),
    ("kube_pod_container_status_terminated_reason", "Describes the reason a container is currently in terminated state."),
    ("kube_pod_container_status_waiting", "Describes whether a container is currently in waiting state."),
    ("kube_pod_container_status_waiting_reason", "Describes the reason a container is currently in waiting state."),
    ("kube_pod_created", "Unix creation timestamp."),
    ("kube_pod_deletion_timestamp", "Unix deletion timestamp."),
    ("kube_pod_info", "Information about pod."),
    ("kube_pod_init_container_info", "Information about an init container in a pod."),
    ("kube_pod_init_container_resource_limits", "The number of requested limit resources by an init container."),
    ("kube_pod_init_container_resource_requests", "The number of requested resources by an init container."),
    ("kube_pod_init_container_state_started", "Start time in unix timestamp for an init container."),
    ("kube_pod_init_container_status_last_terminated_exitcode", "Describes the exit code for the last termination of an init container."),
    ("kube_pod_init_container_status_last_terminated_reason", "Describes the last reason an init container was in terminated state."),
    ("kube_pod_init_container_status_last_terminated_timestamp", "Last terminated time for an init container in unix timestamp."),
    ("kube_pod_init_container_status_ready", "Describes whether the readiness check of an init container succeeded."),
    ("kube_pod_init_container_status_restarts_total", "The number of restarts of an init container."),
    ("kube_pod_init_container_status_running", "Describes whether an init container is currently in running state."),
    ("kube_pod_init_container_status_terminated", "Describes whether an init container is currently in terminated state."),
    ("kube_pod_init_container_status_terminated_reason", "Describes the reason an init container is currently in terminated state."),
    ("kube_pod_init_container_status_waiting", "Describes whether an init container is currently in waiting state."),
    ("kube_pod_init_container_status_waiting_reason", "Describes the reason an init container is currently in waiting state."),
    ("kube_pod_ips", "Pod IP addresses."),
    ("kube_pod_overhead_cpu_cores", "The pod overhead in regards to cpu cores associated with running a pod."),
    ("kube_pod_overhead_memory_bytes", "The pod overhead in regards to memory associated with running a pod."),
    ("kube_pod_owner", "Information about the Pod's owner."),
    ("kube_pod_restart_policy", "Describes the restart policy in use by this pod."),
    ("kube_pod_runtimeclass_name_info", "The runtimeclass associated with the pod."),
    ("kube_pod_scheduler", "The scheduler for a pod."),
    ("kube_pod_service_account", "The service account for a pod."),
    ("kube_pod_spec_volumes_persistentvolumeclaims_info", "Information about persistentvolumeclaim volumes in a pod."),
    ("kube_pod_spec_volumes_persistentvolumeclaims_readonly", "Describes whether a persistentvolumeclaim is mounted read only."),
    ("kube_pod_start_time", "Start time in unix timestamp for a pod."),
    ("kube_pod_status_container_ready_time", "Readiness achieved time in unix timestamp for the containers of a pod."),
    ("kube_pod_status_disruption_reason", "The pod status disruption reasons."),
    ("kube_pod_status_initialized_time", "Initialized time in unix timestamp for a pod."),
    ("kube_pod_status_phase", "The pods current phase."),
    ("kube_pod_status_qos_class", "The pods current qosClass."),
    ("kube_pod_status_ready", "Describes whether the pod is ready to serve requests."),
    ("kube_pod_status_ready_time", "Readiness achieved time in unix timestamp for a pod."),
    ("kube_pod_status_reason", "The pod status reasons."),
    ("kube_pod_status_scheduled", "Describes the status of the scheduling process for the pod."),
    ("kube_pod_status_scheduled_time", "Unix timestamp when pod moved into scheduled status."),
    ("kube_pod_status_unschedulable", "Describes the unschedulable status for the pod."),
    ("kube_pod_status_unscheduled_time", "Unix timestamp when pod moved into unscheduled status."),
    ("kube_pod_tolerations", "Information about the pod tolerations."),
    ("kubelet_running_containers", "Number of containers currently running"),
    ("kubelet_running_pods", "Number of pods that have a running pod sandbox"),
    ("machine_cpu_cores", "Number of logical CPU cores."),
    ("machine_cpu_physical_cores", "Number of physical CPU cores."),
    ("machine_cpu_sockets", "Number of CPU sockets."),
    ("machine_memory_bytes", "Amount of memory installed on the machine."),
    ("machine_swap_bytes", "Amount of swap memory available on the machine."),
    ("node_bonding_active", "Number of active slaves per bonding interface."),
    ("node_bonding_slaves", "Number of configured slaves per bonding interface."),
    ("node_boot_time_seconds", "Node boot time, in unixtime."),
    ("node_context_switches_total", "Total number of context switches."),
    ("node_cpu_guest_seconds_total", "Seconds the CPUs spent in guests (VMs) for each mode."),
    ("node_cpu_seconds_total", "Seconds the CPUs spent in each mode."),
    ("node_disk_io_now", "The number of I/Os currently in progress."),
    ("node_entropy_available_bits", "Bits of available entropy."),
    ("node_entropy_pool_size_bits", "Bits of entropy pool."),
    ("node_exporter_build_info", "A metric with a constant 1 value, labeled by what this was built from."),
    ("node_filefd_allocated", "File descriptor statistics: allocated."),
    ("node_filefd_maximum", "File descriptor statistics: maximum."),
    ("node_filesystem_avail_bytes", "Filesystem space available to non-root users in bytes."),
    ("node_filesystem_device_error", "Whether an error occurred while getting statistics for the given device."),
    ("node_filesystem_files", "Filesystem total file nodes."),
    ("node_filesystem_files_free", "Filesystem total free file nodes."),
    ("node_filesystem_free_bytes", "Filesystem free space in bytes."),
    ("node_filesystem_mount_info", "Filesystem mount information."),
    ("node_filesystem_readonly", "Filesystem read-only status."),
    ("node_filesystem_size_bytes", "Filesystem size in bytes."),
    ("node_forks_total", "Total number of forks."),
    ("node_intr_total", "Total number of interrupts serviced."),
    ("node_load1", "1m load average."),
    ("node_load15", "15m load average."),
    ("node_load5", "5m load average."),
    ("node_md_disks", "Number of active/failed/spare disks of device."),
    ("node_md_disks_required", "Total number of disks of device."),
    ("node_network_iface_id", "Network device property: iface_id."),
    ("node_network_mtu_bytes", "Network device property: mtu_bytes."),
    ("node_network_transmit_queue_length", "Network device property: transmit_queue_length."),
    ("node_network_up", "Value is 1 if operstate is 'up', 0 otherwise."),
    ("node_nf_conntrack_entries", "Number of currently allocated flow entries for connection tracking."),
    ("node_nf_conntrack_entries_limit", "Maximum size of connection tracking table."),
    ("node_procs_blocked", "Number of processes blocked waiting for I/O to complete."),
    ("node_procs_running", "Number of processes in runnable state."),
    ("node_textfile_mtime_seconds", "Unixtime mtime of textfiles successfully read."),
    ("node_textfile_scrape_error", "1 if there was an error opening or reading a file, 0 otherwise."),
    ("node_time_seconds", "System time in seconds since epoch (1970)."),
    ("node_timex_estimated_error_seconds", "Estimated error in seconds."),
    ("node_timex_frequency_adjustment_ratio", "Local clock frequency adjustment."),
    ("node_timex_maxerror_seconds", "Maximum error in seconds."),
    ("node_timex_offset_seconds", "Time offset in between local system and reference clock."),
    ("node_timex_status", "Value of the status array bits."),
    ("node_timex_sync_status", "Is clock synchronized to a reliable server (1 = yes, 0 = no)."),
    ("node_timex_tai_offset_seconds", "International Atomic Time (TAI) offset."),
    ("node_uname_info", "Labeled system information as provided by the uname system call."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(TEXTS.is_sorted_by_key(|(name, _)| name));
    }
}
