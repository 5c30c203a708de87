package score_test

import (
	"errors"
	"fmt"

	"fleet.nationtech.io/fleet/pkg/score"
)

// A score is checked before it goes into a Deployment, by the rules of the server.
// What it needs of its namespace comes with the answer.
func ExampleValidate() {
	needs, err := score.Validate("PodmanV0", []byte(`{"services": [{
		"name": "web", "image": "docker.io/library/nginx:1.29",
		"env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "web", "key": "password"}}}],
		"volumes": [{"hostPath": "/srv/www", "mountPath": "/usr/share/nginx/html"}]}]}`))
	fmt.Println(needs.Privilege, needs.Secrets, err)
	// Output: privileged [web] <nil>
}

// An error names the field.
func ExampleValidate_wrong() {
	_, err := score.Validate("PodmanV0", []byte(`{"services": [{"name": "web", "image": "nginx"}]}`))
	var field *score.FieldError
	fmt.Println(errors.Is(err, score.ErrInvalid), errors.As(err, &field))
	fmt.Println(field.Field)
	fmt.Println(field.Message)
	// Output:
	// true true
	// services[0].image
	// "nginx" is not a fully qualified image reference such as docker.io/library/nginx:1.29
}

// The server passes on types that it does not know: a device may.
func ExampleValidate_unknownType() {
	_, err := score.Validate("ComposeV1", []byte(`{}`))
	fmt.Println(errors.Is(err, score.ErrUnknownType), err)
	// Output: true unknown score type "ComposeV1"
}

// Equal scores have one body and one hash, however they are written. It is the
// hash in a device's manifest, and the one that its reports name.
func ExampleCanonical() {
	body, err := score.Canonical("PodmanV0", []byte(`{
		"services": [ {"name": "web", "image": "localhost/hello:1"} ]
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(body))
	fmt.Println(score.Hash(body))
	// Output:
	// {"data":{"services":[{"image":"localhost/hello:1","name":"web"}]},"type":"PodmanV0"}
	// d8cda1b274fcdb0289ba8fab35f5e1572539d2dac04e3c9d3f35e30721bc9437
}

func ExampleParsePodmanV0() {
	p, err := score.ParsePodmanV0([]byte(`{"services": [{"name": "web", "image": "localhost/hello:1", "resources": {"limits": {"memory": "64Mi"}}}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range p.Services {
		fmt.Println(s.Name, s.Image, s.Resources.Limits.MemoryBytes())
	}
	// Output: web localhost/hello:1 67108864
}
