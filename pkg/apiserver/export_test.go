package apiserver

import (
	"context"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes"

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

// Steady is the handler that lets watches of api end whose clients read nothing for a
// time.
func Steady(stall time.Duration, api http.Handler) http.Handler {
	_, codecs := newScheme()
	b := newBounds(func(context.Context, string) (datastore.Size, error) { return datastore.Size{}, nil }, 1<<30, LargeLists, newBodies(codecs), refusals.New(refusals.API))
	b.stall = stall
	return b.handler(api)
}

// Strangers is the handler that lets requests of strangers through to api.
func Strangers(api http.Handler) http.Handler {
	return newStrangers(refusals.New(refusals.API)).handler(api)
}

// MaxAnonymousWaiting is how many requests of strangers wait.
const MaxAnonymousWaiting, MaxAnonymous = maxAnonymousWaiting, maxAnonymous

func newBodies(codecs serializer.CodecFactory) *bodies {
	return &bodies{codecs.UniversalDeserializer(), refusals.New(refusals.API)}
}

// CountValues is countValues.
var CountValues = countValues

// Fitted is the storage of a kind in a data store that says whether it is full.
func Fitted(s storage.Interface, full func() error) storage.Interface { return fitted{s, full} }

// Reviewer is the plugin that asks reviews.
func Reviewer(reviews []Review, client kubernetes.Interface) admission.ValidationInterface {
	return reviewer{admission.NewHandler(admission.Create, admission.Update), reviews, client}
}
