package wire_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestValidateDevice(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("a", wire.MaxNameLength)
	tests := []struct {
		name string
		want error
	}{
		{"a", nil},
		{"0", nil},
		{"edge-01", nil},
		{"a--b", nil},
		{longest, nil},
		{"", wire.ErrNameEmpty},
		{longest + "a", wire.ErrNameTooLong},
		{strings.Repeat("é", 40), wire.ErrNameTooLong},
		{"-a", wire.ErrNameInvalid},
		{"a-", wire.ErrNameInvalid},
		{"-", wire.ErrNameInvalid},
		{"A", wire.ErrNameInvalid},
		{"a.b", wire.ErrNameInvalid},
		{"a b", wire.ErrNameInvalid},
		{"a\n", wire.ErrNameInvalid},
		{"*", wire.ErrNameInvalid},
		{">", wire.ErrNameInvalid},
		{"a_b", wire.ErrNameInvalid},
		{"é", wire.ErrNameInvalid},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%.20q", tt.name), func(t *testing.T) {
			t.Parallel()
			err := wire.ValidateDevice(tt.name)
			if !errors.Is(err, tt.want) {
				t.Fatalf("ValidateDevice(%.80q) = %v, want %v", tt.name, err, tt.want)
			}
			if tt.want == nil {
				return
			}
			named, ok := errors.AsType[*wire.NameError](err)
			if !ok || named.Kind != "device" || len(named.Name) > wire.MaxNameLength {
				t.Errorf("error is %#v, want a bounded *NameError about a device", err)
			}
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("error %q is not one clean line", err)
			}
		})
	}
}

func TestHostileNamesAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range hostileNames {
		if err := wire.ValidateDevice(name); err == nil {
			t.Errorf("ValidateDevice(%.80q) = nil", name)
		}
	}
}

func TestDeploymentRefValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		ref      wire.DeploymentRef
		want     error
		wantKind string
	}{
		{"valid", wire.DeploymentRef{Namespace: "default", Name: "hello"}, nil, ""},
		{"namespace empty", wire.DeploymentRef{Name: "hello"}, wire.ErrNameEmpty, "namespace"},
		{"namespace with dot", wire.DeploymentRef{Namespace: "a.b", Name: "hello"}, wire.ErrNameInvalid, "namespace"},
		{"name empty", wire.DeploymentRef{Namespace: "default"}, wire.ErrNameEmpty, "deployment"},
		{"name too long", wire.DeploymentRef{Namespace: "default", Name: strings.Repeat("a", 64)}, wire.ErrNameTooLong, "deployment"},
		{"both bad names the first", wire.DeploymentRef{Namespace: "*", Name: ""}, wire.ErrNameInvalid, "namespace"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := tt.ref.Validate()
			if !errors.Is(err, tt.want) {
				t.Fatalf("Validate() = %v, want %v", err, tt.want)
			}
			if named, ok := errors.AsType[*wire.NameError](err); ok && named.Kind != tt.wantKind {
				t.Errorf("kind = %q, want %q", named.Kind, tt.wantKind)
			}
		})
	}
}

// Compare must be a total order: manifests are sorted and searched by it.
func TestDeploymentRefCompareIsATotalOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		short := rapid.StringMatching(`[ab]{1,2}`) // few names, so that equal ones are drawn too
		a, b, c := refOf(short).Draw(t, "a"), refOf(short).Draw(t, "b"), refOf(short).Draw(t, "c")
		if (a.Compare(b) == 0) != (a == b) {
			t.Fatalf("Compare(%v, %v) = %d", a, b, a.Compare(b))
		}
		if a.Compare(b) != -b.Compare(a) {
			t.Fatalf("Compare of %v and %v is not antisymmetric", a, b)
		}
		if a.Compare(b) <= 0 && b.Compare(c) <= 0 && a.Compare(c) > 0 {
			t.Fatalf("%v ≤ %v ≤ %v is not transitive", a, b, c)
		}
	})
}
