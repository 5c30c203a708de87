package podman

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

const (
	// maxHeader bounds the header of an answer, in bytes.
	maxHeader = 64 << 10
	// maxAnswer bounds an answer, and maxList one that lists things, of which podman
	// says a few thousand bytes each.
	maxAnswer = 1 << 20
	maxList   = 8 << 20
	// maxInspection is more: podman repeats what a score says, and escapes it.
	maxInspection = 4 << 20
	// maxRecord bounds one of a stream of reports, and maxStream a stream that ends.
	maxRecord = 1 << 20
	maxStream = 64 << 20
	// maxRefusal bounds the text of an error.
	maxRefusal = 2 << 10
	// maxItems bounds a list.
	maxItems = 16384
	// maxPath is what the kernel takes for a path.
	maxPath = 4096
)

// rawAnswer is an answer that is no JSON.
type rawAnswer []byte

// errProtocol: what answers is not podman, or not one that is in its right mind.
var errProtocol = errors.New("it does not answer as podman does")

// refusal is podman's word that it did not do what was asked.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// decode reads an answer of at most limit bytes into reply, which may be nil. An
// error is a *refusal, wraps errProtocol, or comes from the transport.
func decode(response *http.Response, limit int64, reply any) error {
	if limit == 0 {
		limit = maxAnswer
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return err
	case int64(len(data)) > limit:
		return fmt.Errorf("%w: an answer is longer than %d bytes", errProtocol, limit)
	case response.StatusCode/100 != 2 && response.StatusCode != http.StatusNotModified:
		return refused(response.StatusCode, data)
	case reply == nil:
		return nil
	}
	if raw, is := reply.(*rawAnswer); is {
		*raw = data
		return nil
	}
	if err := json.Unmarshal(data, reply); errors.Is(err, errProtocol) {
		return err
	} else if err != nil {
		return fmt.Errorf("%w: an answer is not the document expected", errProtocol)
	}
	return nil
}

func refused(status int, data []byte) error {
	var said struct{ Message string }
	_ = json.Unmarshal(data, &said) // the status counts, too
	if said.Message == "" {
		said.Message = fmt.Sprintf("podman answers with status %d", status)
	}
	return &refusal{status: status, text: clip(strings.TrimSpace(said.Message), maxRefusal)}
}

// clip shortens a text of podman's to at most limit bytes.
func clip(text string, limit int) string {
	if len(text) > limit {
		return strings.Clone(strings.ToValidUTF8(text[:limit], ""))
	}
	return text
}

// list is a list of at most maxItems: of short JSON come large structures.
type list[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *list[T]) UnmarshalJSON(data []byte) error {
	*l = nil
	dec := json.NewDecoder(bytes.NewReader(data))
	if start, err := dec.Token(); err != nil || start == nil {
		return err // null is an empty list
	} else if start != json.Delim('[') {
		return fmt.Errorf("%w: not a list", errProtocol)
	}
	for dec.More() {
		if len(*l) == maxItems {
			return fmt.Errorf("%w: a list has more than %d items", errProtocol, maxItems)
		}
		var item T
		if err := dec.Decode(&item); err != nil {
			return err
		}
		*l = append(*l, item)
	}
	return nil
}

// labels are those of an object's labels that the agent knows.
type labels map[string]string

// UnmarshalJSON implements json.Unmarshaler. It keeps nothing of the others, of
// which there may be as many as the answer has room for.
func (l *labels) UnmarshalJSON(data []byte) error {
	*l = labels{}
	dec := json.NewDecoder(bytes.NewReader(data))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return err // null, or something that has no labels
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		l.keep(key, value)
	}
	return nil
}

func (l *labels) keep(key any, value json.RawMessage) {
	name, _ := key.(string)
	most := maxLabel
	switch name {
	case container.LabelDeployment, container.LabelService, container.LabelHash, container.LabelAdopts, container.LabelNetwork:
	case container.LabelHealthCheck:
		most = maxHealth
	case container.LabelPreStop:
		most = container.MaxPreStop
	default:
		return
	}
	var text string
	if json.Unmarshal(value, &text) == nil && len(text) <= most {
		(*l)[name] = text
	}
}

// stream decodes reports that follow one another, each of at most maxRecord bytes.
type stream struct {
	from io.Reader
	left int
	dec  *json.Decoder
}

func newStream(from io.Reader) *stream {
	s := &stream{from: from}
	s.dec = json.NewDecoder(s)
	return s
}

// Read implements io.Reader for the decoder.
func (s *stream) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, fmt.Errorf("%w: a report is longer than %d bytes", errProtocol, maxRecord)
	}
	n, err := s.from.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// next decodes the next report. It returns io.EOF after the last one.
func (s *stream) next(report any) error {
	s.left = maxRecord
	return s.dec.Decode(report)
}
