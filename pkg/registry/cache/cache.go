// Package cache keeps images of other registries on a gateway, so that each byte of them
// comes over the site's connection once. It is part of the server's registry.
//
// What is in it has the name of its content. It is fetched when a device asks for it first,
// and given to all that ask while it comes. A fetch that is interrupted goes on where it
// was. What nobody asked for the longest goes when the room ends.
package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/singleflight"

	"fleet.nationtech.io/fleet/pkg/guard"
)

// Errors of a Cache; match them with errors.Is. Their text has one line and no secret.
var (
	// ErrUnknown: the other registry has no such thing, or nobody has.
	ErrUnknown = errors.New("no such image")
	// ErrRefused: the other registry does not give it to this gateway.
	ErrRefused = errors.New("refused by the registry")
	// ErrUnavailable: the other registry cannot be asked, or does not send what it says.
	ErrUnavailable = errors.New("the registry cannot be reached")
	// ErrSpace: it does not fit.
	ErrSpace = errors.New("not enough room in the cache of images")
)

const (
	// maxManifest bounds a manifest and an index, in bytes.
	maxManifest = 4 << 20
	// fresh is how long a tag is taken for what it was at the last look.
	fresh = time.Minute
)

// Config is what a Cache is made of.
type Config struct {
	// Dir is the directory of the cache, which is made.
	Dir string
	// Upstreams are the registries whose images are kept: HOST, HOST:PORT, or http://HOST:PORT
	// for one without TLS.
	Upstreams []string
	// AuthFile has the logins, as podman login writes them; empty for none. It is read for
	// each new connection.
	AuthFile string
	// Size bounds what is kept, in bytes.
	Size int64
	// Transport is how registries are reached; nil for the way of the environment.
	Transport http.RoundTripper
	Now       func() time.Time
	// Panics counts the mistakes of the program that a fetch ends with; nil counts none.
	Panics *guard.Panics
	Log    *slog.Logger
}

// Cache keeps images. The nil Cache serves nothing.
type Cache struct {
	upstreams []*upstream
	shelf     *shelf
	now       func() time.Time
	guard     *guard.Guard
	log       *slog.Logger
	lookups   singleflight.Group

	ctx    context.Context //nolint:containedctx // that of fetches, which outlive who asked first
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	fetches map[origin]*fetch
}

// New returns a Cache, or nil when there are no upstreams.
func New(c Config) (*Cache, error) {
	if len(c.Upstreams) == 0 {
		return nil, nil //nolint:nilnil // the nil Cache serves nothing
	}
	cache := &Cache{now: c.Now, guard: c.Panics.Loop("image-fetches", c.Log), log: c.Log, fetches: map[origin]*fetch{}}
	base := c.Transport
	if base == nil {
		base = newTransport()
	}
	for _, text := range c.Upstreams {
		u, err := newUpstream(text, c.AuthFile, base)
		if err != nil {
			return nil, err
		}
		cache.upstreams = append(cache.upstreams, u)
	}
	var err error
	if cache.shelf, err = newShelf(c.Dir, c.Size, c.Now); err != nil {
		return nil, err
	}
	cache.ctx, cache.cancel = context.WithCancel(context.Background())
	return cache, nil
}

// Close ends all fetches; what they have stays.
func (c *Cache) Close() error {
	if c == nil {
		return nil
	}
	c.cancel()
	c.done.Wait()
	for _, u := range c.upstreams {
		u.close()
	}
	return nil
}

// Upstreams returns the names of the registries whose images are kept.
func (c *Cache) Upstreams() (names []string) {
	if c == nil {
		return nil
	}
	for _, u := range c.upstreams {
		names = append(names, u.name)
	}
	return names
}

// Path returns the repository under which images of a repository of another registry are
// served, and false when they are not.
func (c *Cache) Path(registry, repository string) (path string, served bool) {
	if c == nil {
		return "", false
	}
	for _, u := range c.upstreams {
		if u.is(registry) {
			return u.alias + "/" + repository, true
		}
	}
	return "", false
}

// Serves reports whether a repository is that of another registry.
func (c *Cache) Serves(repository string) bool {
	_, _, err := c.split(repository)
	return err == nil
}

// split returns the registry of a repository, and how it is called there.
func (c *Cache) split(repository string) (*upstream, string, error) {
	if c != nil {
		for _, u := range c.upstreams {
			if rest, is := strings.CutPrefix(repository, u.alias+"/"); is {
				return u, rest, nil
			}
		}
	}
	return nil, "", ErrUnknown
}

// Tag returns the digest that a tag stands for. It asks the registry at most once a minute,
// and takes what it knows when that cannot be asked.
func (c *Cache) Tag(ctx context.Context, repository, tag string) (v1.Hash, error) {
	u, there, err := c.split(repository)
	if err != nil {
		return v1.Hash{}, err
	}
	key := repository + ":" + tag
	known, at, is := c.shelf.tag(key)
	if is && c.now().Sub(at) >= 0 && c.now().Sub(at) < fresh {
		return known, nil
	}
	digest, err, _ := c.lookups.Do(key, func() (any, error) { return c.lookUp(ctx, u, there, tag, key) })
	if err != nil {
		if is && errors.Is(err, ErrUnavailable) {
			c.log.Warn("a tag stands for what it did, since its registry cannot be asked", "tag", key, "error", err)
			return known, nil
		}
		return v1.Hash{}, err
	}
	return digest.(v1.Hash), nil //nolint:forcetypeassert // of lookUp
}

func (c *Cache) lookUp(ctx context.Context, u *upstream, repository, tag, key string) (v1.Hash, error) {
	digest, data, err := u.resolve(context.WithoutCancel(ctx), repository, tag) // others wait, too
	if err != nil {
		return v1.Hash{}, err
	}
	if data != nil {
		if err := c.shelf.put(digest, data, c.busy()); err != nil {
			return v1.Hash{}, err
		}
	}
	return digest, c.shelf.setTag(key, digest)
}

// Has reports whether a blob is here.
func (c *Cache) Has(digest v1.Hash) bool { return c.shelf.has(digest) }

// Manifest returns a manifest or an index.
func (c *Cache) Manifest(ctx context.Context, repository string, digest v1.Hash) ([]byte, error) {
	u, there, err := c.split(repository)
	if err != nil {
		return nil, err
	}
	if data, err := c.shelf.get(digest); err == nil {
		return data, nil
	}
	data, err, _ := c.lookups.Do(there+"@"+digest.String(), func() (any, error) {
		data, err := u.manifest(context.WithoutCancel(ctx), there, digest.String())
		if err != nil {
			return nil, err
		}
		if !matches(data, digest) {
			return nil, fmt.Errorf("%w: %s sends another manifest than %s", ErrUnavailable, u, digest)
		}
		return data, c.shelf.put(digest, data, c.busy())
	})
	if err != nil {
		return nil, err
	}
	return data.([]byte), nil //nolint:forcetypeassert // of the function
}

func matches(data []byte, digest v1.Hash) bool {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]) == digest.Hex
}

// Open opens a blob from an offset on: one that is here, or one that comes. The last piece
// of one that comes is given away when the whole is what it should be.
func (c *Cache) Open(ctx context.Context, repository string, d v1.Descriptor, from int64) (io.ReadCloser, error) {
	u, there, err := c.split(repository)
	if err != nil {
		return nil, err
	}
	if d.Size == 0 {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	for {
		r, ending, err := c.openOnce(ctx, u, there, d, from)
		if ending == nil {
			return r, err
		}
		select {
		case <-ending:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// openOnce is as Open. While a fetch of the blob ends that was given up, it returns what is
// closed then.
func (c *Cache) openOnce(ctx context.Context, u *upstream, repository string, d v1.Descriptor, from int64) (r io.ReadCloser, ending <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := origin{u.alias + "/" + repository, d.Digest, d.Size}
	f := c.fetches[asked]
	if f == nil {
		if r, err := c.shelf.open(d, from); err == nil {
			return r, nil, nil
		}
		if f, err = c.begin(u, repository, d, asked); err != nil {
			return nil, nil, err
		}
	}
	r, ok := f.reader(ctx, from)
	if !ok {
		return nil, f.finished, nil
	}
	return r, nil, nil
}

// origin is where a blob comes from, and what a manifest says of it. Who is told lies by a
// manifest, or comes from a slow registry, keeps nobody else waiting.
type origin struct {
	repository string
	digest     v1.Hash
	size       int64
}

// file is the name of the file of a fetch.
func (o origin) file() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d", o.repository, o.digest, o.size))
	return hex.EncodeToString(sum[:])
}

// busy are the fetches under way.
type busy struct {
	// files are the names of their files.
	files map[string]bool
	// coming is how much more they have been given room for, in bytes.
	coming int64
}

func (c *Cache) busy() busy {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busyLocked()
}

func (c *Cache) busyLocked() busy {
	b := busy{files: map[string]bool{}}
	for o, f := range c.fetches {
		b.files[o.file()] = true
		b.coming += f.coming()
	}
	return b
}

// begin begins a fetch. The caller holds mu.
func (c *Cache) begin(u *upstream, repository string, d v1.Descriptor, o origin) (*fetch, error) {
	if c.ctx.Err() != nil {
		return nil, fmt.Errorf("%w: the server ends", ErrUnavailable)
	}
	file, err := c.shelf.begin(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(c.ctx)
	f := newFetch(d, file, cancel)
	f.room = func(size int64) error { return c.shelf.makeRoom(size, c.busy()) }
	c.fetches[o] = f
	c.done.Go(func() {
		defer cancel()
		err := c.settle(o, c.guard.Try(func() error {
			return f.run(ctx, func(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
				return u.blob(ctx, repository, d, offset)
			})
		}, "digest", d.Digest.String()))
		if err != nil && ctx.Err() == nil {
			c.log.Warn("fetching a part of an image", "registry", u.String(), "repository", repository, "digest", d.Digest.String(), "error", err)
		}
		f.end(err)
	})
	return f, nil
}

// settle puts what a fetch brought on the shelf, and ends it. It returns why there is nothing.
func (c *Cache) settle(o origin, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer delete(c.fetches, o)
	return c.guard.Try(func() error {
		switch {
		case err == nil:
			return c.shelf.keep(o)
		case errors.Is(err, errContent):
			c.shelf.drop(o)
		}
		return err
	}, "digest", o.digest.String())
}
