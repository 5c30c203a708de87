package broker

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/guard"
)

// ReadersGroup is the organization in the certificate of an operator who may
// read the buckets.
const ReadersGroup = "fleet:bus-readers"

const (
	createConsumer = "$JS.API.CONSUMER.CREATE."
	deleteConsumer = "$JS.API.CONSUMER.DELETE."
	// readerInbox is below what NATS clients choose as their inbox. Nothing else in
	// CORE is there: the server's own connections have another.
	readerInbox = "_INBOX.>"

	// readerMark is in the metadata of the consumers that readers made.
	readerMark = "fleet.nationtech.io/reader"
	// maxReaders is how many consumers a bucket may have before readers get no
	// more of them. NATS allows 1,000, and the server needs one itself.
	maxReaders = 100
	// readerIdle is how long a consumer outlives its reader.
	readerIdle = time.Minute

	// readRate is how fast a watch delivers, in bits a second. NATS drops whoever
	// has more than bus.MaxPending waiting, and its flow control begins above that.
	readRate = bus.MaxPending / 2 * 8

	readTimeout = 5 * time.Second

	// maxReaderConnections is how many connections one certificate's name may have.
	// What one leaves unread takes up to bus.MaxPending.
	maxReaderConnections = 4
	// Bytes a second that a reader may send over a connection, and how many at once.
	// A question has under 100, and its answer can cost the server milliseconds.
	readerRate, readerBurst = 4 << 10, 32 << 10
	// maxFilters is how many subjects one watch may name.
	maxFilters = 16
)

// reads are the requests that change nothing. NATS takes them from READ to
// CORE and the replies back: a reply goes to a subject of READ, whatever its
// name, and so never into a bucket. (One under $JS.ACK keeps its name in CORE,
// where no consumer waits for acknowledgements.)
var reads = []string{
	"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*", "$JS.API.DIRECT.GET.>",
	"$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.INFO.*.*",
	"$JS.FC.>", // flow control of a watch
}

// deliverTo is the form of a reader's inbox: no wildcards, nothing outside.
var deliverTo = regexp.MustCompile(`^_INBOX\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// share lets READ use what reads names.
func share(core, readers *server.Account) error {
	for _, subject := range reads {
		// A batch has more than one reply.
		if err := core.AddServiceExportWithResponse(subject, server.Streamed, []*server.Account{readers}); err != nil {
			return fmt.Errorf("letting readers ask %s: %w", subject, err)
		}
		if err := readers.AddServiceImport(core, subject, subject); err != nil {
			return fmt.Errorf("letting readers ask %s: %w", subject, err)
		}
	}
	if err := core.AddStreamExport(readerInbox, []*server.Account{readers}); err != nil {
		return fmt.Errorf("letting readers watch: %w", err)
	}
	if err := readers.AddStreamImport(core, readerInbox, ""); err != nil {
		return fmt.Errorf("letting readers watch: %w", err)
	}
	return nil
}

func readerPermissions() *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: append(slices.Clone(reads), createConsumer+">", deleteConsumer+"*.*")},
		Subscribe: &server.SubjectPermission{Allow: []string{readerInbox}},
	}
}

// checkReader admits operators whose certificate says that they may read.
func (a *authenticator) checkReader(c server.ClientAuthentication, cert *x509.Certificate) bool {
	if !slices.Contains(cert.Subject.Organization, ReadersGroup) {
		a.log.Warn("operator refused: the certificate is for the API only, see fleet-server admin-cert", "user", cert.Subject.CommonName, "remote", remoteOf(c))
		return false
	}
	conn := a.place(c, "operator "+cert.Subject.CommonName, maxReaderConnections)
	if conn == nil {
		return false
	}
	conn.Slow(readerRate, readerBurst)
	a.log.Info("operator reads the bus", "user", cert.Subject.CommonName, "remote", remoteOf(c))
	c.RegisterUser(&server.User{
		Username: cert.Subject.CommonName, Account: a.accounts[accountReaders], Permissions: readerPermissions(),
		ConnectionDeadline: time.Now().Add(cert.NotAfter.Sub(a.now())),
	})
	return true
}

// readers makes consumers for readers. What a consumer delivers to is in the
// body of the request, where NATS looks at no permission: a bucket would do as
// well. So readers may ask for consumers only here.
type readers struct {
	core  *nats.Conn
	guard *guard.Guard
}

// serve answers requests of the account READ.
func (r *readers) serve(conn *nats.Conn) error {
	for subject, answer := range map[string]func(*nats.Msg) ([]byte, error){createConsumer + ">": r.create, deleteConsumer + "*.*": r.delete} {
		_, err := conn.Subscribe(subject, func(m *nats.Msg) {
			var reply []byte
			err := r.guard.Try(func() (err error) { reply, err = answer(m); return err }, "subject", m.Subject)
			if err != nil {
				reply = refusal(err)
			}
			_ = m.Respond(reply) // the reader is gone: nothing to do
		})
		if err != nil {
			return fmt.Errorf("serving readers: %w", err)
		}
	}
	return conn.Flush()
}

// create makes a consumer of the kind that watches a bucket, and no other.
func (r *readers) create(m *nats.Msg) ([]byte, error) {
	var req server.CreateConsumerRequest
	if err := json.Unmarshal(m.Data, &req); err != nil {
		return nil, fmt.Errorf("the request is malformed: %w", err)
	}
	c := req.Config
	switch {
	case !deliverTo.MatchString(c.DeliverSubject):
		return nil, errors.New("a reader's consumer delivers to the reader's inbox")
	case c.Durable != "" || c.DeliverGroup != "" || c.AckPolicy != server.AckNone:
		return nil, errors.New("a reader's consumer is ephemeral and is not acknowledged")
	case len(c.FilterSubjects) > maxFilters:
		return nil, fmt.Errorf("a reader's consumer has %d filters, at most %d are allowed", len(c.FilterSubjects), maxFilters)
	}
	if err := r.room(req.Stream); err != nil {
		return nil, err
	}
	data, err := json.Marshal(server.CreateConsumerRequest{
		Stream: req.Stream,
		Action: server.ActionCreate, // not to take over one that there is
		Config: server.ConsumerConfig{
			Name: c.Name, DeliverSubject: c.DeliverSubject, DeliverPolicy: c.DeliverPolicy, OptStartSeq: c.OptStartSeq, OptStartTime: c.OptStartTime,
			FilterSubject: c.FilterSubject, FilterSubjects: c.FilterSubjects, ReplayPolicy: c.ReplayPolicy, HeadersOnly: c.HeadersOnly,
			FlowControl: c.FlowControl, Heartbeat: c.Heartbeat, RateLimit: readRate,
			AckPolicy: server.AckNone, MaxDeliver: 1, MemoryStorage: true, Replicas: 1, InactiveThreshold: readerIdle,
			Metadata: map[string]string{readerMark: "true"},
		},
	})
	if err != nil {
		return nil, err
	}
	return r.ask(m.Subject, data)
}

// delete deletes a consumer that a reader made.
func (r *readers) delete(m *nats.Msg) ([]byte, error) {
	data, err := r.ask("$JS.API.CONSUMER.INFO."+strings.TrimPrefix(m.Subject, deleteConsumer), nil)
	if err != nil {
		return nil, err
	}
	var info server.JSApiConsumerInfoResponse
	if err := json.Unmarshal(data, &info); err != nil {
		return nil, err
	}
	if info.ConsumerInfo != nil && info.Config != nil && info.Config.Metadata[readerMark] == "" {
		return nil, errors.New("a reader deletes what readers made")
	}
	return r.ask(m.Subject, nil)
}

// room keeps consumers for the server itself.
func (r *readers) room(stream string) error {
	if strings.ContainsAny(stream, ".*> ") || stream == "" {
		return errors.New("the request names no stream")
	}
	data, err := r.ask("$JS.API.STREAM.INFO."+stream, nil)
	if err != nil {
		return err
	}
	var info server.JSApiStreamInfoResponse
	if err := json.Unmarshal(data, &info); err != nil {
		return err
	}
	if info.StreamInfo != nil && info.State.Consumers >= maxReaders {
		return fmt.Errorf("%d watches of %s are open: end some first", info.State.Consumers, stream)
	}
	return nil
}

func (r *readers) ask(subject string, data []byte) ([]byte, error) {
	m, err := r.core.Request(subject, data, readTimeout)
	if err != nil {
		return nil, fmt.Errorf("asking JetStream: %w", err)
	}
	return m.Data, nil
}

// refusal has the form of an answer of JetStream.
func refusal(err error) []byte {
	data, _ := json.Marshal(server.ApiResponse{ // strings always encode
		Type: server.JSApiConsumerCreateResponseType, Error: &server.ApiError{Code: 403, Description: err.Error()},
	})
	return data
}
