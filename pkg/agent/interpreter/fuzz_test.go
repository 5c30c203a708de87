package interpreter

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"exists":true,"phase":"Running","mark":"a"}` + "\n"))
	f.Add([]byte(`{"steps":["a"],"withinSeconds":-1}`))
	f.Add([]byte(`{"error":{"code":"failed","message":"\u001b"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		a, err := read(bytes.NewReader(line))
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("the error is %q", err)
			}
			return
		}
		i := instance{Driver: New(Config{})}
		if a.Observation != nil {
			i.seen = *a.Observation
		}
		s := i.State(nil, time.Now())
		if text := s.Error + s.Note; strings.ContainsAny(text, "\n\x1b") || len(text) > wire.MaxError || s.Phase == "" {
			t.Errorf("the state is %+v", s)
		}
	})
}
