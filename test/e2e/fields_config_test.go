//go:build linux

package e2e_test

import "strings"

const configObjects = `{apiVersion: v1, kind: ConfigMap, metadata: {name: conf, namespace: fields}, data: {main.conf: "a = 1\n", EMPTY: "", LEVEL: debug}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: live, namespace: fields}, data: {value: first}}
---
{apiVersion: v1, kind: Secret, metadata: {name: hidden, namespace: fields}, stringData: {token: s3cret, user: joe}}
---
{apiVersion: v1, kind: Secret, metadata: {name: login, namespace: fields}, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: '{"auths":{"registry.invalid":{"username":"u","password":"p"}}}'}}`

func init() {
	fieldCases = append(fieldCases,
		fieldCase{
			name: "config", objects: configObjects, data: "imagePullSecrets: [{name: login}]",
			service: strings.Join(strings.Fields(`pullPolicy: Never,
				env: [{name: A, valueFrom: {configMapKeyRef: {name: conf, key: LEVEL}}}, {name: X_user, value: mine}, {name: T, valueFrom: {secretKeyRef: {name: hidden, key: token}}}],
				envFrom: [{configMapRef: {name: live}, prefix: L_}, {secretRef: {name: hidden}, prefix: X_}],
				volumes: [
					{configMap: {name: conf, defaultMode: 0440, uid: 7, gid: 8}, mountPath: /conf},
					{configMap: {name: conf, items: [{key: main.conf, path: deep/x.conf, mode: 0400}]}, mountPath: /items},
					{configMap: {name: conf}, mountPath: /etc/one.conf, subPath: main.conf},
					{secret: {secretName: hidden, items: [{key: token, path: t, mode: 0600}], defaultMode: 0444, uid: 9, gid: 9}, mountPath: /hidden},
					{configMap: {name: live}, mountPath: /live, reload: Signal, reloadSignal: SIGWINCH}]`), " "),
			shows: []shown{
				{fields: "services.env.valueFrom.configMapKeyRef.name services.env.valueFrom.configMapKeyRef.key services.env.valueFrom.secretKeyRef.name services.env.valueFrom.secretKeyRef.key", run: "echo $A $T", want: "debug s3cret"},
				{fields: "services.envFrom.prefix services.envFrom.configMapRef.name services.envFrom.secretRef.name", run: "echo $L_value $X_token $X_user", want: "first s3cret mine"},
				{fields: "services.volumes.configMap.name services.volumes.configMap.defaultMode services.volumes.configMap.uid services.volumes.configMap.gid",
					run: "ls /conf; cat /conf/main.conf; stat -L -c '%a %u:%g' /conf/main.conf; stat -L -c %s /conf/EMPTY; touch /conf/x 2>&1 | grep -c Read-only", want: "EMPTY\nLEVEL\nmain.conf\na = 1\n440 7:8\n0\n1"},
				{fields: "services.volumes.configMap.items.key services.volumes.configMap.items.path services.volumes.configMap.items.mode",
					run: "cat /items/deep/x.conf; stat -L -c '%a %u' /items/deep/x.conf; ls /items", want: "a = 1\n400 0\ndeep"},
				{fields: "services.volumes.subPath", run: "cat /etc/one.conf; stat -c %a /etc/one.conf", want: "a = 1\n444"},
				{fields: "services.volumes.secret.secretName services.volumes.secret.items.key services.volumes.secret.items.path services.volumes.secret.items.mode services.volumes.secret.uid services.volumes.secret.gid services.volumes.secret.defaultMode",
					run: "cat /hidden/t; echo; stat -L -c '%a %u:%g' /hidden/t", want: "s3cret\n600 9:9"},
				{fields: "services.volumes.reload services.volumes.reloadSignal", run: "cat /live/value", want: "first"},
				{fields: "imagePullSecrets.name services.pullPolicy", in: onDevice, run: "grep -r s3cret /var/lib/fleet-agent; journalctl -u fleet-agent | grep -c s3cret", want: "0"},
			},
		},
		fieldCase{
			name: "never", services: []string{"{name: web, image: 'localhost/nowhere:1', pullPolicy: Never}"},
			fails: `service web: image "localhost/nowhere:1" is not on this device, and pullPolicy is Never`,
			shows: []shown{{fields: "services.pullPolicy", in: onDevice, run: "echo", want: ""}},
		},
	)
}
