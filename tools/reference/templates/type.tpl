{{- define "type" -}}
{{- if markdownShouldRenderType . }}

## {{ .Name }}

{{ .Doc | replace "\n" " " | trim }}
{{- if .SortedReferences }} In{{ range $i, $r := .SortedReferences }}{{ if $i }},{{ end }} {{ markdownRenderTypeLink $r }}{{ end }}.{{ end }}
{{- if .Members }}

| Field | Type | Meaning | Default | Rules |
| --- | --- | --- | --- | --- |
{{- if .GVK }}
| `apiVersion` | string | `{{ .GVK.Group }}/{{ .GVK.Version }}` | | |
| `kind` | string | `{{ .GVK.Kind }}` | | |
{{- end }}
{{- range .Members }}
| `{{ .Name }}` | {{ template "type_name" .Type }} | {{ template "type_members" . }} | {{ if .Default }}`{{ .Default }}`{{ end }} | {{ range $i, $v := .Validation }}{{ if $i }}; {{ end }}{{ template "type_rule" $v }}{{ end }} |
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /* A pointer to a list is a list that may be absent: its kinds are 4 and 5. */ -}}
{{- define "type_name" -}}
{{- if and (eq (int .Kind) 4) .UnderlyingType (eq (int .UnderlyingType.Kind) 5) -}}
{{ markdownRenderType .UnderlyingType }}
{{- else if eq .Name "RawExtension" -}}
object
{{- else -}}
{{ markdownRenderType . }}
{{- end -}}
{{- end -}}

{{- define "type_rule" -}}
{{ . | replace "Optional: {}" "optional" | replace "1e+06" "1000000" | replace "|" "\\|" | replace "\n" " " | trim }}
{{- end -}}
