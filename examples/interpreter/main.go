// Command fleet-note is an example of an interpreter: it runs scores of type NoteV0,
// {"text": "…"}, by keeping each text in a file of its own directory. It knows no
// account of the device but its own.
//
// systemd starts it for each connection of fleet-agent, see packaging/fleet-note.socket. It
// reads one request from its standard input and writes one answer.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/interpreter"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func main() {
	s := interpreter.Server{Interpreter: notes{dir: os.Getenv("STATE_DIRECTORY")}}
	if err := s.Answer(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fleet-note:", err)
		os.Exit(1)
	}
}

// notes implements interpreter.Interpreter. It keeps a file for each Deployment.
type notes struct{ dir string }

// note is what a file has.
type note struct {
	Text   string `json:"text"`
	Mark   string `json:"mark"`
	Halted bool   `json:"halted"`
}

// path is that of a Deployment's file: no name of a Deployment has a "_".
func (n notes) path(ref wire.DeploymentRef) string {
	return filepath.Join(n.dir, ref.Namespace+"_"+ref.Name)
}

func (n notes) read(ref wire.DeploymentRef) (was note, changed time.Time, err error) {
	info, err := os.Stat(n.path(ref))
	if err != nil {
		return was, changed, err
	}
	data, err := os.ReadFile(n.path(ref))
	if err == nil {
		err = json.Unmarshal(data, &was)
	}
	return was, info.ModTime(), err
}

func (n notes) write(ref wire.DeploymentRef, is note) error {
	data, err := json.Marshal(is)
	if err != nil {
		return err
	}
	return atomicfile.Write(n.path(ref), data, 0o600)
}

// Parse checks all that can be wrong with a score.
func (notes) Parse(_ string, data json.RawMessage) (needs []string, err error) {
	var score struct {
		Text *string `json:"text"`
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&score); err != nil {
		return nil, err
	}
	if score.Text == nil {
		return nil, errors.New("data.text: a text is needed")
	}
	return nil, nil
}

// wanted is what the file should have.
func wanted(w *interpreter.Wanted) (is note, err error) {
	is.Mark = w.Mark
	return is, json.Unmarshal(w.Data, &is)
}

// Observe says what there is.
func (n notes) Observe(_ context.Context, ref wire.DeploymentRef) (o interpreter.Observation, err error) {
	is, changed, err := n.read(ref)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	o = interpreter.Observation{Exists: true, Mark: is.Mark, Phase: wire.PhaseRunning, ChangedAt: changed}
	if is.Halted {
		o.Phase = wire.PhasePending
	}
	return o, err
}

// Plan has a step unless the file is what is wanted, with its mark.
func (n notes) Plan(_ context.Context, w *interpreter.Wanted) (p interpreter.Plan, err error) {
	want, err := wanted(w)
	if err != nil {
		return p, err
	}
	if is, _, err := n.read(w.Deployment); err == nil && is == want {
		return p, nil
	}
	p.Steps = []string{"writing the note"}
	return p, nil
}

// Apply replaces the file as a whole: a power cut leaves one or the other.
func (n notes) Apply(_ context.Context, w *interpreter.Wanted) error {
	want, err := wanted(w)
	if err != nil {
		return err
	}
	return n.write(w.Deployment, want)
}

// Remove is called again when the file is gone already.
func (n notes) Remove(_ context.Context, ref wire.DeploymentRef, _ wire.VolumeRetention) error {
	if err := os.Remove(n.path(ref)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Halt notes that the text should not be seen.
func (n notes) Halt(_ context.Context, ref wire.DeploymentRef) error {
	is, _, err := n.read(ref)
	if err != nil {
		return err
	}
	is.Halted = true
	return n.write(ref, is)
}

// List tells the names of files apart.
func (n notes) List(context.Context) (refs []wire.DeploymentRef, err error) {
	entries, err := os.ReadDir(n.dir)
	for _, e := range entries {
		namespace, name, ok := strings.Cut(e.Name(), "_")
		if ref := (wire.DeploymentRef{Namespace: namespace, Name: name}); ok && ref.Validate() == nil {
			refs = append(refs, ref)
		}
	}
	return refs, err
}

// Wipe removes all files.
func (n notes) Wipe(ctx context.Context) error {
	refs, err := n.List(ctx)
	for _, ref := range refs {
		err = errors.Join(err, n.Remove(ctx, ref, wire.DeleteVolumes))
	}
	return err
}
