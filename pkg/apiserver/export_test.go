package apiserver

import (
	"context"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime/serializer"

	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
	"fleet.nationtech.io/fleet/pkg/refusals"
)

// LargeLists is how many large lists Within lets through at once.
const LargeLists = 2

// Within is the handler that lets requests through to api as memory permits.
func Within(memory int64, sizes func(context.Context, string) (datastore.Size, error), api http.Handler) http.Handler {
	_, codecs := newScheme()
	counter := refusals.New(refusals.API)
	return newBounds(sizes, memory, LargeLists, newBodies(codecs), counter).handler(api)
}

func newBodies(codecs serializer.CodecFactory) *bodies {
	return &bodies{codecs.UniversalDeserializer(), refusals.New(refusals.API)}
}

// CountValues is countValues.
var CountValues = countValues
