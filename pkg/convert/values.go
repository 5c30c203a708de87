package convert

import (
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/go-units"

	"fleet.nationtech.io/fleet/pkg/score"
)

// quantity writes bytes as Kubernetes does.
func quantity(n int64) string {
	for i, unit := range []string{"Gi", "Mi", "Ki"} {
		if size := int64(1) << (30 - 10*i); n >= size && n%size == 0 {
			return strconv.FormatInt(n/size, 10) + unit
		}
	}
	return strconv.FormatInt(n, 10)
}

// bytesOf reads bytes as docker writes them, 0 for what is none.
func bytesOf(text string) int64 {
	n, err := units.RAMInBytes(text)
	if err != nil {
		return 0
	}
	return n
}

// processors writes a number of processors; thousandths are exact enough.
func processors(n float64) string {
	millis := int64(math.Round(n * 1000))
	if millis%1000 == 0 {
		return strconv.FormatInt(millis/1000, 10)
	}
	return strconv.FormatInt(millis, 10) + "m"
}

// wholeSeconds rounds up.
func wholeSeconds(d types.Duration) (n int, whole bool) {
	n = int(math.Ceil(time.Duration(d).Seconds()))
	return n, time.Duration(n)*time.Second == time.Duration(d)
}

// valid reports whether a score is one that the server takes.
func valid(p *score.PodmanV0) bool { return Check(p) == nil }

// Check is the verdict of the server on a score.
func Check(p *score.PodmanV0) error {
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = score.Validate(score.TypePodmanV0, body)
	return err
}
