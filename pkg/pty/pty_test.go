package pty_test

import (
	"io"
	"testing"

	"fleet.nationtech.io/fleet/pkg/pty"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	own, process, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	defer process.Close()
	if _, err := io.WriteString(process, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(own, got); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}
