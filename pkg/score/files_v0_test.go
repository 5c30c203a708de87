package score_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/score/template"
)

const aFile = `{"path":"/srv/a","content":"x"}`

func TestFilesV0(t *testing.T) {
	t.Parallel()
	needs, err := score.Validate(score.TypeFilesV0, []byte(`{"files":[`+aFile+`,
		{"path":"/srv/b","secretKeyRef":{"name":"s","key":"k"}},{"path":"/srv/c","configMapKeyRef":{"name":"c","key":"k"},"mode":420,"owner":"www-data","group":"33"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if needs.Privilege != score.Privileged || !slices.Equal(needs.Secrets, []string{"s"}) || !slices.Equal(needs.ConfigMaps, []string{"c"}) || needs.Demands[2].Field != "files[2].path" {
		t.Errorf("it needs %+v", needs)
	}
	for data, says := range map[string]string{
		`{}`: "data.files: at least one file is needed",
		`{"files":[` + aFile + `,` + aFile + `]}`:                                                       "data.files[1].path: \"/srv/a\" and \"/srv/a\" exclude each other",
		`{"files":[{"path":"srv/a","content":""}]}`:                                                     "data.files[0].path",
		`{"files":[{"path":"/srv/a/","content":""}]}`:                                                   "data.files[0].path",
		`{"files":[{"path":"/srv/../a","content":""}]}`:                                                 "data.files[0].path",
		`{"files":[{"path":"/srv/a","content":"","secretKeyRef":{"name":"s","key":"k"}}]}`:              "exactly one of content, configMapKeyRef and secretKeyRef",
		`{"files":[{"path":"/srv/a","content":"","mode":512}]}`:                                         "data.files[0].mode: 512 is not within 0 to 511",
		`{"files":[{"path":"/srv/a","content":"","owner":"a:b"}]}`:                                      "data.files[0].owner",
		`{"files":[{"path":"/srv/a","contents":""}]}`:                                                   "data.files[0].contents: unknown field",
		`{"files":[{"path":"/srv/a","secretKeyRef":{"name":"S","key":"k"}},{"path":"x","content":""}]}`: `data.files[0].secretKeyRef.name: "S" is not the name of a Secret; data.files[1].path`,
		`{"files":[{"path":"/srv/a","content":"","owner":"${device.name}"}]}`:                           "data.files[0].owner: an expression may not be here",
		`{"files":[{"path":"/srv/a","content":"${device.nothing}"}]}`:                                   "data.files[0].content",
	} {
		_, err := score.Validate(score.TypeFilesV0, []byte(data))
		if !errors.Is(err, score.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", data, err, says)
		}
	}
}

// What a device claims passes validation once more: it leads out of nothing.
func TestFilesOfADevice(t *testing.T) {
	t.Parallel()
	d, err := score.Parse(score.TypeFilesV0, []byte(`{"files":[{"path":"/srv/${device.labels.site}","content":"${device.name}"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	for site, good := range map[string]bool{"plant-1": true, "../etc/shadow": false, "": false} {
		rendered, err := d.Template().Render(func(s template.Source) (string, bool) {
			if strings.Contains(s.String(), "site") {
				return site, true
			}
			return "press-1", true
		})
		if err == nil {
			_, err = rendered.Validate()
		}
		if (err == nil) != good {
			t.Errorf("site %q: %v", site, err)
		}
	}
}

func FuzzFilesV0(f *testing.F) {
	f.Add([]byte(`{"files":[` + aFile + `]}`))
	f.Add([]byte(`{"files":[{"path":"/a","secretKeyRef":{"name":"s","key":"k"},"mode":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := score.ParseFilesV0(data)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("the error is %q", err)
			}
			return
		}
		for _, file := range s.Files {
			if !strings.HasPrefix(file.Path, "/") || strings.Contains(file.Path+"/", "/../") || file.Permissions()&^0o777 != 0 {
				t.Errorf("it takes %+v", file)
			}
		}
		if again, err := json.Marshal(s); err == nil {
			if _, err := score.ParseFilesV0(again); err != nil && len(again) <= score.MaxSize {
				t.Errorf("it does not take its own form: %v: %s", err, again)
			}
		}
	})
}
