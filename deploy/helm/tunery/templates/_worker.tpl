{{- define "tunery.hasOnDemand" -}}
{{- range .Values.workers.pools }}{{ if .onDemand }}yes{{ end }}{{ end }}
{{- end }}

{{- /* Kueue looks for its queue on the workload, not on the pods. */}}
{{- define "tunery.poolLabels" -}}
tunery/pool: {{ .name }}
{{- with .queue }}
kueue.x-k8s.io/queue-name: {{ . }}
{{- end }}
{{- end }}

{{- /* Takes (list $ pool annotations). */}}
{{- define "tunery.workerMetadata" -}}
{{- $ := index . 0 -}}
labels:
  {{- include "tunery.labels" (list $ "worker") | nindent 2 }}
  tunery/pool: {{ (index . 1).name }}
  {{- with $.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (index . 2) $.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* A worker's pod. Takes (list $ pool onDemand). */}}
{{- define "tunery.worker" -}}
{{- $ := index . 0 }}{{ $pool := index . 1 }}{{ $onDemand := index . 2 }}
{{- $celery := and $.Values.redis.enabled (not $onDemand) }}
{{- $room := printf "%dGi" (int $pool.work.sizeGiB) }}
{{- /* The rest is for data in use, checkpoints, and bases in 4 bits. */}}
{{- $fetched := dict "TUNERY_FETCHED_BYTES" (mulf $pool.work.sizeGiB 0.7 1073741824 | int64) }}
{{- $settings := mergeOverwrite $fetched $.Values.settings.worker ($pool.settings | default dict) }}
{{- $resources := deepCopy ($pool.resources | default dict) }}
{{- $limits := $resources.limits | default dict }}
{{- with $pool.gpu }}{{ $_ := set $limits . 1 }}{{ end }}
{{- $_ := set $resources "limits" $limits }}
{{- if $onDemand }}
{{- /* Only a node with so much room on its disk will do. */}}
{{- $_ := set $resources "requests" (merge (dict "ephemeral-storage" $room) ($resources.requests | default dict)) }}
{{- end -}}
serviceAccountName: {{ include "tunery.name" $ }}-worker
{{ include "tunery.podSecurity" 10001 }}
{{- include "tunery.pullSecrets" $ }}
{{- with $pool.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $pool.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $pool.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pool.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pool.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
# SIGTERM is the drain: the worker takes no more work, finishes its micro-step, uploads a checkpoint,
# gives the job back and ends, within TUNERY_GRACE_SECONDS. So there is no preStop: it could only put
# that off, and the time that it takes counts here, too.
terminationGracePeriodSeconds: {{ add $.Values.workers.graceSeconds 30 }}
containers:
  # Without probes: nobody connects to it, and the API notices by its heartbeats if it hangs.
  - name: worker
    image: {{ $.Values.images.worker }}
    imagePullPolicy: {{ $.Values.images.pullPolicy }}
    {{- if $celery }}
    command: [celery, -q, -A, worker.app, worker, --concurrency, "1", --without-mingle, --without-gossip]
    {{- else if $onDemand }}
    command: [python, -m, worker, --poll, --idle-exit, {{ $.Values.workers.idleSeconds | quote }}]
    {{- else }}
    command: [python, -m, worker, --poll]
    {{- end }}
    {{- include "tunery.containerSecurity" $ | nindent 4 }}
    # Until this secret is there, the pod waits: its key is made after the first migration.
    envFrom:
      - secretRef: {name: {{ $.Values.secrets.worker }}}
    env:
      {{- if and $celery $.Values.trial.enabled }}
      {{- include "tunery.trialRedis" $ | nindent 6 }}
      {{- end }}
      - {name: TUNERY_API_URL, value: "http://{{ include "tunery.name" $ }}-api:{{ $.Values.service.port }}"}
      - {name: TUNERY_POOL, value: {{ $pool.name }}}
      - name: TUNERY_WORKER_NAME
        valueFrom: {fieldRef: {fieldPath: metadata.name}}
      - {name: TUNERY_WORK_DIR, value: /var/lib/tunery/work}
      - {name: TUNERY_GRACE_SECONDS, value: {{ $.Values.workers.graceSeconds | quote }}}
      - {name: HOME, value: /tmp}
      {{- include "tunery.settings" $settings | trim | nindent 6 }}
    resources:
      {{- toYaml $resources | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: work, mountPath: /var/lib/tunery/work}
      {{- if $.Values.models.claim }}
      - {name: models, mountPath: /models, readOnly: true}
      {{- end }}
volumes:
  # Libraries build code for the GPU there and load it.
  - {name: tmp, emptyDir: {}}
  {{- if $onDemand }}
  - {name: work, emptyDir: {sizeLimit: {{ $room }}}}
  {{- end }}
  {{- with $.Values.models.claim }}
  - name: models
    persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
  {{- end }}
{{- end }}
