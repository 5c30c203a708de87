package wire

import "strings"

// configMapPrefix tells the name of a ConfigMap from that of a Secret, which has no slash.
const configMapPrefix = "configmap/"

// ConfigMapName is how a SecretRequest names a ConfigMap. ConfigMaps travel as Secrets do, and
// Entry.SecretsDigest covers both.
func ConfigMapName(name string) string { return configMapPrefix + name }

// ParseConfigMapName is the inverse of ConfigMapName. It reports false for the name of a
// Secret.
func ParseConfigMapName(object string) (name string, is bool) {
	return strings.CutPrefix(object, configMapPrefix)
}

// DescribeObject names an object for people: `Secret "db"` or `ConfigMap "web"`.
func DescribeObject(object string) string {
	if name, is := ParseConfigMapName(object); is {
		return `ConfigMap "` + name + `"`
	}
	return `Secret "` + object + `"`
}
