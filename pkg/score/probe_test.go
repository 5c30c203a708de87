package score_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/score"
)

func TestProbeErrors(t *testing.T) {
	t.Parallel()
	const at = "data.services[0].readinessProbe"
	const one = ": exactly one of exec, httpGet, tcpSocket and grpc is needed"
	long := strings.Repeat("x", 2049)
	for probe, want := range map[string]string{
		`{}`: at + one,
		`{"tcpSocket":{"port":1},"exec":{"command":["a"]}}`: at + one,
		`{"exec":{}}`:                                                           at + ".exec.command: a command is needed",
		`{"exec":{"command":[""]}}`:                                             at + ".exec.command: a command is needed",
		`{"exec":{"command":["a\u0000"]}}`:                                      at + ".exec.command: contains a NUL byte",
		`{"exec":{"command":"true"}}`:                                           at + ".exec.command: is a string, a list is needed",
		`{"httpGet":{}}`:                                                        at + ".httpGet.port: 0 is not within 1 to 65535",
		`{"httpGet":{"port":"http"}}`:                                           at + ".httpGet.port: is a string, a whole number is needed",
		`{"httpGet":{"port":80,"scheme":"https"}}`:                              at + `.httpGet.scheme: "https" is unknown: use HTTP or HTTPS`,
		`{"httpGet":{"port":80,"path":"healthz"}}`:                              at + `.httpGet.path: "healthz" does not begin with a slash`,
		`{"httpGet":{"port":80,"path":"/a\r\nb"}}`:                              at + ".httpGet.path: contains a control character",
		`{"httpGet":{"port":80,"path":"/` + long + `"}}`:                        at + ".httpGet.path: is longer than 2048 bytes",
		`{"httpGet":{"port":80,"host":"a"}}`:                                    at + ".httpGet.host: unknown field; known here: path, port, scheme, httpHeaders",
		`{"httpGet":{"port":80,"httpHeaders":[{"name":"a b","value":""}]}}`:     at + `.httpGet.httpHeaders[0].name: "a b" is not the name of a header`,
		`{"httpGet":{"port":80,"httpHeaders":[{"name":"a","value":"b\r\nc"}]}}`: at + ".httpGet.httpHeaders[0].value: contains a control character",
		`{"tcpSocket":{"port":65536}}`:                                          at + ".tcpSocket.port: 65536 is not within 1 to 65535",
		`{"grpc":{"port":-1}}`:                                                  at + ".grpc.port: -1 is not within 1 to 65535",
		`{"grpc":{"port":1,"service":"\u001b"}}`:                                at + ".grpc.service: contains a control character",
		`{"tcpSocket":{"port":1},"initialDelaySeconds":-1}`:                     at + ".initialDelaySeconds: -1 is not within 0 to 86400",
		`{"tcpSocket":{"port":1},"periodSeconds":0}`:                            at + ".periodSeconds: 0 is not within 1 to 86400",
		`{"tcpSocket":{"port":1},"timeoutSeconds":0}`:                           at + ".timeoutSeconds: 0 is not within 1 to 3600",
		`{"tcpSocket":{"port":1},"successThreshold":0}`:                         at + ".successThreshold: 0 is not within 1 to 1000",
		`{"tcpSocket":{"port":1},"failureThreshold":1001}`:                      at + ".failureThreshold: 1001 is not within 1 to 1000",
		`{"tcpSocket":{"port":1},"terminationGracePeriodSeconds":1}`:            at + ".terminationGracePeriodSeconds: unknown field; known here: exec, httpGet, tcpSocket, grpc, initialDelaySeconds, periodSeconds, timeoutSeconds, successThreshold, failureThreshold",
	} {
		_, err := score.ParsePodmanV0([]byte(document(`"readinessProbe":` + probe)))
		if err == nil || err.Error() != want {
			t.Errorf("%s:\ngot  %v\nwant %s", probe, err, want)
		}
	}
	for _, kind := range []string{"startupProbe", "livenessProbe"} {
		_, err := score.ParsePodmanV0([]byte(document(fmt.Sprintf(`%q:{"tcpSocket":{"port":1},"successThreshold":2}`, kind))))
		if want := "data.services[0]." + kind + ".successThreshold: 2 is not 1: only a readinessProbe may ask for more"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestProbeDefaultsAreThoseOfKubernetes(t *testing.T) {
	t.Parallel()
	type settings struct {
		delay, period, timeout time.Duration
		successes, failures    int
	}
	for probe, want := range map[string]settings{
		`{"tcpSocket":{"port":1}}`: {0, 10 * time.Second, time.Second, 1, 3},
		`{"tcpSocket":{"port":1},"initialDelaySeconds":7,"periodSeconds":6,"timeoutSeconds":5,"successThreshold":4,"failureThreshold":2}`: {7 * time.Second, 6 * time.Second, 5 * time.Second, 4, 2},
	} {
		p, err := score.ParsePodmanV0([]byte(document(`"readinessProbe":` + probe)))
		if err != nil {
			t.Fatal(err)
		}
		r := p.Services[0].ReadinessProbe
		if got := (settings{r.Delay(), r.Period(), r.Timeout(), r.Successes(), r.Failures()}); got != want {
			t.Errorf("%s: got %+v, want %+v", probe, got, want)
		}
	}
}
