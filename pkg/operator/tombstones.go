package operator

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"fleet.nationtech.io/fleet/pkg/tombstone"
)

// The Secrets that hold the list of revoked keys: one, by the name of revokedName, says which
// generation counts, and those of a generation have the entries, in order.
const (
	revokedName   = "fleet-revoked-keys"
	generationKey = "generation"
	entriesKey    = "keys.jsonl"

	// maxChunk is how many bytes a Secret gets: a Secret may have 1 MiB.
	maxChunk = 512 << 10
	// writeTimeout bounds a write of the list: a device is refused, or let in, with it.
	writeTimeout = 20 * time.Second
)

// journal is a tombstone.Journal in Secrets. Only the leader has one.
type journal struct {
	secrets typedcorev1.SecretInterface

	generation int
	// last is the Secret that entries are added to, and number its place in the generation.
	last   *corev1.Secret
	number int
	// chunk is maxChunk, but in tests.
	chunk int
}

// openJournal opens the list, and creates it at a first start. A Secret gets chunk bytes.
func openJournal(ctx context.Context, secrets typedcorev1.SecretInterface, chunk int) (*tombstone.List, error) {
	s, err := secrets.Get(ctx, revokedName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: revokedName}, Data: map[string][]byte{generationKey: []byte("1")}}
		if s, err = secrets.Create(ctx, s, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) { // another was faster
			s, err = secrets.Get(ctx, revokedName, metav1.GetOptions{})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the list of revoked keys: %w", err)
	}
	generation, err := strconv.Atoi(string(s.Data[generationKey]))
	if err != nil || generation < 1 {
		return nil, fmt.Errorf("the Secret %s is damaged: restore it from a backup", revokedName)
	}
	return tombstone.New(&journal{secrets: secrets, generation: generation, chunk: chunk})
}

func chunkName(generation, number int) string {
	return fmt.Sprintf("%s-%d-%d", revokedName, generation, number)
}

// Close implements tombstone.Journal.
func (*journal) Close() error { return nil }

// Read implements tombstone.Journal.
func (j *journal) Read(each func(tombstone.Entry)) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	j.last, j.number = nil, 0
	for number := 0; ; number++ {
		s, err := j.secrets.Get(ctx, chunkName(j.generation, number), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := read(s, each); err != nil {
			return err
		}
		j.last, j.number = s, number
	}
}

func read(s *corev1.Secret, each func(tombstone.Entry)) error {
	for line := range bytes.Lines(s.Data[entriesKey]) {
		e, err := tombstone.ParseLine(line)
		if err != nil {
			return fmt.Errorf("the Secret %s is %w: restore it from a backup", s.Name, err)
		}
		each(e)
	}
	return nil
}

// Append implements tombstone.Journal.
func (j *journal) Append(e tombstone.Entry) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	line, err := e.Line()
	if err != nil {
		return err
	}
	if j.last == nil || len(j.last.Data[entriesKey])+len(line) > j.chunk {
		return j.add(ctx, line)
	}
	next := j.last.DeepCopy()
	next.Data[entriesKey] = append(next.Data[entriesKey], line...)
	written, err := j.secrets.Update(ctx, next, metav1.UpdateOptions{})
	if err == nil {
		j.last = written
	}
	// After a conflict, which only another leader makes, this one has lost its Lease.
	return err
}

// add begins another Secret of the generation.
func (j *journal) add(ctx context.Context, data []byte) error {
	number := 0
	if j.last != nil {
		number = j.number + 1
	}
	s, err := j.secrets.Create(ctx, chunk(j.generation, number, data), metav1.CreateOptions{})
	if err == nil {
		j.last, j.number = s, number
	}
	return err
}

func chunk(generation, number int, data []byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: chunkName(generation, number)}, Data: map[string][]byte{entriesKey: data}}
}

// Replace implements tombstone.Journal. The generation before counts until all of the next one
// is there.
func (j *journal) Replace(list []tombstone.Entry) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	chunks, err := split(list, j.chunk)
	if err != nil {
		return err
	}
	next := j.generation + 1
	if err := j.remove(ctx, next); err != nil { // what an attempt has left
		return err
	}
	for number, data := range chunks {
		if _, err := j.secrets.Create(ctx, chunk(next, number, data), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	s, err := j.secrets.Get(ctx, revokedName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	s.Data = map[string][]byte{generationKey: []byte(strconv.Itoa(next))}
	if _, err := j.secrets.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		return err
	}
	before := j.generation
	j.generation, j.last, j.number = next, nil, 0
	return j.remove(ctx, before)
}

// split divides entries among Secrets.
func split(list []tombstone.Entry, most int) (chunks [][]byte, err error) {
	var data []byte
	for _, e := range list {
		line, err := e.Line()
		if err != nil {
			return nil, err
		}
		if len(data) > 0 && len(data)+len(line) > most {
			chunks, data = append(chunks, data), nil
		}
		data = append(data, line...)
	}
	if len(data) > 0 {
		chunks = append(chunks, data)
	}
	return chunks, nil
}

// remove deletes a generation.
func (j *journal) remove(ctx context.Context, generation int) error {
	for number := 0; ; number++ {
		err := j.secrets.Delete(ctx, chunkName(generation, number), metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
