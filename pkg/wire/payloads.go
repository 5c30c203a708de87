package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/printable"
)

// Bounds of what payloads hold, in bytes. Those of whole payloads are in Verbs.
const (
	// MaxSecret is the longest content of a Secret or a ConfigMap, keys and values
	// together. In base64 it stays under MaxReply.
	MaxSecret = 128 << 10
	// MaxSecrets is the longest content of all that one Deployment uses.
	MaxSecrets = 16 * MaxSecret
	// MaxReply is the longest reply, and the longest message: a manifest of
	// MaxEntries.
	MaxReply = 256 << 10
	// BodyChunk is the longest piece of a body in one BodyReply.
	BodyChunk = 48 << 10
	// MaxError is the longest error text of a state report.
	MaxError = 1 << 10
	// MaxProgress is the longest text of a state report about what is being fetched.
	MaxProgress = 256
)

// ErrPayload is wrapped by every error about a payload that has the wrong form.
var ErrPayload = errors.New("malformed payload")

// SnapshotRequest asks for the device's manifest.
type SnapshotRequest struct {
	// Have is the version of the last good manifest, zero when there is none.
	Have Version `json:"have"`
	// InfoHash is the InfoHash of the DeviceInfo that the device last sent.
	InfoHash string `json:"infoHash,omitempty"`
	// StateHash is the StateHash of every report that the device stands by.
	StateHash string `json:"stateHash,omitempty"`
	// Nonce is the newest SnapshotReply.Nonce that the device has on its disk.
	Nonce string `json:"nonce,omitempty"`
	// HardwareID is what `fleet-agent hardware-id` prints on the machine, for people
	// who have to tell a device from its copy. It is a claim; empty when the machine
	// does not tell.
	HardwareID string `json:"hardwareID,omitempty"`
	// Capabilities is what the agent can do, see ParseCapabilities. Nil: it does not
	// say, as in version 0.1.0.
	Capabilities []string `json:"capabilities,omitzero"`
}

// SnapshotStatus says what a SnapshotReply brings.
type SnapshotStatus string

// Values of SnapshotStatus.
const (
	// SnapshotManifest: Manifest is set.
	SnapshotManifest SnapshotStatus = "manifest"
	// SnapshotNotModified: what the device has is current.
	SnapshotNotModified SnapshotStatus = "notModified"
	// SnapshotRetryLater: the server cannot vouch for a manifest yet; ask again
	// after RetryAfterSeconds.
	SnapshotRetryLater SnapshotStatus = "retryLater"
)

// Want names what the server asks the device to send again.
type Want string

// Values of Want.
const (
	WantInfo  Want = "info"
	WantState Want = "state"
)

// SnapshotReply answers a SnapshotRequest.
type SnapshotReply struct {
	Status            SnapshotStatus `json:"status,omitempty"`
	Manifest          *Manifest      `json:"manifest,omitempty"`
	Want              []Want         `json:"want,omitempty"`
	RetryAfterSeconds int            `json:"retryAfterSeconds,omitempty"`
	// Time is the server's clock, by which the device sees how wrong its own is.
	Time time.Time `json:"time,omitzero"`
	// Nonce, when it is set, replaces the one that the device has. It is on the
	// disk before the device asks again. The server knows a copy of a device by
	// its old nonce.
	Nonce string   `json:"nonce,omitempty"`
	Error *Refusal `json:"error,omitempty"`
}

// BodyRequest asks for a piece of a score that the device's manifest names.
type BodyRequest struct {
	Hash   string `json:"hash"`
	Offset int    `json:"offset"`
}

// BodyReply carries at most BodyChunk bytes of a body, from Offset on.
type BodyReply struct {
	// Size is the length of the whole body in bytes.
	Size  int      `json:"size,omitempty"`
	Data  []byte   `json:"data,omitempty"`
	Error *Refusal `json:"error,omitempty"`
}

// SecretRequest asks for a Secret or a ConfigMap that a score in the device's manifest names.
type SecretRequest struct {
	Namespace string `json:"namespace"`
	// Name of a Secret, or ConfigMapName.
	Name string `json:"name"`
	// Deployment is the name of the one that the Secret is for; empty from agents up to
	// 0.1, which are told no digest.
	Deployment string `json:"deployment,omitempty"`
}

// SecretReply answers a SecretRequest. It must not be logged.
type SecretReply struct {
	// Data is the content of the Secret by key.
	Data map[string][]byte `json:"data,omitempty"`
	// Digest is the Entry.SecretsDigest that the content belongs to: a Secret may have
	// changed since the manifest of the device. Empty from servers up to 0.1.
	Digest string   `json:"digest,omitempty"`
	Error  *Refusal `json:"error,omitempty"`
}

// RegistryRequest asks for credentials of the gateway's image registry.
type RegistryRequest struct{}

// RegistryReply answers a RegistryRequest. It must not be logged.
type RegistryReply struct {
	// Registries are the names of the registry, HOST:PORT, as they may stand
	// before the name of an image. The credentials are good for these alone.
	Registries []string `json:"registries,omitempty"`
	// Upstreams are the registries whose images the gateway keeps: HOST or HOST:PORT. It has
	// those of HOST:PORT/REPOSITORY in HOST__PORT/REPOSITORY. None from servers up to 0.1.
	Upstreams []string `json:"upstreams,omitempty"`
	User      string   `json:"user,omitempty"`
	Password  string   `json:"password,omitempty"`
	Error     *Refusal `json:"error,omitempty"`
}

// Score is the body that Entry.Hash names: its canonical JSON form.
type Score struct {
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

// DeviceInfo is what a device says of itself.
type DeviceInfo struct {
	// Labels are asked for, not granted: the server decides which become labels
	// of the Device object.
	Labels map[string]string `json:"labels,omitempty"`
	// Inventory holds facts about the machine.
	Inventory Inventory `json:"inventory"`
	// Conditions are about the device as a whole, for example PodmanReady.
	Conditions []Condition `json:"conditions,omitempty"`
}

// Inventory holds facts that a device reports about itself. Every field may be
// empty when the device cannot tell.
type Inventory struct {
	Hostname      string   `json:"hostname,omitempty"`
	Arch          string   `json:"arch,omitempty"` // GOARCH: amd64, arm64, arm, …
	OS            string   `json:"os,omitempty"`   // ID of os-release: debian, fedora, …
	OSVersion     string   `json:"osVersion,omitempty"`
	Kernel        string   `json:"kernel,omitempty"`
	CPUCores      int      `json:"cpuCores,omitempty"`
	MemoryMiB     int64    `json:"memoryMiB,omitempty"`
	AgentVersion  string   `json:"agentVersion,omitempty"`
	PodmanVersion string   `json:"podmanVersion,omitempty"`
	Addresses     []string `json:"addresses,omitempty"`
}

// ConditionStatus is True, False or Unknown, as in Kubernetes.
type ConditionStatus string

// Values of ConditionStatus.
const (
	ConditionTrue    ConditionStatus = "True"
	ConditionFalse   ConditionStatus = "False"
	ConditionUnknown ConditionStatus = "Unknown"
)

// Condition is a condition of the device, in the form of Kubernetes conditions.
type Condition struct {
	Type    string          `json:"type"`
	Status  ConditionStatus `json:"status"`
	Reason  string          `json:"reason"`
	Message string          `json:"message,omitempty"`
}

// Condition types that a device may report. The server drops others.
const (
	// ConditionPodmanReady: the podman service answers.
	ConditionPodmanReady = "PodmanReady"
	// ConditionDiskPressure: the state directory or the image store is nearly full.
	ConditionDiskPressure = "DiskPressure"
	// ConditionManifestHeld: a manifest was refused, or its omissions are held.
	ConditionManifestHeld = "ManifestHeld"
	// ConditionSetupComplete: setup-user succeeded.
	ConditionSetupComplete = "SetupComplete"
	// ConditionSubordinateIDsReady: the workload account has enough of them.
	ConditionSubordinateIDsReady = "SubordinateIDsReady"
	// ConditionLingerEnabled: systemd runs for the workload account from the boot on.
	ConditionLingerEnabled = "LingerEnabled"
	// ConditionCgroupDelegated: containers can be limited in processor time, memory
	// and processes.
	ConditionCgroupDelegated = "CgroupDelegated"
	// ConditionLayersShared: images and containers share the layers of images.
	ConditionLayersShared = "LayersShared"
	// ConditionClockCorrect: the system's clock agrees with the server's.
	ConditionClockCorrect = "ClockCorrect"
	// ConditionCertificateCurrent: the device's certificate is valid, and renewed in
	// time.
	ConditionCertificateCurrent = "CertificateCurrent"
	// ConditionWouldSurviveReboot: after a restart without a network, the device would
	// run what it is to run.
	ConditionWouldSurviveReboot = "WouldSurviveReboot"
	// ConditionGroupsCurrent: the processes of the workload account have all its groups.
	ConditionGroupsCurrent = "GroupsCurrent"
	// ConditionScoresAllowed: the device's configuration allows what the Deployments ask for.
	ConditionScoresAllowed = "ScoresAllowed"
)

// DeviceConditions lists the condition types that a device may report.
var DeviceConditions = []string{
	ConditionPodmanReady, ConditionDiskPressure, ConditionManifestHeld, ConditionSetupComplete, ConditionSubordinateIDsReady,
	ConditionLingerEnabled, ConditionCgroupDelegated, ConditionLayersShared, ConditionClockCorrect, ConditionCertificateCurrent,
	ConditionWouldSurviveReboot, ConditionGroupsCurrent, ConditionScoresAllowed,
}

// Phase is the state of one Deployment on one device.
type Phase string

// Values of Phase.
const (
	// PhasePending: on its way; images are pulled or containers start.
	PhasePending Phase = "Pending"
	// PhaseRunning: every service is in its desired state.
	PhaseRunning Phase = "Running"
	// PhaseFailed: Error says what went wrong; the agent tries again.
	PhaseFailed Phase = "Failed"
	// PhaseRemoved: nothing of it runs any more. The server forgets the report.
	PhaseRemoved Phase = "Removed"
)

// DeploymentState reports one Deployment on one device.
type DeploymentState struct {
	DeploymentRef
	Phase Phase `json:"phase"`
	// Hash is that of the body which the report is about.
	Hash string `json:"hash,omitempty"`
	// Revision is the Entry.Revision of that body, while the manifest names it.
	Revision string `json:"revision,omitempty"`
	// SecretsDigest is the Entry.SecretsDigest which the report is about.
	SecretsDigest string `json:"secretsDigest,omitempty"`
	// Error is set when Phase is PhaseFailed, at most MaxError bytes. In another phase it says
	// what is wrong although the workload runs.
	Error string `json:"error,omitempty"`
	// Progress says, in one line of at most MaxProgress bytes, what is being fetched and how
	// far that is: "pulling web: 34 of 120 MB". Agents set it some ten times for each thing at
	// most, and not before it took ten seconds.
	Progress    string           `json:"progress,omitempty"`
	Containers  []ContainerState `json:"containers,omitempty"`
	LastEventAt time.Time        `json:"lastEventAt"`
}

// ContainerState reports one container.
type ContainerState struct {
	Service string `json:"service"`
	// State is podman's word: created, running, exited, …
	State string `json:"state"`
	Image string `json:"image,omitempty"`
	// Digest is that of the image, "sha256:…"; empty when podman does not tell.
	Digest string `json:"digest,omitempty"`
	// Phase judges the service, and Ready says whether it is ready by its probes or its
	// time. Agents up to 0.1 set neither.
	Phase Phase `json:"phase,omitempty"`
	Ready bool  `json:"ready,omitempty"`
	// ExitCode is how it ended, if it does not run.
	ExitCode int `json:"exitCode,omitempty"`
	// LastExit is how the last run ended that did; nil before.
	LastExit *ContainerExit `json:"lastExit,omitempty"`
	// Restarts counts how often it was started again since it was made.
	Restarts int `json:"restarts,omitempty"`
	// Since is when it was started or ended, by podman's dates, which follow the device's
	// clock. It is shown and never compared.
	Since time.Time `json:"since,omitzero"`
	// Message says, in one line, what the service waits for, when it runs next, or what else
	// is to be known of it. State is "waiting" while there is no container.
	Message string `json:"message,omitempty"`
	// Runs are the last runs of a service on a schedule, the newest first, five at most.
	Runs []JobRun `json:"runs,omitempty"`
}

// JobRun is one run of a service on a schedule.
type JobRun struct {
	// At is when it was to begin, by the device's clock. It is shown and never compared.
	At time.Time `json:"at"`
	// Result is Succeeded, Failed, Skipped, Missed or Replaced.
	Result   string `json:"result"`
	ExitCode int    `json:"exitCode,omitempty"`
}

// ContainerExit is how a run of a container ended.
type ContainerExit struct {
	Code        int  `json:"code"`
	OutOfMemory bool `json:"outOfMemory,omitempty"`
	// Stopped is set when the agent stopped it because a probe failed.
	Stopped bool `json:"stopped,omitempty"`
}

// Heartbeat says that a device is alive.
type Heartbeat struct {
	// At is the device's clock in Unix seconds; it is shown, never compared.
	At int64 `json:"at"`
	// Uptime is the time since the agent started, in seconds.
	Uptime int64 `json:"up"`
}

// Ack answers a report. A nil Error means that the report was stored.
type Ack struct {
	Error *Refusal `json:"error,omitempty"`
}

// RefusalCode says why the device API or the enrollment listener refused.
type RefusalCode string

// Values of RefusalCode.
const (
	// RefusedBadRequest: the request has the wrong form; sending it again is useless.
	RefusedBadRequest RefusalCode = "badRequest"
	// RefusedRateLimited: the device's budget is used up; try later.
	RefusedRateLimited RefusalCode = "rateLimited"
	// RefusedNotFound: the device's manifest does not name what was asked for.
	RefusedNotFound RefusalCode = "notFound"
	// RefusedUnavailable: the server cannot do it now; try later.
	RefusedUnavailable RefusalCode = "unavailable"
	// RefusedToken: the enrollment token is unknown, expired, used up or revoked.
	RefusedToken RefusalCode = "tokenRefused"
	// RefusedNameTaken: another device has the name.
	RefusedNameTaken RefusalCode = "nameTaken"
	// RefusedQuarantined: the device sent an old nonce, as a copy of it would. It
	// keeps what it runs and gets nothing new until an operator decides.
	RefusedQuarantined RefusalCode = "quarantined"
	// RefusedSession: a newer session of the device took over.
	RefusedSession RefusalCode = "staleSession"
	// RefusedRevoked: this key belongs to a revoked device.
	RefusedRevoked RefusalCode = "revoked"
	// RefusedKey: the key that a certificate is asked for cannot be had: make
	// another.
	RefusedKey RefusalCode = "keyRefused"
)

// Refusal is an error that crosses the wire.
type Refusal struct {
	Code    RefusalCode `json:"code"`
	Message string      `json:"message"`
}

func (r *Refusal) Error() string { return r.Message }

// Digest is the SHA-256 of a payload.
type Digest [sha256.Size]byte

// Sum returns the digest of a payload.
func Sum(payload []byte) Digest { return sha256.Sum256(payload) }

// String returns the digest in lower-case hex: the form of Entry.Hash and InfoHash.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// StateHash condenses the digests of a device's encoded DeploymentStates, so
// that both sides can tell in one comparison whether the server has them all.
func StateHash(reports map[DeploymentRef]Digest) string {
	h := sha256.New()
	for _, ref := range slices.SortedFunc(maps.Keys(reports), DeploymentRef.Compare) {
		d := reports[ref]
		h.Write([]byte(ref.String()))
		h.Write([]byte{0})
		h.Write(d[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Decode decodes a payload of at most limit bytes into T. Fields that T does
// not have are ignored: the peer may be one minor version ahead. Errors wrap
// ErrPayload and never repeat the payload.
func Decode[T any](payload []byte, limit int) (T, error) {
	var v T
	if len(payload) > limit {
		return v, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrPayload, len(payload), limit)
	}
	if err := json.Unmarshal(payload, &v); err != nil {
		var zero T
		return zero, fmt.Errorf("%w: not the JSON document expected here", ErrPayload)
	}
	return v, nil
}

// DecodeState decodes and checks a DeploymentState.
func DecodeState(payload []byte) (DeploymentState, error) {
	return DecodeRequest[DeploymentState](KindState, payload)
}

// textPattern is a text that a device sends and that is compared, kept or shown as it is.
var textPattern = regexp.MustCompile(`^[!-~]{0,256}$`)

// checkTexts returns an error that wraps ErrPayload for a text that is too long or has
// other characters than those of ASCII that can be seen.
func checkTexts(texts ...string) error {
	for _, text := range texts {
		if !textPattern.MatchString(text) {
			return fmt.Errorf("%w: a text has characters that cannot be seen, or more than 256", ErrPayload)
		}
	}
	return nil
}

// Validate implements validator.
func (r *SnapshotRequest) Validate() error {
	for _, hash := range []string{r.InfoHash, r.StateHash, r.HardwareID} {
		if hash != "" && !ValidHash(hash) {
			return fmt.Errorf("%w: bad hash", ErrPayload)
		}
	}
	// Epoch and nonce come from a server, perhaps another, and are compared alone. What
	// is wrong among the capabilities is left out.
	return nil
}

// Validate implements validator.
func (r *BodyRequest) Validate() error { return checkTexts(r.Hash) }

// Validate implements validator.
func (r *SecretRequest) Validate() error { return checkTexts(r.Namespace, r.Name, r.Deployment) }

// maxInfoText is the longest text of a DeviceInfo in bytes. Whoever shows one does it by
// way of Printable.
const maxInfoText = 4 << 10

// Validate implements validator.
func (i *DeviceInfo) Validate() error {
	v := &i.Inventory
	texts := append(slices.Clone(v.Addresses), v.Hostname, v.Arch, v.OS, v.OSVersion, v.Kernel, v.AgentVersion, v.PodmanVersion)
	for key, value := range i.Labels {
		texts = append(texts, key, value)
	}
	for _, c := range i.Conditions {
		texts = append(texts, c.Type, string(c.Status), c.Reason, c.Message)
	}
	return checkLengths(maxInfoText, texts...)
}

func checkLengths(most int, texts ...string) error {
	for _, text := range texts {
		if len(text) > most {
			return fmt.Errorf("%w: a text of more than %d bytes", ErrPayload, most)
		}
	}
	return nil
}

// Printable returns the report with texts that steer no terminal, see package
// printable: kubectl shows them to operators.
func (s DeploymentState) Printable() DeploymentState {
	printables(&s.Error, &s.Progress)
	s.Containers = slices.Clone(s.Containers)
	for i := range s.Containers {
		c := &s.Containers[i]
		printables(&c.Service, &c.State, &c.Image, &c.Message)
		c.Runs = slices.Clone(c.Runs)
		for n := range c.Runs {
			printables(&c.Runs[n].Result)
		}
	}
	return s
}

// Printable returns the info with texts that steer no terminal. Labels have rules
// of their own.
func (i DeviceInfo) Printable() DeviceInfo {
	i.Inventory = i.Inventory.Printable()
	i.Conditions = slices.Clone(i.Conditions)
	for n := range i.Conditions {
		c := &i.Conditions[n]
		printables(&c.Type, &c.Reason, &c.Message)
	}
	return i
}

// Printable returns the inventory with texts that steer no terminal.
func (i Inventory) Printable() Inventory {
	printables(&i.Hostname, &i.Arch, &i.OS, &i.OSVersion, &i.Kernel, &i.AgentVersion, &i.PodmanVersion)
	i.Addresses = slices.Clone(i.Addresses)
	for n := range i.Addresses {
		printables(&i.Addresses[n])
	}
	return i
}

func printables(texts ...*string) {
	for _, text := range texts {
		*text = printable.Line(*text)
	}
}

// Validate returns an error that wraps ErrPayload unless the report may be stored.
func (s *DeploymentState) Validate() error {
	if err := s.DeploymentRef.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrPayload, err)
	}
	switch s.Phase {
	case PhasePending, PhaseRunning, PhaseFailed, PhaseRemoved:
	default:
		return fmt.Errorf("%w: unknown phase %.32q", ErrPayload, s.Phase)
	}
	if s.Hash != "" && !ValidHash(s.Hash) || s.Revision != "" && !ValidHash(s.Revision) || s.SecretsDigest != "" && !ValidHash(s.SecretsDigest) {
		return fmt.Errorf("%w: bad hash", ErrPayload)
	}
	if len(s.Error) > MaxError {
		return fmt.Errorf("%w: error text of more than %d bytes", ErrPayload, MaxError)
	}
	if err := checkLengths(MaxProgress, s.Progress); err != nil {
		return err
	}
	for _, c := range s.Containers {
		if err := checkLengths(maxContainerText, c.Service, c.State, c.Image, c.Digest, string(c.Phase), c.Message); err != nil {
			return err
		}
	}
	return nil
}

// maxContainerText is the longest text of a ContainerState in bytes: an image may have a
// long name.
const maxContainerText = 4 << 10

// DecodeManifestReply decodes a SnapshotReply and checks the manifest in it.
func DecodeManifestReply(payload []byte) (SnapshotReply, error) {
	r, err := DecodeReply[SnapshotReply](KindSnapshot, payload)
	if err != nil {
		return r, err
	}
	if r.Error != nil {
		return r, nil
	}
	switch r.Status {
	case SnapshotNotModified, SnapshotRetryLater:
		return r, nil
	case SnapshotManifest:
		if r.Manifest == nil {
			return r, fmt.Errorf("%w: status says manifest but there is none", ErrManifest)
		}
		return r, r.Manifest.Validate()
	}
	return r, fmt.Errorf("%w: unknown snapshot status %.32q", ErrPayload, r.Status)
}
