package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	for field, says := range map[string][]string{
		"PodmanV0":                            {"FIELD: PodmanV0 <Object>", "services <[]Object> -required-", "minReadySeconds <integer>"},
		"PodmanV0.services.ports":             {"FIELD: PodmanV0.services.ports <[]Object>", "DESCRIPTION:\n    ports publishes", "at most 256 items", "hostPort <integer> -required-", "hostIP <string>\n"},
		"PodmanV0.services[0].ports.hostPort": {"<integer>", "1 to 65535"},
		"PodmanV0.services.restart":           {"one of: OnFailure"},
		"FilesV0.files.path":                  {"FIELD: FilesV0.files.path <string>", "below one of fileRoots"},
		"PodmanV0.services.args":              {"FIELD: PodmanV0.services.args <[]string>"},
	} {
		var out, errOut bytes.Buffer
		if err := run(t.Context(), []string{"explain", field}, &out, &errOut); err != nil {
			t.Errorf("%s: %v", field, err)
		}
		for _, part := range says {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s: %q is missing in\n%s", field, part, out.String())
			}
		}
	}
	for field, says := range map[string]string{
		"PodmanV9":                 "this server knows FilesV0, PodmanV0",
		"PodmanV0.services.prots":  `services has no field "prots": it has `,
		"PodmanV0.services.name.x": `services.name has no field "x": it has none`,
	} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"explain", field}, &out, &out); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", field, err, says)
		}
	}
}

func TestExplainPrintsTheSchema(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"explain", "PodmanV0", "--schema"}, &out, &out); err != nil || !strings.Contains(out.String(), `"$schema": "https://json-schema.org/draft/2020-12/schema"`) {
		t.Errorf("%v: %.200s", err, out.String())
	}
}
