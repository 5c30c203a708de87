package interpreter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/interpreter"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plain has one Deployment, and fails where it is told to.
type plain struct{ interpreter.Interpreter }

func (plain) Parse(string, json.RawMessage) ([]string, error) { return nil, errors.New("no text") }

func (plain) List(context.Context) ([]wire.DeploymentRef, error) {
	return []wire.DeploymentRef{{Namespace: "shop", Name: "web"}}, nil
}

func (plain) Halt(context.Context, wire.DeploymentRef) error { return errors.New("the disk is full") }

func TestAnswers(t *testing.T) {
	t.Parallel()
	s := interpreter.Server{Interpreter: plain{}}
	for request, want := range map[string]string{
		`{"version":1,"method":"list"}` + "\n":                                         `{"deployments":[{"namespace":"shop","name":"web"}]}`,
		`{"version":1,"method":"list"}`:                                                `{"deployments":[{"namespace":"shop","name":"web"}]}`,
		`{"version":1,"method":"halt","deployment":{"namespace":"shop","name":"web"}}`: `{"error":{"code":"failed","message":"the disk is full"}}`,
		`{"version":1,"method":"parse","type":"NoteV0","data":{}}`:                     `{"error":{"code":"invalid","message":"no text"}}`,
		`{"version":2,"method":"list"}`:                                                `{"error":{"code":"version","message":"version 2 of the protocol is unknown: this interpreter speaks version 1"}}`,
		`{"version":1,"method":"dance"}`:                                               `{"error":{"code":"failed","message":"method \"dance\" is unknown"}}`,
	} {
		var out bytes.Buffer
		if err := s.Answer(t.Context(), strings.NewReader(request), &out); err != nil || out.String() != want+"\n" {
			t.Errorf("%s: %s, %v", request, out.String(), err)
		}
	}
	for _, request := range []string{"", "{", "[]\n", strings.Repeat(" ", interpreter.MaxRequest+1)} {
		var out bytes.Buffer
		if err := s.Answer(t.Context(), strings.NewReader(request), &out); err == nil || out.Len() > 0 {
			t.Errorf("%.10q: %s", request, out.String())
		}
	}
}

// Whoever may not ask is not answered.
func TestStrangersAreNotAnswered(t *testing.T) {
	t.Parallel()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := interpreter.Server{Interpreter: plain{}, Admit: interpreter.PeerIs(os.Getuid() + 1), Log: slog.New(slog.DiscardHandler)}
	go func() { done <- s.Serve(ctx, l) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(`{"version":1,"method":"list"}` + "\n"))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
