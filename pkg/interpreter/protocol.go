package interpreter

import (
	"encoding/json"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Version is the version of the protocol. A later one keeps what this one says.
const Version = 1

// Bounds of the protocol, in bytes.
const (
	// MaxRequest has room for a score and all that a Deployment uses, in base64.
	MaxRequest = 2*wire.MaxScoreSize + 3*wire.MaxSecrets/2
	MaxAnswer  = 256 << 10
)

// Bounds of what an answer asks for.
const (
	// MaxSteps is how many steps of a plan the agent names.
	MaxSteps = 256
	// MaxWithin is the longest that Apply may take.
	MaxWithin = time.Hour
)

// Method says what a request is about.
type Method string

// Methods. Those with a Deployment are called for one Deployment at a time.
const (
	// MethodParse checks the data of a score, and looks at nothing else.
	MethodParse Method = "parse"
	// MethodObserve says what there is of a Deployment.
	MethodObserve Method = "observe"
	// MethodPlan says what MethodApply would do, and changes nothing.
	MethodPlan Method = "plan"
	// MethodApply makes what there is what is wanted.
	MethodApply Method = "apply"
	// MethodRemove removes what there is of a Deployment.
	MethodRemove Method = "remove"
	// MethodHalt stops what runs of a Deployment, and keeps it.
	MethodHalt Method = "halt"
	// MethodList lists all Deployments of which there is something.
	MethodList Method = "list"
	// MethodWipe removes everything that the interpreter ever made, data included.
	MethodWipe Method = "wipe"
)

// Request is what the agent asks. What is empty is left out.
type Request struct {
	Version    int                `json:"version"`
	Method     Method             `json:"method"`
	Deployment wire.DeploymentRef `json:"deployment,omitzero"`
	// Type and Data are those of the score: of parse, plan and apply.
	Type string          `json:"type,omitempty"`
	Data json.RawMessage `json:"data,omitempty"`
	// Objects are the contents of what parse said that the score needs, by name and key,
	// in base64: of plan and apply.
	Objects map[string]map[string][]byte `json:"objects,omitempty"`
	// Mark stands for type, data and objects: of plan and apply. Whatever was applied
	// whole, observe answers its mark.
	Mark string `json:"mark,omitempty"`
	// Retention says whether remove keeps data.
	Retention wire.VolumeRetention `json:"retention,omitempty"`
}

// Code says what kind of error an Answer has.
type Code string

// Values of Code. An agent takes any other one for CodeFailed.
const (
	// CodeInvalid: the score asks for what there cannot be.
	CodeInvalid Code = "invalid"
	// CodeFailed: it could not be done; the agent tries again.
	CodeFailed Code = "failed"
	// CodeVersion: the interpreter does not speak the version of the request.
	CodeVersion Code = "version"
)

// Error is why a request could not be answered.
type Error struct {
	Code Code `json:"code"`
	// Message is one line for the operator. It has no secrets.
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Answer is the line that answers a Request: Error, or what the method has.
type Answer struct {
	Error *Error `json:"error,omitempty"`
	// Needs is of parse: the names of Secrets, and of ConfigMaps after "configmap/".
	Needs []string `json:"needs,omitempty"`
	// Plan is of plan.
	*Plan
	// Observation is of observe.
	*Observation
	// Inventory is of list.
	*Inventory
}

// Plan is what has to be done.
type Plan struct {
	// Steps name it, each as in "writing /etc/motd". There are none when what there is is
	// what is wanted, and has its mark.
	Steps []string `json:"steps,omitempty"`
	// WithinSeconds is how long apply may take; two minutes when it is 0.
	WithinSeconds int `json:"withinSeconds,omitempty"`
}

// Observation is what there is of a Deployment.
type Observation struct {
	// Exists: there is something that runs or could run.
	Exists bool `json:"exists,omitempty"`
	// Mark is that of what was last applied whole, and empty while something else is
	// applied.
	Mark string `json:"mark,omitempty"`
	// Phase is wire.PhasePending, wire.PhaseRunning or wire.PhaseFailed; Reason is why it
	// failed.
	Phase  wire.Phase `json:"phase,omitempty"`
	Reason string     `json:"reason,omitempty"`
	// Note is what is wrong although it runs.
	Note string `json:"note,omitempty"`
	// ChangedAt is when something last happened.
	ChangedAt time.Time `json:"changedAt,omitzero"`
}

// Inventory is what there is on the device.
type Inventory struct {
	Deployments []wire.DeploymentRef `json:"deployments,omitempty"`
}
