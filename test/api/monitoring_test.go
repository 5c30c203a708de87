package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/test/process"
)

// monitoring is what is installed for Prometheus and Grafana.
const monitoring = "../../packaging/monitoring/"

func TestAlertsFireWhenTheyHaveTo(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", monitoring+"alerts.yaml")
	promtool(t, "test", "rules", "testdata/alerts.yaml")
	rules, tests := readFile(t, monitoring+"alerts.yaml"), readFile(t, "testdata/alerts.yaml")
	alerts := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	if len(alerts) == 0 {
		t.Fatal("no alert is found in the rules")
	}
	for _, m := range alerts {
		if !strings.Contains(tests, `alertname="`+m[1]+`"`) {
			t.Errorf("no test has alert %s fire", m[1])
		}
		if !strings.Contains(readFile(t, "../../docs/monitoring.md"), "`"+m[1]+"`") {
			t.Errorf("docs/monitoring.md lacks alert %s", m[1])
		}
	}
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A real Prometheus scrapes the server with the configuration that is installed.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	s := start(t)
	user{t, s}.apply(deployment("web")) // for counters that are there once they count
	p := startPrometheus(t, s)

	eventually(t, "a scrape", p.scraped)
	rules := p.rules()
	if len(rules) == 0 {
		t.Fatal("Prometheus has no rules")
	}
	expressions := map[string]string{} // by where they are
	for name, query := range rules {
		expressions["alert "+name] = query
	}
	for _, file := range []string{"fleet.json", "fleet-server.json"} {
		for title, query := range dashboard(t, monitoring+file) {
			expressions[file+", "+title] = query
		}
	}
	eventually(t, "every metric of rules and dashboards", func() error { return p.has(expressions) })
	for where, expr := range expressions {
		if err := p.get("query", url.Values{"query": {expr}}, nil); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
}

// prometheus is one that runs.
type prometheus struct {
	t   *testing.T
	url string
}

func startPrometheus(t *testing.T, s *process.Server) *prometheus {
	t.Helper()
	dir := t.TempDir()
	config := configure(t, s, dir)
	promtool(t, "check", "config", config)
	log := &announced{said: make(chan string, 1)}
	cmd := exec.Command("prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	select {
	case address := <-log.said:
		return &prometheus{t, "http://" + address}
	case <-time.After(20 * time.Second):
		t.Fatalf("Prometheus does not listen: %s", log)
		return nil
	}
}

// configure writes the installed configuration with the files and the address of
// the test in the place of those of a gateway.
func configure(t *testing.T, s *process.Server, dir string) string {
	t.Helper()
	u := user{t, s}
	for file, field := range map[string]string{
		"ca.crt": ".clusters[0].cluster.certificate-authority-data", "client.crt": ".users[0].user.client-certificate-data", "client.key": ".users[0].user.client-key-data",
	} {
		encoded := u.kubectl("config", "view", "--raw", "--kubeconfig", s.Kubeconfig(), "-o", "jsonpath={"+field+"}")
		text, err := base64.StdEncoding.DecodeString(encoded)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	rules, err := filepath.Abs(monitoring + "alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shipped := readFile(t, monitoring+"scrape.yaml")
	for from, to := range map[string]string{
		"/usr/share/fleet-server/monitoring/alerts.yaml": rules, "/etc/prometheus/fleet": dir, "localhost:6443": strings.TrimPrefix(s.APIURL, "https://"),
	} {
		if !strings.Contains(shipped, from) {
			t.Fatalf("scrape.yaml does not name %s", from)
		}
		shipped = strings.ReplaceAll(shipped, from, to)
	}
	path := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(path, []byte("global: {scrape_interval: 1s, evaluation_interval: 1s}\n"+shipped), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// announced is a log in which a Prometheus says where it listens.
type announced struct {
	said chan string

	mu   sync.Mutex // guards text and done
	text bytes.Buffer
	done bool
}

var listens = regexp.MustCompile(`msg="Listening on" address=(\S+)`)

// Write implements io.Writer.
func (a *announced) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.text.Write(p)
	if m := listens.FindSubmatch(a.text.Bytes()); m != nil && !a.done {
		a.done = true
		a.said <- string(m[1])
	}
	return len(p), nil
}

// String implements fmt.Stringer.
func (a *announced) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.text.String()
}

// get asks the API of Prometheus.
func (p *prometheus) get(path string, query url.Values, data any) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/api/v1/"+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("asking for %s %v: %s", path, query, body)
	}
	return json.Unmarshal(body, &struct{ Data any }{data})
}

// scraped returns nil once the target is up, and every rule was evaluated.
func (p *prometheus) scraped() error {
	var targets struct {
		ActiveTargets []struct{ Health, LastError string }
	}
	if err := p.get("targets", nil, &targets); err != nil {
		return err
	}
	if len(targets.ActiveTargets) != 1 || targets.ActiveTargets[0].Health != "up" {
		return fmt.Errorf("targets are %+v", targets)
	}
	groups, err := p.groups()
	if err != nil {
		return err
	}
	for _, g := range groups {
		for _, r := range g.Rules {
			if r.Health != "ok" {
				return fmt.Errorf("rules are %+v", groups)
			}
		}
	}
	return nil
}

// group is a group of rules.
type group struct {
	Rules []struct{ Name, Query, Health, LastError string }
}

func (p *prometheus) groups() ([]group, error) {
	var rules struct{ Groups []group }
	err := p.get("rules", nil, &rules)
	return rules.Groups, err
}

// rules are the expressions of alerts.
func (p *prometheus) rules() map[string]string {
	p.t.Helper()
	groups, err := p.groups()
	if err != nil {
		p.t.Fatal(err)
	}
	all := map[string]string{}
	for _, g := range groups {
		for _, r := range g.Rules {
			all[r.Name] = r.Query
		}
	}
	return all
}

// has returns an error when expressions name a metric that was never scraped.
func (p *prometheus) has(expressions map[string]string) error {
	var known []string
	if err := p.get("label/__name__/values", nil, &known); err != nil {
		return err
	}
	var missing []error
	for where, expr := range expressions {
		names := metrics(expr)
		if len(names) == 0 {
			missing = append(missing, fmt.Errorf("%s: no metric is found in %s", where, expr))
		}
		for _, name := range names {
			if !slices.Contains(known, name) {
				missing = append(missing, fmt.Errorf("%s: the server has no metric %s", where, name))
			}
		}
	}
	return errors.Join(missing...)
}

var (
	// clauses are lists of labels, matchers and ranges; without them, calls show.
	clauses = regexp.MustCompile(`\{[^}]*\}|\[[^]]*\]|\b(by|on|ignoring|without) *\([^)]*\)|\b(unless|and|or)\b`)
	calls   = regexp.MustCompile(`\b[a-z_0-9]+\s*\(`)
	name    = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`)
)

// metrics are those that an expression names.
func metrics(expr string) []string {
	return name.FindAllString(calls.ReplaceAllString(clauses.ReplaceAllString(expr, " "), " "), -1)
}

// dashboard returns the expressions of a dashboard by title of the panel, with what
// Grafana puts in the place of variables.
func dashboard(t *testing.T, path string) map[string]string {
	t.Helper()
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Type, Query string }
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, path)), &d); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, p := range d.Panels {
		for i, target := range p.Targets {
			all[fmt.Sprint(p.Title, i)] = strings.NewReplacer("$instance", ".+", "$__rate_interval", "5m").Replace(target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		if query, ok := strings.CutPrefix(v.Query, "label_values("); ok {
			metric, _, _ := strings.Cut(query, ",")
			all["variable "+v.Name] = metric
		}
	}
	if len(all) < 10 {
		t.Fatalf("%s has %d expressions", path, len(all))
	}
	return all
}
