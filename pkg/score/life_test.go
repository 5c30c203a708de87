package score_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/score"
)

const img = `"image":"localhost/hello:1"`

func TestLifeOfServices(t *testing.T) {
	for _, test := range []struct{ name, data, want string }{
		{"all of it", `{"initContainers":[{"name":"init",` + img + `,"timeoutSeconds":5}],"services":[
			{"name":"db",` + img + `,"lifecycle":{"postStart":{"exec":{"command":["x"]},"timeoutSeconds":3},"preStop":{"httpGet":{"port":80}}}},
			{"name":"app",` + img + `,"dependsOn":[{"service":"db","condition":"Healthy"},{"service":"once","condition":"Completed"}]},
			{"name":"once",` + img + `,"restart":"Never","dependsOn":[{"service":"db"}]},
			{"name":"job",` + img + `,"timeoutSeconds":60,"dependsOn":[{"service":"db"}],"schedule":{"cron":"*/5 * * * *","timeZone":"Europe/Zurich","concurrencyPolicy":"Replace","missedRuns":"RunOnce"}}]}`, ""},
		{
			"a cycle", `{"services":[{"name":"a",` + img + `,"dependsOn":[{"service":"b"}]},{"name":"b",` + img + `,"dependsOn":[{"service":"c"}]},{"name":"c",` + img + `,"dependsOn":[{"service":"b"}]}]}`,
			`data.services[1].dependsOn: a cycle: b -> c -> b`,
		},
		{"itself", `{"services":[{"name":"a",` + img + `,"dependsOn":[{"service":"a"}]}]}`, `data.services[0].dependsOn: a cycle: a -> a`},
		{
			"unknown dependency", `{"services":[{"name":"a",` + img + `,"dependsOn":[{"service":"x"},{}]}]}`,
			`data.services[0].dependsOn[0].service: "x" is no service of this Deployment; data.services[0].dependsOn[1].service: the name of a service is needed`,
		},
		{
			"unknown condition", `{"services":[{"name":"a",` + img + `},{"name":"b",` + img + `,"dependsOn":[{"service":"a","condition":"healthy"}]}]}`,
			`data.services[1].dependsOn[0].condition: "healthy" is unknown: use Started, Healthy or Completed`,
		},
		{
			"twice", `{"services":[{"name":"a",` + img + `},{"name":"b",` + img + `,"dependsOn":[{"service":"a"},{"service":"a"}]}]}`,
			`data.services[1].dependsOn[1].service: "a" is given twice`,
		},
		{
			"never completes", `{"services":[{"name":"a",` + img + `},{"name":"b",` + img + `,"dependsOn":[{"service":"a","condition":"Completed"}]}]}`,
			`data.services[1].dependsOn[0].condition: "a" is to run for ever and never completes: set its restart to OnFailure or Never`,
		},
		{
			"on a schedule", `{"services":[{"name":"a",` + img + `,"schedule":{"cron":"@daily"}},{"name":"b",` + img + `,"dependsOn":[{"service":"a"}]}]}`,
			`data.services[1].dependsOn[0].service: "a" runs on a schedule, and nothing can wait for it`,
		},
		{
			"init container as a service", `{"initContainers":[{"name":"a",` + img + `,"ports":[{"hostPort":1,"containerPort":1}],"restart":"Never"}],"services":[{"name":"a",` + img + `}]}`,
			`data.initContainers[0].ports: an init container has none; data.initContainers[0].restart: an init container has none; data.initContainers[0].name: "a" is used twice`,
		},
		{"timeout", `{"services":[{"name":"a",` + img + `,"timeoutSeconds":3}]}`, `data.services[0].timeoutSeconds: only init containers and services with a schedule have one`},
		{
			"empty hooks", `{"services":[{"name":"a",` + img + `,"lifecycle":{}},{"name":"b",` + img + `,"lifecycle":{"preStop":{"timeoutSeconds":3}}}]}`,
			`data.services[0].lifecycle: postStart or preStop is needed; data.services[1].lifecycle.preStop: exactly one of exec and httpGet is needed; ` +
				`data.services[1].lifecycle.preStop.timeoutSeconds: it has terminationGracePeriodSeconds of the service`,
		},
		{
			"long hook", `{"services":[{"name":"a",` + img + `,"lifecycle":{"preStop":{"exec":{"command":["` + strings.Repeat("x", 5000) + `"]}}}}]}`,
			`data.services[0].lifecycle.preStop: its words have 5000 bytes, at most 4096 are allowed: put a script into the image`,
		},
		{
			"schedule", `{"services":[{"name":"a",` + img + `,"restart":"Always","schedule":{"cron":"0 0 31 2 *","concurrencyPolicy":"Allow","missedRuns":"x"}}]}`,
			`data.services[0].schedule.cron: "0 0 31 2 *" never comes; data.services[0].schedule.concurrencyPolicy: "Allow" is unknown: use Forbid or Replace; ` +
				`data.services[0].schedule.missedRuns: "x" is unknown: use Skip or RunOnce; ` +
				`data.services[0].restart: a service with a schedule does its job and ends: use Never, its default, or OnFailure`,
		},
		{"fields", scheduled("1 2 3 4"), `data.services[0].schedule.cron: "1 2 3 4" is not minute, hour, day of the month, month and day of the week, such as "30 3 * * 1-5", or @daily`},
		{"a prefix that the parser cannot bear", scheduled("TZ=0"), `is not minute, hour`},
		{"an interval", scheduled("@every 1h"), `is not minute, hour`},
		{"out of range", scheduled("61 * * * *"), `data.services[0].schedule.cron: end of range (61) above maximum (59): 61`},
		{"zone", `{"services":[{"name":"a",` + img + `,"schedule":{"cron":"@daily","timeZone":"Europe/Zurch"}}]}`, `data.services[0].schedule.timeZone: "Europe/Zurch" is no time zone such as Europe/Zurich`},
		{"zone of the device", `{"services":[{"name":"a",` + img + `,"schedule":{"cron":"@daily","timeZone":"Local"}}]}`, `"Local" is no time zone`},
		{"zone outside", `{"services":[{"name":"a",` + img + `,"schedule":{"cron":"@daily","timeZone":"../../etc/passwd"}}]}`, `is no time zone`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := score.ParsePodmanV0([]byte(test.data))
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (!errors.Is(err, score.ErrInvalid) || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error is\n%v\nwant\n%s", err, test.want)
			}
		})
	}
}

func scheduled(cron string) string {
	return `{"services":[{"name":"a",` + img + `,"schedule":{"cron":"` + cron + `"}}]}`
}

// TestInitContainersAreBounded: what an init container needs counts as that of the score.
func TestInitContainersAreBounded(t *testing.T) {
	p, err := score.ParsePodmanV0([]byte(`{"initContainers":[{"name":"i",` + img + `,"env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}],` +
		`"volumes":[{"hostPath":"/srv/x","mountPath":"/x"}]}],"services":[{"name":"a",` + img + `}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if p.Privilege() != score.Privileged || len(p.Secrets()) != 1 {
		t.Errorf("it needs privilege %s and the Secrets %q", p.Privilege(), p.Secrets())
	}
}

// TestWhatReplacesAContainer: when a service starts is no part of its container, and what is
// done at its end is.
func TestWhatReplacesAContainer(t *testing.T) {
	plain := score.Service{Name: "a", Image: "localhost/a:1"}
	seconds := 3
	same, other := plain, plain
	same.DependsOn, same.Schedule, same.TimeoutSeconds = []score.Dependency{{Service: "b"}}, &score.Schedule{Cron: "@daily"}, &seconds
	other.Lifecycle = &score.Lifecycle{PreStop: &score.Hook{Exec: &score.ExecProbe{Command: []string{"x"}}}}
	if plain.Hash() != same.Hash() || plain.Hash() == other.Hash() {
		t.Errorf("hashes are %s, %s and %s", plain.Hash(), same.Hash(), other.Hash())
	}
	p := score.PodmanV0{Services: []score.Service{plain}}
	if p.InitHash() != "" {
		t.Error("no init container has a hash")
	}
}

// TestTimesOfSchedules: a daily run at an hour that there is twice is one, an hourly one is
// two, and none is in an hour that there is not.
func TestTimesOfSchedules(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Zurich")
	if err != nil {
		t.Fatal(err)
	}
	autumn, spring := time.Date(2026, 10, 25, 0, 0, 0, 0, zone), time.Date(2026, 3, 28, 12, 0, 0, 0, zone)
	for _, test := range []struct {
		cron  string
		after time.Time
		want  string
	}{
		{"30 2 * * *", autumn, "25T00:30 26T01:30 27T01:30"},
		{"30 * * * *", autumn, "24T22:30 24T23:30 25T00:30"},
		{"30 * * * *", autumn.Add(149 * time.Minute), "25T00:30 25T01:30 25T02:30"},
		{"30 2 * * *", spring, "30T00:30 31T00:30 01T00:30"},
		{"@daily", autumn, "25T23:00 26T23:00 27T23:00"},
	} {
		s := score.Schedule{Cron: test.cron, TimeZone: "Europe/Zurich"}
		times, err := s.Times()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for at := test.after; len(got) < 3; {
			at = times.Next(at)
			got = append(got, at.UTC().Format("02T15:04"))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s runs at %v, want %s", test.cron, got, test.want)
		}
	}
}
