{{- /* What Pod Security Standards call restricted. Takes the user's number, which owns the volumes too. */}}
{{- define "tunery.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ . }}
  runAsGroup: {{ . }}
  fsGroup: {{ . }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "tunery.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "tunery.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Replicas on different nodes, where there are several. Takes (list $ "api"). */}}
{{- define "tunery.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "tunery.selector" . | nindent 8 }}
{{- end }}

{{- /* Settings as variables. A number from a values file is a float, which Go writes as 8.5e+09. */}}
{{- define "tunery.settings" -}}
{{- range $name, $value := . }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $name }}
  value: {{ kindIs "string" $value | ternary $value ($value | toJson) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The pools as the API reads them. */}}
{{- define "tunery.pools" -}}
{{- $pools := list }}
{{- range .Values.workers.pools }}
{{- $pool := dict "name" .name "memory_bytes" (mulf .memoryGiB 1073741824 | int64) }}
{{- with .pricePerHour }}{{ $_ := set $pool "price_per_hour" . }}{{ end }}
{{- with .currency }}{{ $_ := set $pool "currency" . }}{{ end }}
{{- $pools = append $pools $pool }}
{{- end }}
{{- toJson $pools }}
{{- end }}

{{- /* Those of API and janitor. */}}
{{- define "tunery.serverEnv" -}}
{{- if .Values.trial.enabled }}
{{- include "tunery.trialSecret" (list . "TUNERY_LOGIN_PASSWORD" "TUNERY_SECRET") }}
- name: DATABASE_URL
  value: postgresql://tunery_server:$(TUNERY_LOGIN_PASSWORD)@{{ include "tunery.name" . }}-postgres:5432/tunery
{{- end }}
- name: TUNERY_STORAGE
  value: {{ .Values.storage.url | default "/var/lib/tunery/storage" }}
{{- if .Values.storage.url }}
{{- with .Values.storage.s3 }}
{{- with .endpoint }}
- name: TUNERY_S3_ENDPOINT
  value: {{ . }}
{{- end }}
{{- with .region }}
- name: TUNERY_S3_REGION
  value: {{ . }}
{{- end }}
- name: TUNERY_S3_PATH_STYLE
  value: {{ .pathStyle | quote }}
- name: TUNERY_STORAGE_CACHE_BYTES
  value: {{ mul .cacheGiB 1073741824 | quote }}
{{- end }}
{{- end }}
{{- if .Values.workers.pools }}
- name: TUNERY_POOLS
  value: {{ include "tunery.pools" . | quote }}
{{- end }}
- name: HOME
  value: /tmp
{{- include "tunery.settings" .Values.settings.server }}
{{- end }}

{{- /* With a bucket, copies of what is read there lie in /tmp, and what is being uploaded. A node without
       that room would end the pod, or others. Takes (list $ resources). */}}
{{- define "tunery.serverResources" -}}
{{- $ := index . 0 }}{{ $resources := deepCopy (index . 1) }}
{{- if $.Values.storage.url }}
{{- $room := add $.Values.storage.s3.cacheGiB 8 }}
{{- $least := dict "ephemeral-storage" (printf "%dGi" $room) }}
{{- $most := dict "ephemeral-storage" (printf "%dGi" (mul 2 $room)) }}
{{- $_ := set $resources "requests" (merge ($resources.requests | default dict) $least) }}
{{- $_ := set $resources "limits" (merge ($resources.limits | default dict) $most) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "tunery.serverEnvFrom" -}}
envFrom:
  - secretRef:
      name: {{ .Values.secrets.server }}
      {{- if .Values.trial.enabled }}
      optional: true
      {{- end }}
{{- end }}

{{- /* One node for all who mount a volume that only one node can mount. */}}
{{- define "tunery.oneNode" -}}
{{- if and (not .Values.storage.url) (eq .Values.storage.claim.accessMode "ReadWriteOnce") }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            app.kubernetes.io/instance: {{ .Release.Name }}
          matchExpressions:
            - {key: app.kubernetes.io/component, operator: In, values: [api, janitor]}
{{- end }}
{{- end }}

{{- define "tunery.storageMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if not .Values.storage.url }}
- {name: storage, mountPath: /var/lib/tunery/storage}
{{- end }}
{{- end }}

{{- define "tunery.storageVolumes" -}}
- {name: tmp, emptyDir: {}}
{{- if not .Values.storage.url }}
- name: storage
  persistentVolumeClaim:
    claimName: {{ .Values.storage.claim.name | default (printf "%s-storage" (include "tunery.name" .)) }}
{{- end }}
{{- end }}
