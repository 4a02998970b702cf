{{- /* Variables from the generated secret. Takes (list $ "NAME" ...). */}}
{{- define "tunery.trialSecret" -}}
{{- $ := index . 0 }}
{{- range rest . }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ include "tunery.name" $ }}-trial, key: {{ . }}}}
{{- end }}
{{- end }}

{{- define "tunery.trialRedis" -}}
{{- include "tunery.trialSecret" (list . "REDIS_PASSWORD") | trim }}
- name: REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "tunery.name" . }}-redis:6379/0
{{- end }}
