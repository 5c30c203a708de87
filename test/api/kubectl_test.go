package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestKubectlOnDeployments(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	u.shows(u.apply(deployment("hello")), "deployment.fleet.nationtech.io/hello created")
	u.shows(u.apply(deployment("hello")), "unchanged")

	t.Run("get", func(t *testing.T) {
		u := user{t, u.s}
		u.kubectl("wait", "--for=condition=Accepted", "--timeout=10s", "fleetdep/hello")
		u.shows(u.kubectl("get", "fleetdep"), "TYPE", "ACCEPTED", "MATCHED", "SUCCEEDED", "FAILED", "PENDING", "AGE", "WHY", "PodmanV0", "Valid")
		u.shows(u.kubectl("get", "fleetdep", "-o", "wide"), "LAST ERROR", "ACCEPTANCE")
		u.shows(u.kubectl("get", "fleet"), "deployment.fleet.nationtech.io/hello")
		u.shows(u.kubectl("get", "all"), "PodmanV0", "hello")
		u.shows(u.kubectl("get", "fleetdep", "hello", "-o", "yaml"), "finalizers:\n  - fleet.nationtech.io/finalizer")
		u.shows(u.kubectl("get", "fleetdep", "-l", "no=such"), "")
	})
	t.Run("why it is refused", func(t *testing.T) {
		u := user{t, u.s}
		u.apply(deployment("secretive") + "        env: [{name: A, valueFrom: {secretKeyRef: {name: missing, key: k}}}]\n")
		u.kubectl("wait", "--for=condition=Stalled", "--timeout=10s", "fleetdep/secretive")
		u.shows(u.kubectl("get", "fleetdep", "secretive"), "WHY", "SecretUnavailable", "the score is not accepted", `Secret "missing"`)
		u.kubectl("delete", "fleetdep", "secretive")
	})
	t.Run("diff", func(t *testing.T) {
		changed := strings.Replace(deployment("hello"), "hello:1", "hello:2", 1)
		out, err := u.s.Run(t.Context(), changed, "kubectl", "diff", "-f", "-")
		if _, isExit := errors.AsType[*exec.ExitError](err); !isExit {
			t.Fatalf("diff ended with %v, want status 1 for a difference", err)
		}
		user{t, u.s}.shows(out, "-      - image: localhost/hello:1", "+      - image: localhost/hello:2")
	})
	t.Run("explain", func(t *testing.T) {
		u := user{t, u.s}
		u.shows(u.kubectl("explain", "fleetdep.spec.targetSelector"), "FIELDS", "matchLabels")
		u.shows(u.kubectl("explain", "fleetdev.spec.allowedNamespaces"), "Absent means all")
		u.shows(u.kubectl("explain", "fleetdep.spec.score.data"), "explain PodmanV0.services")
		u.shows(u.kubectl("explain", "secrets.data"), "DESCRIPTION")
	})
	t.Run("label and patch", func(t *testing.T) {
		u := user{t, u.s}
		u.kubectl("label", "fleetdep", "hello", "team=edge")
		u.kubectl("annotate", "fleetdep", "hello", "note=x")
		u.kubectl("patch", "fleetdep", "hello", "--type=json", "-p", `[{"op":"replace","path":"/spec/volumeRetention","value":"Delete"}]`)
		u.shows(u.kubectl("get", "fleetdep", "-l", "team=edge", "-o", "jsonpath={.items[0].spec.volumeRetention}"), "Delete")
	})
	t.Run("edit", func(t *testing.T) {
		editor := filepath.Join(t.TempDir(), "editor")
		if err := os.WriteFile(editor, []byte("#!/bin/sh\nsed -i 's/hello:1/hello:3/' \"$1\"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), binary(t), "kubectl", "edit", "fleetdep", "hello")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+u.s.Kubeconfig(), "KUBE_EDITOR="+editor)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		user{t, u.s}.shows(u.kubectl("get", "fleetdep", "hello", "-o", "yaml"), "localhost/hello:3")
	})
	t.Run("mistakes", func(t *testing.T) {
		u := user{t, u.s}
		bad := strings.NewReplacer("image:", "imagee:", "name: web", "name: Web").Replace(deployment("bad"))
		for _, args := range [][]string{{"apply", "-f", "-"}, {"apply", "--server-side", "-f", "-"}, {"apply", "--dry-run=server", "-f", "-"}, {"diff", "-f", "-"}} {
			_, err := u.s.Run(t.Context(), bad, append([]string{"kubectl"}, args...)...)
			if err == nil {
				t.Fatalf("%q took %s", args, bad)
			}
			u.shows(err.Error(), `The Deployment "bad" is invalid`, "spec.score.data.services[0].imagee: unknown field; did you mean image?", "spec.score.data.services[0].name: ")
		}
		u.refused("not found", "get", "fleetdep", "bad")
		other := strings.Replace(deployment("other"), "PodmanV0", "OtherV1", 1)
		_, err := u.s.Run(t.Context(), other, "kubectl", "apply", "-f", "-")
		if err == nil {
			t.Fatalf("it took %s", other)
		}
		u.shows(err.Error(), "spec.score.type: OtherV1 is no type that this server knows: use FilesV0, PodmanV0")
	})
	t.Run("describe", func(t *testing.T) {
		u := user{t, u.s}
		u.kubectl("create", "namespace", "lax")
		u.kubectl("label", "namespace", "lax", "fleet.nationtech.io/privilege=privileged")
		bind := strings.NewReplacer("namespace: default", "namespace: lax", "image:", "volumes: [{hostPath: /srv, mountPath: /srv}]\n        image:").Replace(deployment("bind"))
		u.apply(bind)
		u.kubectl("label", "--overwrite", "namespace", "lax", "fleet.nationtech.io/privilege=baseline")
		u.kubectl("wait", "-n", "lax", "--for=condition=Accepted=False", "--timeout=10s", "fleetdep/bind")
		eventually(t, "the event", func() error {
			if out := u.kubectl("describe", "-n", "lax", "fleetdep", "bind"); !strings.Contains(out, "privilege privileged") || !strings.Contains(out, "Warning  PrivilegeExceeded") {
				return fmt.Errorf("description is:\n%s", out)
			}
			return nil
		})
		eventually(t, "the last error", func() error {
			if out := u.kubectl("get", "-n", "lax", "fleetdep", "-o", "custom-columns=E:.status.aggregate.lastError.message"); !strings.Contains(out, "PrivilegeExceeded: ") {
				return fmt.Errorf("it is:\n%s", out)
			}
			return nil
		})
		u.shows(u.kubectl("get", "-n", "lax", "fleetdep", "bind", "-o", "wide"), "LAST ERROR", "PrivilegeExceeded: ")
	})
	t.Run("delete", func(t *testing.T) {
		u := user{t, u.s}
		u.kubectl("delete", "fleetdep", "hello", "--timeout=15s")
		u.refused("not found", "get", "fleetdep", "hello")
	})
}

// A deletion ends whatever becomes of dependents: Argo CD deletes in the foreground.
func TestCascades(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	for _, cascade := range []string{"background", "foreground", "orphan"} {
		t.Run(cascade, func(t *testing.T) {
			u := user{t, u.s}
			u.apply(deployment(cascade))
			uid := u.kubectl("get", "fleetdep", cascade, "-o", "jsonpath={.metadata.uid}")
			u.apply(fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: of-%s, namespace: default, ownerReferences: [
  {apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment, name: %[1]s, uid: %s, blockOwnerDeletion: true}]}}`, cascade, uid))
			u.kubectl("delete", "fleetdep", cascade, "--cascade="+cascade, "--timeout=15s")
			u.refused("not found", "get", "fleetdep", cascade)
			if cascade == "orphan" {
				if owners := u.kubectl("get", "cm", "of-orphan", "-o", "jsonpath={.metadata.ownerReferences}"); owners != "" {
					t.Errorf("the owners of what is left are %s", owners)
				}
				return
			}
			eventually(t, "the dependent goes", func() error {
				out, err := u.s.Kubectl(t.Context(), "get", "cm", "of-"+cascade, "--ignore-not-found", "-o", "name")
				if err == nil && out != "" {
					err = errors.New(out)
				}
				return err
			})
		})
	}
}

// Clients ask first whether they may.
func TestAuth(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	u.shows(u.kubectl("auth", "can-i", "create", "fleetdep"), "yes")
	u.shows(u.kubectl("auth", "can-i", "get", "/metrics"), "yes")
	u.shows(u.kubectl("auth", "can-i", "--list"), "*.*", "[*]")
	u.shows(u.kubectl("auth", "whoami"), "Username", "system:masters")
}

// No machine takes the place of a revoked device: the command says so,
// not the machine.
func TestRevokedDevicesAreNotReplaced(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	u.apply("{apiVersion: fleet.nationtech.io/v1alpha1, kind: Device, metadata: {name: press-1}, spec: {}}")
	if out, err := u.s.Run(t.Context(), "", "device", "replace", "press-1"); err != nil || !strings.HasPrefix(out, "FLT1.") {
		t.Fatalf("the token is %q: %v", out, err)
	}
	if _, err := u.s.Run(t.Context(), "", "device", "revoke", "press-1"); err != nil {
		t.Fatal(err)
	}
	if out, err := u.s.Run(t.Context(), "", "device", "replace", "press-1"); err == nil || !strings.Contains(err.Error(), "kubectl delete fleetdev press-1") {
		t.Errorf("it prints %q: %v", out, err)
	}
}

// Events are followed as they are told, and describe has them.
func TestEventsAreFollowed(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), "kubectl", "get", "events", "--watch")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+u.s.Kubeconfig())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // killed: an error is what it should return
	lines := bufio.NewScanner(out)
	for _, name := range []string{"first", "second"} {
		u.apply(deployment(name))
		line := ""
		for !strings.Contains(line, "Deployment/"+name) && lines.Scan() {
			line = lines.Text()
		}
		u.shows(line, "Normal", "Accepted", "Deployment/"+name)
	}
	u.shows(u.kubectl("describe", "fleetdep", "second"), "Events:", "Normal  Accepted")
}

// Labels that every Device has by its name are those of the server: another value is refused
// in one line, also in a request, and one that is removed comes back.
func TestLabelsOfTheServer(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	u.apply("{apiVersion: fleet.nationtech.io/v1alpha1, kind: Device, metadata: {name: press-1}, spec: {}}")
	has := func(value string) error {
		out := u.kubectl("get", "fleetdev", "-l", "device-id="+value, "-o", "name")
		if !strings.Contains(out, "/press-1") {
			return fmt.Errorf("the Devices with device-id %s are %q", value, out)
		}
		return nil
	}
	eventually(t, "the label", func() error { return has("press-1") })
	_, err := u.s.Kubectl(t.Context(), "label", "--overwrite", "fleetdev", "press-1", "device-id=press-2")
	if err == nil || !strings.Contains(err.Error(), `The Device "press-1" is invalid: metadata.labels[device-id]: the server sets this label of the Device, to press-1: leave it out`) {
		t.Errorf("another value: %v", err)
	}
	u.refused("metadata.labels[device-id]", "create", "-f", file(t, "{apiVersion: fleet.nationtech.io/v1alpha1, kind: Device, metadata: {name: press-2, labels: {device-id: press-1}}, spec: {}}"))
	u.kubectl("label", "fleetdev", "press-1", "device-id-", "site=plant-1")
	eventually(t, "the label that was removed", func() error { return has("press-1") })
	u.shows(u.kubectl("get", "fleetdev", "-l", "site=plant-1", "-o", "name"), "/press-1")
	request := "{apiVersion: fleet.nationtech.io/v1alpha1, kind: EnrollmentRequest, metadata: {name: press-3}, spec: {keyFingerprint: " + strings.Repeat("a", 64) + ", labels: {device-id: press-1}}}"
	u.refused("the server sets", "create", "-f", file(t, request))
}

// file returns the path of a file with a content.
func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWatch(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	cmd := exec.CommandContext(t.Context(), binary(t), "kubectl", "get", "cm", "--watch", "-o", "name")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+u.s.Kubeconfig())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: an error is what it should return
	})
	u.kubectl("create", "configmap", "seen")
	buf := make([]byte, 64)
	n, err := out.Read(buf)
	if err != nil || !strings.HasPrefix(string(buf[:n]), "configmap/seen") {
		t.Errorf("the watch shows %q (%v)", buf[:n], err)
	}
	// Somebody who watches does not hold up the server's end.
	if err := u.s.Stop(); err != nil {
		t.Error(err)
	}
}

func TestValidation(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	for _, test := range []struct{ name, old, new, says string }{
		{"type with spaces", "type: PodmanV0", "type: has spaces", "for example PodmanV0"},
		{"empty type", "type: PodmanV0", "type: ''", "should be at least 1 chars long"},
		{"name with a dot", "name: hello", "name: hel.lo", "metadata.name must be at most 63"},
		{"unknown field of the spec", "spec:", "spec:\n  replicas: 3", `unknown field "spec.replicas"`},
		{"unknown strategy", "spec:", "spec:\n  rollout: {strategy: Canary}", `supported values: "Immediate"`},
		{"unknown retention", "spec:", "spec:\n  volumeRetention: Maybe", `supported values: "Retain", "Delete"`},
		{"no score", "score:", "scores:", `unknown field "spec.scores"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			manifest := strings.Replace(deployment("hello"), test.old, test.new, 1)
			_, err := u.s.Run(t.Context(), manifest, "kubectl", "create", "-f", "-")
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error is %v, want it to say %q", err, test.says)
			}
		})
	}
	t.Run("device name", func(t *testing.T) {
		_, err := u.s.Apply(t.Context(), "{apiVersion: fleet.nationtech.io/v1alpha1, kind: Device, metadata: {name: a.b}}")
		if err == nil || !strings.Contains(err.Error(), "it is the device id") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestAnyCustomResource(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	u.apply(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.example.com},
  spec: {group: example.com, scope: Namespaced, names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList},
    versions: [{name: v1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object,
      description: A widget., properties: {spec: {type: object, properties: {size: {type: integer, maximum: 5}}}}}}}]}}`)
	// kubectl wait fails on a list of conditions that is null, as it is at first in
	// every cluster.
	eventually(t, "the definition has conditions", func() error {
		conditions, err := u.s.Kubectl(t.Context(), "get", "crd/widgets.example.com", "-o", "jsonpath={.status.conditions}")
		if err == nil && conditions == "" {
			err = errors.New("there are none")
		}
		return err
	})
	u.kubectl("wait", "--for=condition=Established", "--timeout=10s", "crd/widgets.example.com")
	eventually(t, "the kind is served", func() error {
		_, err := u.s.Apply(t.Context(), "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w, namespace: default}, spec: {size: 3}}")
		return err
	})
	u.shows(u.kubectl("get", "widgets"), "w")
	_, err := u.s.Apply(t.Context(), "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w, namespace: default}, spec: {size: 9}}")
	if err == nil || !strings.Contains(err.Error(), "less than or equal to 5") {
		t.Errorf("error is %v", err)
	}
	eventually(t, "explain", func() error {
		out, err := u.s.Kubectl(t.Context(), "explain", "widgets")
		if err == nil && !strings.Contains(out, "A widget.") {
			err = errors.New(out)
		}
		return err
	})
	u.kubectl("delete", "crd", "widgets.example.com")
	eventually(t, "the kind goes", func() error {
		out, err := u.s.Kubectl(t.Context(), "api-resources", "--api-group=example.com", "-o", "name")
		if err == nil && strings.Contains(out, "widgets") {
			err = errors.New(out)
		}
		return err
	})
	u.refused("the server needs this definition", "delete", "crd", "devices.fleet.nationtech.io")
	u.refused("the server needs this definition", "delete", "crd", "--all")
}

func TestBuiltInKinds(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	t.Run("namespaces", func(t *testing.T) {
		u := user{t, u.s}
		u.kubectl("create", "namespace", "site")
		u.shows(u.kubectl("get", "ns"), "STATUS", "Active", "default", "site")
		u.kubectl("create", "configmap", "-n", "site", "a")
		u.kubectl("delete", "namespace", "site", "--timeout=15s")
		u.refused("not found", "get", "configmap", "-n", "site", "a")
		u.refused("may not be deleted", "delete", "namespace", "default")
		u.refused("not found", "create", "configmap", "-n", "nosuch", "a")
	})
	t.Run("configmaps", func(t *testing.T) {
		u := user{t, u.s}
		u.kubectl("create", "configmap", "c", "--from-literal=k=v")
		u.shows(u.kubectl("get", "cm", "c"), "DATA", "1")
		u.refused("not a valid key name", "create", "configmap", "bad", "--from-literal=a/b=v")
		u.kubectl("patch", "cm", "c", "-p", `{"immutable":true}`)
		u.refused("immutable", "patch", "cm", "c", "-p", `{"data":{"k":"w"}}`)
	})
	t.Run("server-side apply", func(t *testing.T) {
		manifest := "{apiVersion: v1, kind: ConfigMap, metadata: {name: ssa, namespace: default}, data: {k: %s}}"
		apply := func(manager, value string) error {
			_, err := u.s.Run(t.Context(), fmt.Sprintf(manifest, value), "kubectl", "apply", "--server-side", "--field-manager="+manager, "-f", "-")
			return err
		}
		if err := apply("one", "a"); err != nil {
			t.Fatal(err)
		}
		if err := apply("two", "b"); err == nil || !strings.Contains(err.Error(), `conflict with "one"`) {
			t.Errorf("error is %v, want a conflict", err)
		}
	})
	t.Run("events and leases", func(t *testing.T) {
		u := user{t, u.s}
		u.apply("{apiVersion: v1, kind: Event, metadata: {name: e, namespace: default}, involvedObject: {kind: ConfigMap, name: c, namespace: default}, reason: Test, message: hello, type: Normal}")
		u.shows(u.kubectl("get", "events", "--field-selector", "involvedObject.name=c"), "LAST SEEN", "ConfigMap/c", "hello")
		u.apply("{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l, namespace: default}, spec: {holderIdentity: me}}")
		u.shows(u.kubectl("get", "lease"), "HOLDER", "me")
	})
	t.Run("what kubectl get wrote", func(t *testing.T) {
		u := user{t, u.s}
		u.kubectl("create", "configmap", "x", "--from-literal=k=v")
		u.kubectl("create", "configmap", "y", "--from-literal=k=v")
		list := u.kubectl("get", "cm", "x", "y", "-o", "yaml")
		u.kubectl("delete", "cm", "x", "y")
		u.shows(list, "kind: List")
		u.shows(u.apply(list), "configmap/x created", "configmap/y created")
	})
	t.Run("kinds of a cluster", func(t *testing.T) {
		for manifest, says := range map[string]string{
			"{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}": `no matches for kind "Deployment" in version "apps/v1"`,
			"{apiVersion: v1, kind: Pod, metadata: {name: web}}":             `no matches for kind "Pod" in version "v1"`,
		} {
			if _, err := u.s.Apply(t.Context(), manifest); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("error is %v, want one that says %s", err, says)
			}
		}
	})
	t.Run("dry run", func(t *testing.T) {
		u := user{t, u.s}
		u.kubectl("create", "namespace", "dry", "--dry-run=server")
		u.refused("not found", "get", "namespace", "dry")
	})
}

// TestSecretsAreEncryptedAtRest looks for the plain text in every file of the
// data directory; a ConfigMap is the control that must be found.
func TestSecretsAreEncryptedAtRest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := startIn(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	u := user{t, s}
	const secret, public = "swordfish-77c1", "herring-77c1"
	u.apply("{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: default}, stringData: {password: " + secret + "}}")
	u.kubectl("create", "configmap", "c", "--from-literal=k="+public)
	u.shows(u.kubectl("get", "secret", "s", "-o", "jsonpath={.data.password}"), "c3dvcmRmaXNoLTc3YzE=")
	u.shows(u.kubectl("get", "secret"), "TYPE", "Opaque", "1")
	u.refused("type", "patch", "secret", "s", "-p", `{"type":"kubernetes.io/tls"}`)
	for what, want := range map[string]bool{secret: false, "c3dvcmRmaXNoLTc3YzE=": false, public: true} {
		if found := grep(t, dir, what); found != want {
			t.Errorf("%q found in the data directory: %v, want %v", what, found, want)
		}
	}
}

func grep(t *testing.T, dir, what string) (found bool) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "grep", "-rlaF", "--devices=skip", what, dir).CombinedOutput()
	if e, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || e.ExitCode() > 1) {
		t.Fatalf("grep: %v: %s", err, out)
	}
	return err == nil
}
