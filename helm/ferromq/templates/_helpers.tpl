{{- define "ferromq.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* 52 characters: a StatefulSet's pods add the hash of their revision to it as a label of 63. */}}
{{- define "ferromq.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := include "ferromq.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ferromq.selector" -}}
app.kubernetes.io/name: {{ include "ferromq.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "ferromq.testSelector" -}}
app.kubernetes.io/name: {{ include "ferromq.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end }}

{{- define "ferromq.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ferromq.labels" -}}
{{ include "ferromq.selector" . }}
{{ include "ferromq.commonLabels" . }}
{{- end }}

{{- /* The annotations of an object: those of all, and its own (a dictionary: root, own). */}}
{{- define "ferromq.annotations" -}}
{{- with merge (deepCopy .own) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "ferromq.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "ferromq.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "ferromq.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* The server's settings: what the chart decides, and `config`. */}}
{{- define "ferromq.settings" -}}
{{- /* The name of the broker is the label node_id of its metrics: those of two releases are told apart by it. */}}
{{- $own := dict "brokerName" (include "ferromq.fullname" .) "storePathRootDir" "/var/lib/ferromq"
      "grpcServerPort" 8081 "adminServerPort" 8083
      "grpcShutdownTimeSeconds" .Values.drainSeconds "logFormat" "json" "tlsServerMode" .Values.tls.mode }}
{{- if .Values.metrics.enabled }}
{{- $own = merge $own (dict "metricsPromExporterHost" "::" "metricsPromExporterPort" .Values.metrics.port) }}
{{- else }}
{{- $_ := set $own "metricsExporterType" "DISABLE" }}
{{- end }}
{{- with .Values.otlp.metrics.target }}
{{- /* It opens the port of operations too: on the pod's loopback, unless metrics.enabled says otherwise. */}}
{{- $_ := set $own "metricsExporterType" "OTLP_GRPC" }}
{{- $_ := set $own "metricsGrpcExporterTarget" . }}
{{- end }}
{{- with .Values.otlp.traces }}
{{- if .target }}
{{- $_ := set $own "tracesGrpcExporterTarget" .target }}
{{- /* As text: what is a float would be cut to a whole number below. */}}
{{- $_ := set $own "tracesSampleRatio" (.sampleRatio | toString) }}
{{- end }}
{{- end }}
{{- if .Values.tls.existingSecret }}
{{- $own = merge $own (dict "tlsCertPath" "/etc/ferromq/tls/tls.crt" "tlsKeyPath" "/etc/ferromq/tls/tls.key") }}
{{- end }}
{{- if .Values.advertisedAddress }}
{{- $_ := set $own "grpcAdvertisedAddress" .Values.advertisedAddress }}
{{- end }}
{{- /* Numbers of a values file are floats, and large ones would be written 1e+06. */}}
{{- range $key, $value := merge (deepCopy .Values.config) $own }}
{{ $key }}: {{ if kindIs "float64" $value }}{{ $value | int64 }}{{ else }}{{ $value | toJson }}{{ end }}
{{- end }}
{{- end }}

{{- /* Off when a setting says so: then `helm test` needs its topic and group declared. */}}
{{- define "ferromq.autoTopics" -}}
{{- $auto := dig "autoCreateTopicEnable" true .Values.config | toString | lower }}
{{- $autoGroup := dig "autoCreateSubscriptionGroup" true .Values.config | toString | lower }}
{{- if and (eq $auto "true") (eq $autoGroup "true") }}true{{ end }}
{{- end }}

{{- define "ferromq.declared" -}}
{{- $topics := .Values.topics }}
{{- $groups := .Values.groups }}
{{- if and .Values.test.enabled (not (include "ferromq.autoTopics" .)) }}
{{- /* By their names alone: what they have become, or are declared as, is right for the test. */}}
{{- if not (contains (printf `"name":%s` (toJson .Values.test.topic)) (toJson $topics)) }}
{{- $topics = append $topics (dict "name" .Values.test.topic) }}
{{- end }}
{{- if not (contains (printf `"name":%s` (toJson .Values.test.group)) (toJson $groups)) }}
{{- $groups = append $groups (dict "name" .Values.test.group) }}
{{- end }}
{{- end }}
{{- if or $topics $groups .Values.prune.enabled }}
{{- $document := dict "topics" $topics "groups" $groups }}
{{- if .Values.prune.enabled }}
{{- $_ := set $document "owns" .Values.prune.owns }}
{{- end }}
{{- toYaml $document }}
{{- end }}
{{- end }}
