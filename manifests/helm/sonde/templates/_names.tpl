{{- define "sonde.labels" -}}
app.kubernetes.io/part-of: sonde
{{- end }}

{{- define "sonde.agent.config" -}}
{{- $endpoint := .Values.agent.endpoint | default "http://sonde-collector-headless:4317" -}}
{{- $set := dict
  "cluster" .Values.cluster
  "host" (dict "root" "/host")
  "state_dir" "/var/lib/sonde-agent"
  "listen" "[::]:9464"
  "kubelet" (dict "url" "https://${NODE_IP}:10250")
  "export" (dict "endpoint" $endpoint) -}}
{{- toYaml (mustMergeOverwrite $set (deepCopy .Values.agent.config)) -}}
{{- end }}

{{- define "sonde.collector.config" -}}
{{- $listen := dict "otlp_grpc" "[::]:4317" "otlp_http" "[::]:4318" "http" "[::]:8080" -}}
{{- $set := dict
  "cluster" .Values.cluster
  "data_dir" "/var/lib/sonde-collector"
  "listen" $listen
  "queue" .Values.collector.queue
  "dead_letter" .Values.collector.dead_letter
  "sinks" .Values.collector.sinks -}}
{{- toYaml (mustMergeOverwrite (deepCopy $set) (deepCopy .Values.collector.config)) -}}
{{- end }}
