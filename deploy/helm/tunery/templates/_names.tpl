{{- define "tunery.name" -}}
{{- /* With a pool's name and what stands beside it, it must stay within 52 characters: a StatefulSet's. */}}
{{- if contains "tunery" .Release.Name }}{{ .Release.Name | trunc 21 | trimSuffix "-" }}{{ else }}{{ printf "%s-tunery" (.Release.Name | trunc 14 | trimSuffix "-") }}{{ end -}}
{{- end }}

{{- /* What a selector needs; never changes. Takes (list $ "api"). */}}
{{- define "tunery.selector" -}}
app.kubernetes.io/name: tunery
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "tunery.labels" -}}
{{- $ := index . 0 -}}
{{ include "tunery.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version }}
{{- end }}

{{- define "tunery.podMetadata" -}}
{{- $ := index . 0 -}}
labels:
  {{- include "tunery.labels" . | nindent 2 }}
  {{- with $.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
