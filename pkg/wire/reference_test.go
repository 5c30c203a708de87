package wire_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/wire"
)

var update = flag.Bool("update", false, "write the tables of docs/reference/protocol.md again")

const reference = "../../docs/reference/protocol.md"

// bytesOf writes a bound as people read it.
func bytesOf(n int) string {
	const kibi = 1 << 10
	switch {
	case n == 0:
		return ""
	case n%kibi == 0:
		return fmt.Sprintf("%d KiB", n/kibi)
	}
	return fmt.Sprintf("%d B", n)
}

func verbsTable() string {
	var b strings.Builder
	b.WriteString("| Kind | From | Longest request | Longest reply | A second | At once | Since |\n|---|---|---|---|---|---|---|\n")
	for _, v := range wire.Verbs {
		from, budget, burst := "device", fmt.Sprint(v.Rate), fmt.Sprint(v.Burst)
		if v.Direction == wire.Down {
			from, budget, burst = "server", "", ""
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s |\n", v.Kind, from, bytesOf(v.MaxRequest), bytesOf(v.MaxReply), budget, burst, v.Since)
	}
	return b.String()
}

func capabilitiesTable() string {
	var b strings.Builder
	b.WriteString("| Capability | Since | The agent |\n|---|---|---|\n")
	for _, c := range wire.Capabilities {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.Capability, c.Since, c.Means)
	}
	return b.String()
}

// The reference has the tables of the sources. `go test ./pkg/wire -update` writes
// them.
func TestReferenceIsOfTheSources(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	for name, table := range map[string]string{"verbs": verbsTable(), "capabilities": capabilitiesTable()} {
		begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->"
		i, j := strings.Index(page, begin), strings.Index(page, end)
		if i < 0 || j < i {
			t.Fatalf("%s has no place for the %s", reference, name)
		}
		i += len(begin)
		if diff := cmp.Diff(table, page[i:j]); diff != "" && !*update {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		page = page[:i] + table + page[j:]
	}
	if !*update {
		return
	}
	if err := os.WriteFile(reference, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
}
