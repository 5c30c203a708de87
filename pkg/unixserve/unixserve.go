// Package unixserve answers connections to a socket of the device, a bounded number at a time.
//
// The package imports the standard library only: programs of others link it, too.
package unixserve

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Serve answers until ctx ends, and then waits for what is being answered. It closes each
// connection, and not the listener. most is how many are answered at a time; the others wait.
// failed is told why one was not answered. Both functions are called from several goroutines.
func Serve(ctx context.Context, listener *net.UnixListener, most int, answer func(*net.UnixConn) error, failed func(error)) error {
	defer context.AfterFunc(ctx, func() { _ = listener.SetDeadline(time.Unix(1, 0)) })()
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, most)
	for {
		conn, err := listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("accepting the agent: %w", err)
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			if err := answer(conn); err != nil {
				failed(err)
			}
		})
	}
}
