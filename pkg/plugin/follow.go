package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/reconcile"
)

const (
	// between is the least time between two tables: what happens at once is shown at once.
	between = 100 * time.Millisecond
	// ageing is how often a terminal shows how old things became.
	ageing = time.Second
	// problemLasts is how long a problem of the connection is shown: the watch is tried again
	// every 30 seconds at least.
	problemLasts = time.Minute
)

// feed is what an informer learns.
type feed struct {
	cache.SharedIndexInformer
	changed chan struct{} // has room for one

	mu      sync.Mutex // guards what follows
	problem string
	at      time.Time
}

// newFeed returns a feed of the Deployments of a view that does not run yet.
func (v *view) newFeed() (*feed, error) {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return v.deployments.List(ctx, v.narrow(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return v.deployments.Watch(ctx, v.narrow(o))
		},
	}
	f := &feed{SharedIndexInformer: cache.NewSharedIndexInformer(lw, &v1alpha1.Deployment{}, 0, cache.Indexers{}), changed: make(chan struct{}, 1)}
	_, err := f.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { f.tell() }, UpdateFunc: func(any, any) { f.tell() }, DeleteFunc: func(any) { f.tell() },
	})
	return f, errors.Join(err, f.SetTransform(reconcile.WithoutManagedFields),
		f.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { f.failed(err, v.now()) }))
}

// narrow asks for the Deployments of the view.
func (v *view) narrow(o metav1.ListOptions) metav1.ListOptions {
	o.LabelSelector, o.FieldSelector = v.options.LabelSelector, v.options.FieldSelector
	return o
}

func (f *feed) tell() {
	select {
	case f.changed <- struct{}{}:
	default: // somebody will look already
	}
}

// failed notes what hinders the watch. One that ended as watches do is begun again.
func (f *feed) failed(err error, at time.Time) {
	if errors.Is(err, io.EOF) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return
	}
	f.mu.Lock()
	f.problem, f.at = printable.Line(err.Error()), at
	f.mu.Unlock()
	f.tell()
}

// hindered returns what hinders the watch now.
func (f *feed) hindered(now time.Time) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.at) > problemLasts {
		return ""
	}
	return f.problem
}

// all are the Deployments that are known.
func (f *feed) all() []*v1alpha1.Deployment {
	var all []*v1alpha1.Deployment
	for _, o := range f.GetStore().List() {
		all = append(all, o.(*v1alpha1.Deployment))
	}
	return all
}

// display shows Deployments as they are now.
type display interface {
	show(all []*v1alpha1.Deployment, problem string) error
}

// follow shows changes until ctx ends.
func (v *view) follow(ctx context.Context, out, errOut io.Writer) error {
	f, err := v.newFeed()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { f.RunWithContext(ctx) })
	defer running.Wait()
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), f.HasSynced) {
		return nil // interrupted
	}
	var d display = &lines{view: v, printer: printers.NewTablePrinter(v.print), out: printers.GetNewTabWriter(printable.Exact(out)), errOut: errOut}
	var aged <-chan time.Time
	if s, ok := newScreen(out); ok {
		d = &live{view: v, screen: s}
		ticker := time.NewTicker(ageing)
		defer ticker.Stop()
		aged = ticker.C
	}
	for {
		if err := d.show(f.all(), f.hindered(v.now())); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(between):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.changed:
		case <-aged:
		}
	}
}

// lines prints each change as a line of a table that grows. Printer and writer remember
// that there is a header, and how wide columns are.
type lines struct {
	*view
	printer printers.ResourcePrinter
	out     flusher
	errOut  io.Writer
	shown   map[string][]any
	problem string
}

// flusher is a writer that holds lines back until it knows how wide their columns are.
type flusher interface {
	io.Writer
	Flush() error
}

// show implements display.
func (l *lines) show(all []*v1alpha1.Deployment, problem string) error {
	var changed []*v1alpha1.Deployment
	now := map[string][]any{}
	for _, d := range all {
		key := d.Namespace + "/" + d.Name
		row := slices.Delete(cells(d, l.now()), ageColumn, ageColumn+1)
		now[key] = row
		if !slices.Equal(row, l.shown[key]) {
			changed = append(changed, d)
		}
	}
	for key := range l.shown {
		if now[key] == nil {
			if _, err := fmt.Fprintf(l.errOut, "%s is deleted\n", key); err != nil {
				return err
			}
		}
	}
	l.shown = now
	if problem != "" && problem != l.problem {
		fmt.Fprintln(l.errOut, problem+": trying again")
	}
	l.problem = problem
	if len(changed) == 0 {
		return nil
	}
	if err := l.printer.PrintObj(l.table(changed), l.out); err != nil {
		return err
	}
	return l.out.Flush()
}

// live shows a table that changes in its place on a terminal.
type live struct {
	*view
	screen *screen
}

// show implements display.
func (l *live) show(all []*v1alpha1.Deployment, problem string) error {
	var b bytes.Buffer
	if len(all) == 0 {
		b.WriteString("No resources found\n")
	} else if err := printers.NewTablePrinter(l.print).PrintObj(l.table(all), &b); err != nil {
		return err
	}
	if problem != "" {
		fmt.Fprintf(&b, "\n%s: trying again\n", problem)
	}
	return l.screen.draw(b.String())
}

// screen is a part of a terminal that is drawn again and again.
type screen struct {
	terminal *os.File
	drawn    int // lines
}

// newScreen returns a screen on the terminal that a writer leads to, and false when it
// leads elsewhere.
func newScreen(w io.Writer) (*screen, bool) {
	if wrapped, ok := w.(interface{ Unwrap() io.Writer }); ok { // escapes what moves the cursor
		w = wrapped.Unwrap()
	}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || !obeys(f) {
		return nil, false
	}
	return &screen{terminal: f}, true
}

// draw draws a text over the one before. Lines that are too long end at the border, and
// so do those that are too many: what was scrolled away cannot be drawn over.
func (s *screen) draw(text string) error {
	lines := strings.Split(strings.TrimSuffix(printable.Lines(text), "\n"), "\n")
	if _, height, err := term.GetSize(int(s.terminal.Fd())); err == nil && height > 2 && len(lines) >= height {
		more := len(lines) - (height - 2)
		lines = append(lines[:height-2], fmt.Sprintf("… and %d more", more))
	}
	var b strings.Builder
	b.WriteString("\x1b[?7l") // no line goes on in the next one
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	for _, line := range lines {
		b.WriteString("\r" + line + "\x1b[K\n")
	}
	b.WriteString("\x1b[J\x1b[?7h")
	s.drawn = len(lines)
	_, err := io.WriteString(s.terminal, b.String())
	return err
}
