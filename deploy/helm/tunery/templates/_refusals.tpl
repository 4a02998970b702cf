{{- /* What no schema can say of values. */}}
{{- define "tunery.refuse" -}}
{{- if lt (int .Values.api.maxReplicas) (int .Values.api.minReplicas) }}
{{- fail (printf "api.maxReplicas is %d, less than api.minReplicas, which is %d. Raise it, or set both alike for no autoscaler." (int .Values.api.maxReplicas) (int .Values.api.minReplicas)) }}
{{- end }}
{{- with .Values.storage }}
{{- $ways := compact (list .url .claim.name .claim.size) }}
{{- if ne (len $ways) 1 }}
{{- fail (printf "storage has %d of `url`, `claim.name` and `claim.size`. Set exactly one: an object storage such as s3://bucket, a claim that exists, or the size of a new one." (len $ways)) }}
{{- end }}
{{- if and (not .url) (eq .claim.accessMode "ReadWriteOnce") }}
{{- if or (gt (int $.Values.api.maxReplicas) 1) (gt (int $.Values.janitor.replicas) 1) }}
{{- fail "storage.claim.accessMode is ReadWriteOnce: only one node can mount that volume, and API and janitor have several replicas. Use ReadWriteMany or storage.url, or set api.minReplicas, api.maxReplicas and janitor.replicas to 1." }}
{{- end }}
{{- end }}
{{- end }}
{{- $names := list }}
{{- range .Values.workers.pools }}
{{- if has .name $names }}
{{- fail (printf "workers.pools has two pools named %q. Give each a name of its own." .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- if not (or .always .onDemand) }}
{{- fail (printf "The pool %q of workers.pools has no workers: set `always`, `onDemand` or both, or remove it." .name) }}
{{- end }}
{{- end }}
{{- end }}
