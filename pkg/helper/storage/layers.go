package storage

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

const (
	// maxIndex bounds an index in bytes, maxEntry what podman wrote of one file.
	maxIndex, maxEntry = 64 << 20, 1 << 20
)

// layer and image are what the indexes say.
type layer struct {
	ID, Parent string
}

type image struct {
	ID       string
	Layer    string
	BigSizes map[string]int64 `json:"big-data-sizes"`
}

// indexes reads what there is. A file that is empty although there are things is damaged.
func (l *looker) indexes() (layers []layer, images []image) {
	l.index("overlay-layers/layers.json", "overlay", &layers)
	l.index("overlay-images/images.json", "overlay-images", &images)
	l.index("overlay-containers/containers.json", "overlay-containers", new([]json.RawMessage))
	return layers, images
}

// index reads one, which is about the directories in of.
func (l *looker) index(name, of string, into any) {
	file, err := l.dir.Open(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.note(Index, name, "it cannot be read: %v", err)
		}
		return
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxIndex))
	switch {
	case err != nil:
		l.note(Index, name, "it cannot be read: %v", err)
	case len(data) == 0 && l.directories(of) > 0:
		l.note(Index, name, "it is empty")
	case len(data) > 0 && json.Unmarshal(data, into) != nil:
		l.note(Index, name, "it is not what podman writes")
	}
}

// idDigits is the length of the ids of layers, images and containers.
const idDigits = 64

// directories counts those that are named after ids.
func (l *looker) directories(of string) (n int) {
	dir, err := l.dir.Open(of)
	if err != nil {
		return 0
	}
	defer dir.Close()
	entries, _ := dir.ReadDir(-1)
	for _, e := range entries {
		if e.IsDir() && len(e.Name()) == idDigits {
			n++
		}
	}
	return n
}

// images looks at each layer of each image once.
func (l *looker) images(layers []layer, images []image) {
	parents := map[string]string{}
	for _, layer := range layers {
		parents[layer.ID] = layer.Parent
	}
	verdicts := map[string]string{}
	for _, image := range images {
		if why := l.manifest(&image); why != "" {
			l.note(Image, image.ID, "%s", why)
			continue
		}
		for id, depth := image.Layer, 0; id != "" && depth < len(layers)+1; id, depth = parents[id], depth+1 {
			why, looked := verdicts[id]
			if !looked {
				_, known := parents[id]
				why = l.layer(id, known)
				verdicts[id] = why
			}
			if why != "" {
				l.note(Image, image.ID, "layer %.12s: %s", id, why)
				break
			}
		}
	}
}

// manifest says what is wrong with what describes an image.
func (l *looker) manifest(i *image) string {
	const name = "manifest"
	want, there := i.BigSizes[name]
	if !there || want == 0 || !validID(i.ID) {
		return ""
	}
	return sizeOf(l.dir, path.Join("overlay-images", i.ID, name), want)
}

func validID(id string) bool {
	return len(id) == idDigits && strings.Trim(id, "0123456789abcdef") == ""
}

// layer says what is wrong with a layer, or nothing.
func (l *looker) layer(id string, known bool) string {
	if !validID(id) || !known {
		return "it is not there"
	}
	link, err := l.dir.Stat(path.Join("overlay", id, "link"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && link.Size() == 0 {
		return "its link is missing"
	}
	diff, err := l.dir.OpenRoot(path.Join("overlay", id, "diff"))
	if errors.Is(err, fs.ErrNotExist) {
		return "it is not there"
	}
	if err != nil {
		return ""
	}
	defer diff.Close()
	list, err := l.dir.Open(path.Join("overlay-layers", id+".tar-split.gz"))
	if err != nil {
		return "" // podman keeps none of some kinds of layer
	}
	defer list.Close()
	return compare(list, diff)
}

// errFiles: the list of a layer's files is not whole.
var errFiles = errors.New("the list of its files is cut off")

// compare compares the files of a layer with the list that podman made when it unpacked it.
func compare(list *os.File, diff *os.Root) string {
	unzipped, err := gzip.NewReader(list)
	if err != nil {
		return errFiles.Error()
	}
	defer unzipped.Close()
	lines := bufio.NewScanner(unzipped)
	lines.Buffer(nil, maxEntry)
	for lines.Scan() {
		// Files have type 1; what is between them in the archive has 2.
		var entry struct {
			Type int
			Name string
			Size int64
		}
		if json.Unmarshal(lines.Bytes(), &entry) != nil {
			return errFiles.Error()
		}
		if entry.Type != 1 || entry.Size == 0 || entry.Name == "" || slices.Contains(strings.Split(entry.Name, "/"), "..") {
			continue
		}
		if why := sizeOf(diff, path.Clean(strings.TrimLeft(entry.Name, "/")), entry.Size); why != "" {
			return why
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return errFiles.Error()
	}
	return ""
}

// sizeOf says whether a file is not there or has not its size. What may not be seen, as in
// a directory of another account of the container, counts as whole.
func sizeOf(dir *os.Root, name string, want int64) string {
	info, err := dir.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("%.160q is missing", name)
	case err == nil && info.Mode().IsRegular() && info.Size() != want:
		return fmt.Sprintf("%.160q has %d bytes of %d", name, info.Size(), want)
	}
	return ""
}
