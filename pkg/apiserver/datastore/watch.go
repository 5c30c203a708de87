package datastore

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	// The API server's key of compactions, and where kine keeps it.
	compactKey, storedCompactKey = "compact_rev_key", "compact_rev_key_apiserver"
	// everything is the key, and the end of its range, that stands for all keys.
	everything = "\x00"
)

// watchRange is what a watch is about: kine's server does not tell its log.
type watchRange struct{ key, end string }

// rangesOfWatches lets the context of a watch tell its range, see log.After.
func rangesOfWatches(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if info.FullMethod == etcdserverpb.Watch_Watch_FullMethodName {
		s = &watchStream{ServerStream: s}
	}
	return handle(srv, s)
}

// watchStream is the stream of requests for watches. kine reads one, and asks for
// the context of the watch that it begins, before it reads the next.
type watchStream struct {
	grpc.ServerStream

	latest *watchRange
}

// RecvMsg implements grpc.ServerStream.
func (s *watchStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if r, ok := m.(*etcdserverpb.WatchRequest); ok && err == nil {
		s.latest = rangeOf(r.GetCreateRequest())
	}
	return err
}

// Context implements grpc.ServerStream.
func (s *watchStream) Context() context.Context {
	if s.latest == nil {
		return s.ServerStream.Context()
	}
	return context.WithValue(s.ServerStream.Context(), watchRange{}, *s.latest)
}

// rangeOf returns nil when it is everything, or nothing.
func rangeOf(r *etcdserverpb.WatchCreateRequest) *watchRange {
	key, end := string(r.GetKey()), string(r.GetRangeEnd())
	switch {
	case r == nil, key == everything && end == everything:
		return nil
	case key == compactKey:
		key = storedCompactKey
	}
	return &watchRange{key, end}
}
