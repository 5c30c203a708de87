package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

// Podman's secrets, below the storage: secretsFile says which there are, contentsFile what is
// in them. Podman writes one after the other, and waits for the disk with neither: a power cut
// leaves either of them empty or of before. Then podman can neither make nor remove a secret,
// or starts nothing that uses one that it lists.
const (
	secretsDir   = "secrets"
	secretsFile  = secretsDir + "/secrets.json"
	contentsDir  = secretsDir + "/filedriver"
	contentsFile = contentsDir + "/secretsdata.json"
	secretsLock  = secretsDir + "/secrets.lock"
	// maxSecrets bounds either file in bytes.
	maxSecrets = 16 << 20
)

// secretsMode is the mode that podman gives both files.
const secretsMode = 0o600

// errSecretsBusy: podman is just writing secrets.
var errSecretsBusy = errors.New("podman uses its secrets")

// secrets is what there is of them.
type secrets struct {
	list     secretList
	contents map[string][]byte
}

// secretList is what podman writes into secretsFile.
type secretList struct {
	Secrets  map[string]json.RawMessage `json:"secrets"`
	NameToID map[string]string          `json:"nameToID"`
	IDToName map[string]string          `json:"idToName"`
}

func newSecrets() secrets {
	return secrets{secretList{map[string]json.RawMessage{}, map[string]string{}, map[string]string{}}, map[string][]byte{}}
}

// secrets looks at those that there are, unless podman does something with them.
func (l *looker) secrets() {
	unlock, err := lockSecrets(l.dir)
	if err != nil {
		return
	}
	defer unlock()
	if _, file, why, err := soundSecrets(l.dir); err == nil && why != "" {
		l.note(Secrets, file, "%s", why)
	}
}

// mendSecrets writes what is whole of the secrets, and says what it did; empty for nothing.
// What was lost the agent makes anew.
func mendSecrets(root string) (done string, err error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return "", fmt.Errorf("repairing podman's secrets: %w", err)
	}
	defer dir.Close()
	unlock, err := lockSecrets(dir)
	if err != nil {
		return "", fmt.Errorf("repairing podman's secrets: %w", err)
	}
	defer unlock()
	sound, _, why, err := soundSecrets(dir)
	if err != nil {
		return "", fmt.Errorf("repairing podman's secrets: %w", err)
	}
	if why == "" {
		return "", nil
	}
	// The contents first: what has no name harms nobody.
	if err := writeSecrets(root, contentsFile, sound.contents); err != nil {
		return "", err
	}
	if err := writeSecrets(root, secretsFile, sound.list); err != nil {
		return "", err
	}
	return "podman's secrets that were damaged were removed: they are made anew", nil
}

func writeSecrets(root, name string, what any) error {
	data, err := json.Marshal(what)
	if err == nil {
		err = os.MkdirAll(filepath.Join(root, contentsDir), 0o700)
	}
	if err == nil {
		err = atomicfile.Write(filepath.Join(root, name), data, secretsMode)
	}
	if err != nil {
		return fmt.Errorf("repairing podman's secrets: %w", err)
	}
	return nil
}

// lockSecrets takes the lock that podman takes for everything that it does with secrets.
func lockSecrets(dir *os.Root) (unlock func(), err error) {
	file, err := dir.OpenFile(secretsLock, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		file.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			err = errSecretsBusy
		}
		return nil, err
	}
	return func() { file.Close() }, nil
}

// soundSecrets returns what is whole of the secrets, and why the rest, which is in file, is
// not; empty when all is. An error says that nobody knows: then nothing is to be removed.
func soundSecrets(dir *os.Root) (sound secrets, file, why string, err error) {
	sound = newSecrets()
	var found secrets
	// Podman would write into a map that is not there, and end.
	there, list, err := readSecrets(dir, secretsFile, &found.list)
	if err != nil {
		return sound, "", "", err
	}
	if l := &found.list; list == "" && there && (l.Secrets == nil || l.NameToID == nil || l.IDToName == nil) {
		list = notPodmans
	}
	there, contents, err := readSecrets(dir, contentsFile, &found.contents)
	if err != nil {
		return sound, "", "", err
	}
	if contents == "" && there && found.contents == nil {
		contents = notPodmans
	}
	switch {
	case list != "":
		return sound, secretsFile, list, nil
	case contents != "":
		file, why, found.contents = contentsFile, contents, nil
	}
	for id, about := range found.list.Secrets {
		content, there := found.contents[id]
		if !there && isHere(about) {
			if why == "" {
				file, why = contentsFile, fmt.Sprintf("the content of secret %.80q is missing", found.list.IDToName[id])
			}
			continue
		}
		sound.list.Secrets[id] = about
		if there {
			sound.contents[id] = content
		}
	}
	if why == "" && len(sound.contents) < len(found.contents) {
		file, why = secretsFile, "secrets are missing whose content is there"
	}
	named := func(id string) bool { _, there := sound.list.Secrets[id]; return there }
	maps.Copy(sound.list.IDToName, found.list.IDToName)
	maps.DeleteFunc(sound.list.IDToName, func(id, _ string) bool { return !named(id) })
	maps.Copy(sound.list.NameToID, found.list.NameToID)
	maps.DeleteFunc(sound.list.NameToID, func(_, id string) bool { return !named(id) })
	if why == "" && (len(sound.list.IDToName) < len(found.list.IDToName) || len(sound.list.NameToID) < len(found.list.NameToID)) {
		file, why = secretsFile, "it names secrets that are not there"
	}
	return sound, file, why, nil
}

const notPodmans = "it is not what podman writes"

// isHere reports whether the content of a secret is in contentsFile, as far as that can be
// told: podman may be configured to keep it elsewhere.
func isHere(about json.RawMessage) bool {
	var s struct {
		Driver        string            `json:"driver"`
		DriverOptions map[string]string `json:"driverOptions"`
	}
	if json.Unmarshal(about, &s) != nil {
		return true
	}
	at := s.DriverOptions["path"]
	return s.Driver == "file" && (at == "" || strings.HasSuffix(path.Clean(at), "/"+contentsDir))
}

// readSecrets reads a file, if it is there, and says what is wrong with it. One that cannot be
// read now, or not whole, is an error: that says nothing of what is in it.
func readSecrets(dir *os.Root, name string, into any) (there bool, why string, err error) {
	file, err := dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, "", nil
	}
	if err != nil {
		return false, "", err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSecrets+1))
	switch {
	case err != nil:
		return false, "", err
	case len(data) > maxSecrets:
		return false, "", fmt.Errorf("%s has more than %d bytes", name, maxSecrets)
	case len(data) == 0:
		return true, "it is empty", nil
	case json.Unmarshal(data, into) != nil:
		return true, notPodmans, nil
	}
	return true, "", nil
}
