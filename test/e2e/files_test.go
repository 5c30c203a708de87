//go:build linux

package e2e_test

import (
	"fmt"
	"regexp"
	"strings"
)

// filesManifest is a Deployment of type FilesV0, with a text of its own.
func filesManifest(name, text string) string {
	return fmt.Sprintf(`{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment, metadata: {name: %s, namespace: %s},
spec: {targetSelector: {matchLabels: {site: a}}, score: {type: FilesV0, data: {files: [
  {path: /etc/press/site.conf, content: "%s on ${device.name}\n", mode: 0640, owner: nobody, group: "65534"},
  {path: /etc/press/conf.d/press.ini, configMapKeyRef: {name: press, key: press.ini}},
  {path: /etc/press/key.pem, secretKeyRef: {name: press, key: key.pem}}]}}}}`, name, fieldsNamespace, text)
}

// filesObjects are what filesManifest names.
func filesObjects(speed, key string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: press, namespace: %s}, data: {press.ini: "speed = %s\n"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: press, namespace: %s}, stringData: {key.pem: %s}}`, fieldsNamespace, speed, fieldsNamespace, key)
}

// files puts files on the device, changes them, restarts it, and takes them back.
func (s *site) files() {
	s.applyAll(filesObjects("12", "first-key"), filesManifest("press", "made"))
	s.eventually("the device says that it puts no files", func() error {
		out := s.kubectl("get", "fleetdev", "-o", "jsonpath={.items[0].status.conditions[?(@.type=='AgentOutdated')].message}")
		if !strings.Contains(out, "needs score/FilesV0") || !strings.Contains(out, "list fileRoots in its agent.yaml") {
			return fmt.Errorf("it says %q", out)
		}
		return nil
	})
	before := s.root("systemd-analyze security --no-pager fleet-agent.service | tail -n 1; test ! -e /run/fleet-interpreters/files.sock")
	s.on("set -e\nmkdir /etc/press\necho 'fileRoots: [/etc/press]' >>/etc/fleet-agent/agent.yaml\nsystemctl restart fleet-agent")
	const look = "cd /etc/press; stat -c '%n %a %U:%g' site.conf conf.d conf.d/press.ini key.pem; cat site.conf conf.d/press.ini key.pem; echo; ls -A"
	s.shows(look, "site.conf 640 nobody:65534 conf.d 755 root:0 conf.d/press.ini 644 root:0 key.pem 600 root:0 made on "+deviceName+" speed = 12 first-key conf.d key.pem site.conf")
	s.applyAll(filesObjects("13", "second-key"), filesManifest("press", "changed"))
	changed := "changed on " + deviceName + " speed = 13 second-key conf.d key.pem site.conf"
	s.shows(look, "site.conf 640 nobody:65534 conf.d 755 root:0 conf.d/press.ini 644 root:0 key.pem 600 root:0 "+changed)
	s.aggregateIn(fieldsNamespace, "press", counts{1, 1, 0, 0})
	s.applyAll(filesManifest("rival", "rival"))
	s.failsWith(fieldsNamespace, "rival", regexp.MustCompile(`/etc/press/site.conf is already put by Deployment fields/press`))
	s.kubectl("delete", "fleetdep", "rival", "-n", fieldsNamespace)
	s.must(s.machine.PowerCut(s.t.Context()))
	s.must(s.machine.Start(s.t.Context()))
	s.on("rm /etc/press/site.conf; systemctl reload-or-restart fleet-agent")
	s.shows(look, "site.conf 640 nobody:65534 conf.d 755 root:0 conf.d/press.ini 644 root:0 key.pem 600 root:0 "+changed)
	s.on("echo mine >/etc/press/key.pem; systemctl reload fleet-agent")
	s.failsWith(fieldsNamespace, "press", regexp.MustCompile(`/etc/press/key.pem was changed on the device since it was put`))
	s.kubectl("delete", "fleetdep", "press", "-n", fieldsNamespace)
	s.shows("cd /etc/press; ls -A; cat key.pem; journalctl -u fleet-agent-files | grep -c 'a file is left.*/etc/press/key.pem'", "key.pem mine 1")
	after := s.root("systemd-analyze security --no-pager fleet-agent.service | tail -n 1; systemd-analyze security --no-pager --threshold=40 fleet-agent-files.service >&2")
	if before != after {
		s.t.Errorf("the agent's unit is %q, and was %q without files", after, before)
	}
	if found := s.root("grep -rlF -e first-key -e second-key /var/lib/fleet-agent /var/lib/fleet-agent-files /etc/press; journalctl -u fleet-agent -u fleet-agent-files -u fleet-agent-files.socket | grep -F -e first-key -e second-key; true"); found != "" {
		s.t.Errorf("the Secret is in %s", found)
	}
}

func (s *site) applyAll(documents ...string) {
	s.t.Helper()
	_, err := s.server.Apply(s.t.Context(), strings.Join(documents, "\n---\n"))
	s.must(err)
}

// shows waits until a command of root's prints words.
func (s *site) shows(command, words string) {
	s.t.Helper()
	s.eventually("the device shows "+words, func() error {
		r, err := s.machine.Run(s.t.Context(), "sh", "-c", command)
		if got := strings.Join(strings.Fields(r.Stdout+r.Stderr), " "); err == nil && got != words {
			err = fmt.Errorf("it shows %q", got)
		}
		return err
	})
}
