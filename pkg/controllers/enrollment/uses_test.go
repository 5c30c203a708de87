package enrollment_test

import (
	"errors"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/enrollment"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func tokenFor(most, counted int) *v1alpha1.EnrollmentToken {
	return &v1alpha1.EnrollmentToken{
		ObjectMeta: metav1.ObjectMeta{Name: "t", UID: "u"}, Spec: v1alpha1.EnrollmentTokenSpec{MaxUses: most},
		Status: v1alpha1.EnrollmentTokenStatus{Uses: counted},
	}
}

// What counts at first is the highest that anybody wrote down: the status of the
// token, or an object that bears a number.
func TestUsesGoOnWhereTheyWere(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ most, counted, known, want int }{
		"none yet":           {3, 0, 0, 1},
		"in the status":      {3, 2, 0, 3},
		"on an object":       {3, 0, 2, 3},
		"on both":            {5, 2, 3, 4},
		"used up by status":  {2, 2, 0, 0},
		"used up by objects": {2, 1, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var l enrollment.Ledger
			n, err := l.Take(tokenFor(tc.most, tc.counted), "a", "key", tc.known)
			if n != tc.want || (err != nil) != (tc.want == 0) {
				t.Errorf("number %d, %v, want %d", n, err, tc.want)
			}
			if r, is := errors.AsType[*wire.Refusal](err); err != nil && (!is || r.Code != wire.RefusedToken) {
				t.Errorf("%v is no refusal of the token", err)
			}
		})
	}
}

// A token that another took the place of, under the same name, begins anew.
func TestUsesAreOfOneToken(t *testing.T) {
	t.Parallel()
	var l enrollment.Ledger
	old, next := tokenFor(1, 0), tokenFor(1, 0)
	next.UID = "v"
	for _, token := range []*v1alpha1.EnrollmentToken{old, next} {
		if n, err := l.Take(token, "a", "key", 0); n != 1 || err != nil {
			t.Errorf("number %d, %v", n, err)
		}
		l.Keep("t", "a", "key")
	}
	if l.Of(next) != 1 || l.Of(old) != 0 {
		t.Errorf("%d uses of the new one, %d of the old", l.Of(next), l.Of(old))
	}
}

// Whatever ends well, is refused, or ends without anybody knowing how: a token lets no
// more in than it may, no two uses have one number, and a device that asks again has
// the number that it had.
func TestUsesAtRandom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.IntRange(1, 8).Draw(rt, "most")
		token := tokenFor(most, 0)
		var l enrollment.Ledger
		lasting, open := map[string]int{}, map[string]int{}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			key := fmt.Sprint(rapid.IntRange(0, 12).Draw(rt, "key"))
			if _, is := lasting[key]; is {
				continue // it has its Device, and does not come here
			}
			n, err := l.Take(token, "d", key, 0)
			if err != nil {
				if len(lasting)+len(open) < most {
					rt.Fatalf("refused with %d lasting and %d open of %d", len(lasting), len(open), most)
				}
				continue
			}
			if was, is := open[key]; is && was != n {
				rt.Fatalf("key %s had number %d and has %d", key, was, n)
			}
			switch rapid.SampledFrom([]string{"lasts", "lasts", "is refused", "who knows"}).Draw(rt, "end") {
			case "lasts":
				delete(open, key)
				lasting[key] = n
				l.Keep("t", "d", key)
			case "is refused":
				delete(open, key)
				l.GiveBack("t", "d", key)
			default:
				open[key] = n
			}
			seen := map[int]string{}
			for _, m := range []map[string]int{lasting, open} {
				for k, n := range m {
					if other, twice := seen[n]; twice || n < 1 || n > most {
						rt.Fatalf("number %d of %d is of %s and %s", n, most, k, other)
					}
					seen[n] = k
				}
			}
		}
		if got := l.Of(token); got < len(lasting) || got > most {
			rt.Errorf("%d uses are counted, %d last", got, len(lasting))
		}
	})
}
