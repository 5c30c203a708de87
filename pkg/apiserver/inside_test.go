package apiserver

import (
	"errors"
	"io"
	"net"
	"testing"
)

func TestConnectionsOfOwnClientsEndWithTheServer(t *testing.T) {
	l := newInside(&net.TCPAddr{})
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	client, err := l.Dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	server := <-accepted

	l.hangUp()
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the client still reads: %v", err)
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the server still reads: %v", err)
	}
	late := make(chan error)
	go func() {
		_, err := l.Dial(t.Context(), "", "")
		late <- err
	}()
	server = <-accepted // Serve may take a connection that was waiting when it is told to stop
	if err := <-late; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a connection was made after the end: %v", err)
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the server keeps a late connection: %v", err)
	}
	if err := client.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	_ = l.Close()
	<-accepted
}
