package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/yaml"
)

// Bounds of values (fields, and elements of lists) in the body of one request
// and in one object with its managedFields. Who owns which field is computed
// anew with each write, which takes a third of a millisecond each: with 10,000
// of them, in 96 KB, a write takes seconds. Each has two more values in the
// managedFields of who owns it. Definitions are long by nature, and
// have bounds of their own once they are read.
const (
	maxValues, maxStoredValues = 4096, 16384
	maxDefinitionValues        = 32 << 10
	definitionsResource        = "customresourcedefinitions"

	// bodyTime is how long a client may take to send a body.
	bodyTime = 30 * time.Second

	protobufType  = "application/vnd.kubernetes.protobuf"
	yamlType      = "application/yaml"
	applyYAMLType = "application/apply-patch+yaml"
)

// bodies refuses requests whose body has too many values. That has to be done
// before anything works on them.
type bodies struct {
	decoder  runtime.Decoder
	refusals *prometheus.CounterVec
}

// check reads the body of a write and reports whether it may go on; if not it has
// answered.
func (b *bodies) check(w http.ResponseWriter, r *http.Request, info *request.RequestInfo) (ok bool) {
	// Not every writer can bound the time; one that cannot is bounded by its server.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if err != nil {
		return false // the client is gone, or too slow
	}
	most := maxValues
	if info.Resource == definitionsResource {
		most = maxDefinitionValues
	}
	if len(data) > maxBody {
		b.refuse(w, fmt.Sprintf("the request has more than the %d bytes that an object may have", maxBody))
		return false
	}
	if n := b.values(r.Header.Get("Content-Type"), data); n > most {
		b.refuse(w, fmt.Sprintf("the request has %d fields and elements, at most %d are allowed", n, most))
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	return true
}

// values counts what is in a body. What cannot be read has none: it will be
// refused for that.
func (b *bodies) values(contentType string, data []byte) int {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		media = ""
	}
	switch media {
	case yamlType, applyYAMLType:
		if converted, err := yaml.YAMLToJSON(data); err == nil {
			return countValues(converted)
		}
		return 0
	case protobufType:
		if len(data) <= maxValues {
			return 0 // each has a byte at least
		}
		obj, err := runtime.Decode(b.decoder, data)
		if err != nil {
			return 0
		}
		if converted, err := json.Marshal(obj); err == nil {
			return countValues(converted)
		}
		return 0
	}
	return countValues(data)
}

// countValues counts the fields of objects and the elements of lists in JSON.
func countValues(data []byte) int {
	n, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '{' || c == '['):
			n++
		}
	}
	return n
}

func (b *bodies) refuse(w http.ResponseWriter, message string) {
	b.refusals.WithLabelValues("size").Inc()
	writeStatus(w, &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusRequestEntityTooLarge, Reason: metav1.StatusReasonRequestEntityTooLarge, Message: message,
	})
}

const objectSizeName = "ObjectSize"

// objectSize refuses what has grown too large by many small changes. Larger
// objects of before may be changed as long as they do not grow.
type objectSize struct{ *admission.Handler }

// Validate implements admission.ValidationInterface.
func (objectSize) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Resource == definitionsResource {
		return nil
	}
	present, err := json.Marshal(a.GetObject())
	if err != nil {
		return err
	}
	n := countValues(present)
	if n <= maxStoredValues && len(present) <= maxBody {
		return nil
	}
	if old := a.GetOldObject(); old != nil {
		if before, err := json.Marshal(old); err == nil && n <= countValues(before) && len(present) <= len(before) {
			return nil
		}
	}
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the object would have %d bytes and %d fields and elements, with those in managedFields; at most %d and %d are allowed", len(present), n, maxBody, maxStoredValues))
}

func newObjectSize(io.Reader) (admission.Interface, error) {
	return objectSize{admission.NewHandler(admission.Create, admission.Update)}, nil
}
