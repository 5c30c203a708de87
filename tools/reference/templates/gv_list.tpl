{{- define "gvList" -}}
# API

<!-- Made of pkg/apis by make generate. -->

Every field of the kinds, as `kubectl explain` shows them. What each kind is for, with examples and conditions:
[Deployment](deployment.md), [Device](device.md), [EnrollmentToken](enrollmenttoken.md), [EnrollmentRequest](enrollmentrequest.md).
{{ range . }}{{ template "gvDetails" . }}{{ end }}
{{- end -}}
