{{- define "type_members" -}}
{{- if eq .Name "metadata" -}}
name, namespace, labels and the like, as of all objects
{{- else -}}
{{ .Doc | replace "|" "\\|" | replace "\n" " " | trim }}
{{- end -}}
{{- end -}}
