package helper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

// Networks are the networks of podman's that agents made.
type Networks struct {
	// Dir is where podman has a file for each network; empty for none.
	Dir string
	// Label is the one that those of agents have.
	Label string
}

const (
	// bridgeDriver is what podman calls the driver of such networks, isolateOption the option
	// that keeps them apart.
	bridgeDriver, isolateOption = "bridge", "isolate"
	// maxNetworks bounds the files that are looked at, maxNetworkFile each of them in bytes.
	maxNetworks, maxNetworkFile = 4096, 64 << 10
)

// Isolate isolates the networks that agents made before they did so by themselves: containers
// of other networks reached those in them by their addresses. It counts for a network from the
// next start of a container in it. Podman has no command for this, and makes no network anew
// while there are containers in it. It returns the names of those that it changed.
func (n Networks) Isolate() (names []string, err error) {
	if n.Dir == "" {
		return nil, nil
	}
	dir, err := os.Open(n.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // podman never had one
	}
	if err != nil {
		return nil, fmt.Errorf("isolating networks: %w", err)
	}
	defer dir.Close()
	files, err := dir.Readdirnames(maxNetworks)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("isolating networks: %w", err)
	}
	err = nil
	for _, file := range files {
		name, found := strings.CutSuffix(file, ".json")
		if !found {
			continue
		}
		changed, failed := n.isolate(filepath.Join(n.Dir, file))
		if err = errors.Join(err, failed); changed {
			names = append(names, name)
		}
	}
	return names, err
}

// isolate isolates the network of a file. A file that podman cannot read is podman's to report.
func (n Networks) isolate(path string) (changed bool, err error) {
	data, err := readNetwork(path)
	if err != nil {
		return false, fmt.Errorf("isolating a network: %w", err)
	}
	var known struct {
		Driver  string            `json:"driver"`
		Labels  map[string]string `json:"labels"`
		Options map[string]string `json:"options"`
	}
	all := map[string]json.RawMessage{}
	if json.Unmarshal(data, &known) != nil || json.Unmarshal(data, &all) != nil {
		return false, nil
	}
	_, ours := known.Labels[n.Label]
	if _, decided := known.Options[isolateOption]; !ours || decided || known.Driver != bridgeDriver {
		return false, nil
	}
	options := map[string]string{isolateOption: "true"}
	maps.Copy(options, known.Options)
	if all["options"], err = json.Marshal(options); err != nil {
		return false, err
	}
	if data, err = json.MarshalIndent(all, "", "     "); err != nil {
		return false, err
	}
	return true, atomicfile.Write(path, data, 0o644)
}

func readNetwork(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxNetworkFile)) // the rest is missing, so that it cannot be read
}
