package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// The health protocol of gRPC is one call with one field each way. A library for gRPC
// would make the agent half as large again.
const (
	healthCheck = "/grpc.health.v1.Health/Check"
	// frameHeader is a byte for compression and a length.
	frameHeader = 5
	// maxFrame bounds an answer in bytes, which takes two.
	maxFrame = 1 << 10
	// tagService and tagStatus are field 1 of the request, a text, and of the answer, a
	// number.
	tagService, tagStatus = 1<<3 | 2, 1 << 3
	statusServing         = 1
)

var errNoStatus = errors.New("the answer is no health status")

// grpc asks a health service over HTTP/2 in plain text.
func (c *Checks) grpc(ctx context.Context, t *Target, p *container.GRPCProbe) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://localhost:%d%s", p.Port, healthCheck), bytes.NewReader(healthRequest(p.Service)))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("Te", "trailers")
	request.Header.Set("User-Agent", "fleet-probe")
	conn, err := c.dial(ctx, t, p.Port)
	if err != nil {
		return err
	}
	// A transport keeps what a silent service does not end, for ever.
	defer conn.Close()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{DialContext: only(conn), MaxResponseHeaderBytes: maxHeader, Protocols: &protocols}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("health of port %d: %w", p.Port, heard(err))
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxFrame))
	if err != nil {
		return fmt.Errorf("health of port %d: %w", p.Port, heard(err))
	}
	if code := grpcStatus(response); code != "0" {
		return fmt.Errorf("health of port %d answered with status %s of gRPC", p.Port, clip(code, maxShown))
	}
	status, err := healthStatus(answer)
	if err != nil {
		return fmt.Errorf("health of port %d: %w", p.Port, err)
	}
	if status != statusServing {
		return fmt.Errorf("health of port %d is %d, which is not SERVING", p.Port, status)
	}
	return nil
}

var errOnce = errors.New("a probe takes one connection")

// only dials what is a connection already, once.
func only(conn net.Conn) func(ctx context.Context, network, address string) (net.Conn, error) {
	left := make(chan net.Conn, 1)
	left <- conn
	return func(context.Context, string, string) (net.Conn, error) {
		select {
		case conn := <-left:
			return conn, nil
		default:
			return nil, errOnce
		}
	}
}

// grpcStatus is in the trailer, or in the header of an answer without content.
func grpcStatus(response *http.Response) string {
	for _, header := range []http.Header{response.Trailer, response.Header} {
		if code := header.Get("Grpc-Status"); code != "" {
			return code
		}
	}
	return "unknown"
}

func healthRequest(service string) []byte {
	var message []byte
	if service != "" {
		message = binary.AppendUvarint([]byte{tagService}, uint64(len(service)))
		message = append(message, service...)
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) //nolint:gosec // a score is smaller than 4 GB
	return append(frame, message...)
}

// healthStatus is 0 for a message without a field.
func healthStatus(frame []byte) (uint64, error) {
	if len(frame) < frameHeader || frame[0] != 0 || int(binary.BigEndian.Uint32(frame[1:])) != len(frame)-frameHeader {
		return 0, errNoStatus
	}
	message := frame[frameHeader:]
	if len(message) == 0 {
		return 0, nil
	}
	status, n := binary.Uvarint(message[1:])
	if message[0] != tagStatus || n <= 0 || n != len(message)-1 {
		return 0, errNoStatus
	}
	return status, nil
}
