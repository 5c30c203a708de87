package score_test

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"fleet.nationtech.io/fleet/pkg/score"
)

// What a score uses is found wherever it names it.
func TestObjectsOfPodmanV0(t *testing.T) {
	t.Parallel()
	data := strings.TrimSuffix(document(
		`"env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"env","key":"a.b"}}}]`,
		`"envFrom":[{"configMapRef":{"name":"all"}},{"prefix":"P_","secretRef":{"name":"s-all"}}]`,
		`"volumes":[{"configMap":{"name":"dir"},"mountPath":"/a"},{"secret":{"secretName":"s-dir","items":[{"key":"k","path":"a/b","mode":256}],"defaultMode":288,"uid":999,"gid":1},"mountPath":"/b","reload":"Signal","reloadSignal":"SIGUSR1"},`+
			`{"configMap":{"name":"file"},"mountPath":"/c/d","subPath":"c"}]`,
	), "}") + `,"imagePullSecrets":[{"name":"pull"}]}`
	got, err := score.Validate(score.TypePodmanV0, []byte(data))
	if err != nil || !slices.Equal(got.Secrets, []string{"pull", "s-all", "s-dir"}) || !slices.Equal(got.ConfigMaps, []string{"all", "dir", "env", "file"}) {
		t.Errorf("Validate = %+v, %v", got, err)
	}
}

func TestMistakesInFiles(t *testing.T) {
	t.Parallel()
	const volume = "data.services[0].volumes[0]"
	for name, tt := range map[string]struct{ field, want string }{
		"two sources of a variable": {`"env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"a","key":"b"},"secretKeyRef":{"name":"a","key":"b"}}}]`, "data.services[0].env[0].valueFrom: secretKeyRef and configMapKeyRef exclude each other"},
		"bad key":                   {`"env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"a","key":"/"}}}]`, `data.services[0].env[0].valueFrom.configMapKeyRef.key: "/" is not a key of a ConfigMap`},
		"no source of variables":    {`"envFrom":[{"prefix":"A"}]`, "data.services[0].envFrom[0]: exactly one of configMapRef and secretRef is needed, with the name of the object"},
		"bad prefix":                {`"envFrom":[{"prefix":"1","secretRef":{"name":"a"}}]`, `data.services[0].envFrom[0].prefix: "1" is not the name of an environment variable`},
		"bad name":                  {`"volumes":[{"configMap":{"name":"A"},"mountPath":"/a"}]`, volume + `.configMap.name: "A" is not the name of a ConfigMap`},
		"bad name of a Secret":      {`"volumes":[{"secret":{"secretName":""},"mountPath":"/a"}]`, volume + `.secret.secretName: "" is not the name of a Secret`},
		"mode":                      {`"volumes":[{"configMap":{"name":"a","defaultMode":512},"mountPath":"/a"}]`, volume + ".configMap.defaultMode: 512 is not within 0 to 511"},
		"owner":                     {`"volumes":[{"configMap":{"name":"a","uid":-1},"mountPath":"/a"}]`, volume + ".configMap.uid: -1 is not within 0 to 65535"},
		"path out of the directory": {`"volumes":[{"configMap":{"name":"a","items":[{"key":"k","path":"../x"}]},"mountPath":"/a"}]`, volume + `.configMap.items[0].path: "../x" is not a relative path in its shortest form, which does not begin with ..`},
		"the directory itself":      {`"volumes":[{"configMap":{"name":"a","items":[{"key":"k","path":"."}]},"mountPath":"/a"}]`, volume + `.configMap.items[0].path: "." is not a relative path in its shortest form, which does not begin with ..`},
		"file that is a directory":  {`"volumes":[{"configMap":{"name":"a","items":[{"key":"k","path":"x"},{"key":"k","path":"x/y"}]},"mountPath":"/a"}]`, volume + `.configMap.items[1].path: "x/y" and "x" exclude each other`},
		"no such item":              {`"volumes":[{"configMap":{"name":"a","items":[{"key":"k","path":"x"}]},"mountPath":"/a","subPath":"k"}]`, volume + `.subPath: "k" is the path of none of the items`},
		"one file in place":         {`"volumes":[{"configMap":{"name":"a"},"mountPath":"/a","subPath":"k","reload":"None"}]`, volume + ".reload: a single file cannot be exchanged while the container runs: use Restart, or mount the directory"},
		"unknown reload":            {`"volumes":[{"configMap":{"name":"a"},"mountPath":"/a","reload":"Maybe"}]`, volume + `.reload: "Maybe" is unknown: use Restart, Signal or None`},
		"unknown signal":            {`"volumes":[{"configMap":{"name":"a"},"mountPath":"/a","reload":"Signal","reloadSignal":"HUP"}]`, volume + `.reloadSignal: "HUP" is not the name of a signal such as SIGHUP or SIGUSR1`},
		"signal without Signal":     {`"volumes":[{"configMap":{"name":"a"},"mountPath":"/a","reloadSignal":"SIGHUP"}]`, volume + ".reloadSignal: needs reload: Signal"},
		"reload of a directory":     {`"volumes":[{"name":"a","mountPath":"/a","reload":"None"}]`, volume + ".reload: is for configMap and secret"},
		"policy of pulls":           {`"pullPolicy":"Sometimes"`, `data.services[0].pullPolicy: "Sometimes" is unknown: use IfNotPresent, Always or Never`},
	} {
		if _, err := score.Validate(score.TypePodmanV0, []byte(document(tt.field))); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

func TestSignalOfAReload(t *testing.T) {
	t.Parallel()
	for want, v := range map[syscall.Signal]score.Volume{
		0:               {Reload: score.ReloadNone},
		syscall.SIGHUP:  {Reload: score.ReloadSignal},
		syscall.SIGUSR2: {Reload: score.ReloadSignal, ReloadSignal: "SIGUSR2"},
	} {
		if got := v.Signal(); got != want {
			t.Errorf("%+v sends %d", v, got)
		}
	}
}
