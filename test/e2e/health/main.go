// Command health is a gRPC server of health for the tests of probes on booted machines. It
// knows its own health, of which nobody gives a name, and that of "app". Each is SERVING unless
// there is a file /tmp/sick, or /tmp/sick-app.
package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const address = ":9000"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	server := grpc.NewServer()
	healthv1.RegisterHealthServer(server, health{})
	return server.Serve(listener)
}

type health struct {
	healthv1.UnimplementedHealthServer
}

// Check implements healthv1.HealthServer.
func (health) Check(_ context.Context, r *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	files := map[string]string{"": "/tmp/sick", "app": "/tmp/sick-app"}
	file, known := files[r.GetService()]
	if !known {
		return nil, status.Errorf(codes.NotFound, "no service %q", r.GetService())
	}
	if _, err := os.Stat(file); err == nil {
		return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_NOT_SERVING}, nil
	}
	return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVING}, nil
}
