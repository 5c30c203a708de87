package score_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/score"
)

// A document is read up to its bounds and not beyond.
func TestBoundsOfADocument(t *testing.T) {
	t.Parallel()
	blank := func(size int) []byte { return []byte("{" + strings.Repeat(" ", size-2) + "}") }
	nested := func(opening, closing string, levels int) []byte {
		return []byte(strings.Repeat(opening, levels) + "1" + strings.Repeat(closing, levels))
	}
	const longest, deepest = 2 * score.MaxSize, 64
	for name, tt := range map[string]struct {
		data []byte
		good bool
	}{
		"the longest":         {blank(longest), true},
		"longer":              {blank(longest + 1), false},
		"the deepest objects": {nested(`{"a":`, "}", deepest), true},
		"deeper objects":      {nested(`{"a":`, "}", deepest+1), false},
		"the deepest lists":   {nested("[", "]", deepest), true},
		"deeper lists":        {nested("[", "]", deepest+1), false},
	} {
		if _, err := score.Canonical("X", tt.data); tt.good != (err == nil) || err != nil && !errors.Is(err, score.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A name from outside is shown as it is only if it looks like the name of a field.
func TestNamesInErrors(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 64)
	for name, shown := range map[string]string{
		"imgae":    "data.imgae: ",
		"~":        "data.~: ",
		"!":        "data.!: ",
		long:       "data." + long + ": ",
		long + "n": `data."` + long + `": `,
		"a b":      `data."a b": `,
		"a.b":      `data."a.b": `,
		"\u007f":   `data."\x7f": `,
		"":         `data."": `,
	} {
		_, err := score.Validate(score.TypePodmanV0, []byte(`{"`+name+`": 1}`))
		if err == nil || !strings.HasPrefix(err.Error(), shown) {
			t.Errorf("%q: %v, want %s", name, err, shown)
		}
	}
}

// Each field takes what is exactly as long, as large or as many as it may be.
func TestBoundsOfFields(t *testing.T) {
	t.Parallel()
	n := func(length int) string { return strings.Repeat("n", length) }
	items := func(count int, item string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(item+",", count), ",") + "]"
	}
	image := func(length int) string { return "localhost/" + n(length-len("localhost/")) }
	secret := func(length int) string { return `{"secretName": "` + n(length) + `", "mountPath": "/s"}` }
	for _, tt := range []struct {
		name         string
		service      func(size int) string // what a service has beside name and image
		within, over int
	}{
		{"image", func(size int) string { return `"image": "` + image(size) + `"` }, 512, 513},
		{"name of a variable", func(size int) string { return `"env": [{"name": "` + n(size) + `"}]` }, 256, 257},
		{"volume", func(size int) string { return `"volumes": [{"name": "` + n(size) + `", "mountPath": "/s"}]` }, 63, 64},
		{"Secret", func(size int) string { return `"volumes": [` + secret(size) + `]` }, 253, 254},
		{"key", func(size int) string {
			return `"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "` + n(size) + `"}}}]`
		}, 253, 254},
		{"path", func(size int) string { return `"volumes": [{"name": "v", "mountPath": "/` + n(size-1) + `"}]` }, 4096, 4097},
		{"arguments", func(count int) string { return `"args": ` + items(count, `"a"`) }, 256, 257},
		{"variables", func(count int) string {
			var env []string
			for i := range count {
				env = append(env, `{"name": "A`+strconv.Itoa(i)+`"}`)
			}
			return `"env": [` + strings.Join(env, ",") + `]`
		}, 256, 257},
		{"least memory", func(bytes int) string { return `"resources": {"limits": {"memory": "` + strconv.Itoa(bytes) + `"}}` }, 4 << 20, 4<<20 - 1},
		{"most memory", func(digit int) string { // 8 EiB less a GiB
			return `"resources": {"limits": {"memory": "858993459` + strconv.Itoa(digit) + `Gi"}}`
		}, 1, 2},
		{"first port", func(port int) string {
			return `"ports": [{"hostPort": ` + strconv.Itoa(port) + `, "containerPort": 1}]`
		}, 1, 0},
		{"last port", func(port int) string {
			return `"ports": [{"hostPort": 1, "containerPort": ` + strconv.Itoa(port) + `}]`
		}, 65535, 65536},
	} {
		for size, good := range map[int]bool{tt.within: true, tt.over: false} {
			service := `"name": "web", ` + tt.service(size)
			if !strings.Contains(service, `"image"`) {
				service += `, "image": "localhost/web"`
			}
			if _, err := score.Validate(score.TypePodmanV0, []byte(`{"services": [{`+service+`}]}`)); good != (err == nil) {
				t.Errorf("%s, %d: %v", tt.name, size, err)
			}
		}
	}
	for count, good := range map[int]bool{64: true, 65: false} {
		var services []string
		for i := range count {
			services = append(services, `{"name": "s`+strconv.Itoa(i)+`", "image": "localhost/web"}`)
		}
		if _, err := score.Validate(score.TypePodmanV0, []byte(`{"services": [`+strings.Join(services, ",")+`]}`)); good != (err == nil) {
			t.Errorf("%d services: %v", count, err)
		}
	}
}
