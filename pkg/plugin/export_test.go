package plugin

import (
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/score"
)

// ParsePort parses a port as --port takes it.
func ParsePort(text string) (score.Port, error) { return parsePort(text) }

// Table is what kubectl fleet status shows at a time.
func Table(all []*v1alpha1.Deployment, namespaces bool, now time.Time) *metav1.Table {
	v := &view{print: printers.PrintOptions{}, namespaces: namespaces, now: func() time.Time { return now }}
	return v.table(all)
}

// Draw returns what draws texts over each other on a terminal.
func Draw(terminal *os.File) (draw func(text string) error, ok bool) {
	s, ok := newScreen(terminal)
	if !ok {
		return nil, false
	}
	return s.draw, true
}
