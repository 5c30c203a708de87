package enrollment_test

import (
	"fmt"
	"slices"
	"testing"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/enrollment"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func keyOf(n int) string { return wire.Sum(fmt.Append(nil, n)).String() }

// A use is a key and a name: the same again is none, anything else is one more.
func TestUsesOfAToken(t *testing.T) {
	t.Parallel()
	a, sameKey, sameName := v1alpha1.TokenUse{Device: "a", KeyFingerprint: keyOf(1)}, v1alpha1.TokenUse{Device: "b", KeyFingerprint: keyOf(1)}, v1alpha1.TokenUse{Device: "a", KeyFingerprint: keyOf(2)}
	for name, tc := range map[string]struct {
		most    int
		earlier []string
		uses    []v1alpha1.TokenUse
		counted int
		refused int
	}{
		"one, again":      {1, nil, []v1alpha1.TokenUse{a, a, a}, 1, 0},
		"another name":    {1, nil, []v1alpha1.TokenUse{a, sameKey, a}, 1, 1},
		"another key":     {1, nil, []v1alpha1.TokenUse{a, sameName, a}, 1, 1},
		"room for all":    {3, nil, []v1alpha1.TokenUse{a, sameKey, sameName, a}, 3, 0},
		"no room at all":  {0, nil, []v1alpha1.TokenUse{a}, 0, 1},
		"earlier, by key": {1, []string{keyOf(1)}, []v1alpha1.TokenUse{a, a}, 1, 0},
		// What an earlier version counted is good for one name.
		"earlier, two names": {1, []string{keyOf(1)}, []v1alpha1.TokenUse{a, sameKey}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token := &v1alpha1.EnrollmentToken{Spec: v1alpha1.EnrollmentTokenSpec{MaxUses: tc.most}}
			token.Status.Devices, token.Status.Uses = slices.Clone(tc.earlier), len(tc.earlier)
			refused := 0
			for _, u := range tc.uses {
				if _, err := enrollment.Use(token, u); err != nil {
					refused++
				}
			}
			if token.Status.Uses != tc.counted || refused != tc.refused || len(token.Status.UsedBy) != tc.counted || len(token.Status.Devices) != 0 {
				t.Errorf("%d uses, %d refused, status is %+v", token.Status.Uses, refused, token.Status)
			}
		})
	}
}

// The status of a token for very many stays small; what it forgets counts again.
func TestTokenRemembersTheNewestUses(t *testing.T) {
	t.Parallel()
	token := &v1alpha1.EnrollmentToken{Spec: v1alpha1.EnrollmentTokenSpec{MaxUses: 1_000_000}}
	for n := range enrollment.MaxTokenUses + 10 {
		if counted, err := enrollment.Use(token, v1alpha1.TokenUse{Device: "a", KeyFingerprint: keyOf(n)}); counted || err != nil {
			t.Fatalf("use %d: %v, %v", n, counted, err)
		}
	}
	if n := len(token.Status.UsedBy); n != enrollment.MaxTokenUses || token.Status.Uses != enrollment.MaxTokenUses+10 {
		t.Errorf("it remembers %d of %d", n, token.Status.Uses)
	}
	if counted, err := enrollment.Use(token, v1alpha1.TokenUse{Device: "a", KeyFingerprint: keyOf(20)}); !counted || err != nil {
		t.Errorf("one that it remembers: %v, %v", counted, err)
	}
}
