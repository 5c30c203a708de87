//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

const (
	reportName = "benchmarks.md"
	chartName  = "benchmarks.svg"
)

// report is what the benchmark found.
type report struct {
	rows  []row
	loads []loadResult
}

type row struct {
	what, value, target string
	met                 bool
}

func (r *report) add(what, value, target string, met bool) {
	r.rows = append(r.rows, row{what, value, target, met})
}

// table is the figures in Markdown.
func (r *report) table() string {
	var b strings.Builder
	b.WriteString("| figure | measured | target | |\n|---|---|---|---|\n")
	for _, row := range r.rows {
		mark := ""
		switch {
		case row.target == "":
		case row.met:
			mark = "met"
		default:
			mark = "**missed**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", row.what, row.value, row.target, mark)
	}
	return b.String()
}

func (r *report) loadTable() string {
	var b strings.Builder
	b.WriteString("| devices | tree | enrolled in | a second | the first and the last of them | connected and labelled in | apply until exact | memory when settled | for each device | processor when settled | store on disk | rest of the data directory | these, after |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, l := range r.loads {
		fmt.Fprintf(&b, "| %d | %s | %s | %.0f | %.0f, %.0f | %s | %s | %.0f MB | %.0f KB | %.2f %% of a core | %s | %s | %.1f min |\n", l.devices, l.tree, seconds(l.Enroll), l.perSecond(), l.FirstRate, l.LastRate,
			seconds(l.Connect), seconds(l.Exact), float64(l.settled)/1e6, l.each()/1e3, l.idle, megabytes(l.store), megabytes(l.rest), l.storeAfter.Minutes())
	}
	return b.String()
}

const text = `# Benchmarks

` + "`make bench`" + ` wrote this page on %s.

%s
## Many devices

%s
![time until exact and memory, by number of devices](%s)

## Method

Everything is measured on the binaries as shipped, on one machine: %s.

- *Ready* is the time from the start of the process until it prints that it is
  ready: the API serves the definitions, the bus is up and manifests are
  complete. Medians of repeated starts, each on a data directory of its own.
- *Until the container answers*: ` + "`kubectl apply`" + ` and ` + "`podman run`" + ` take turns on
  the same Debian 13 device (systemd-nspawn, podman 5.4.2, rootless), with the
  same image, which is there already. Both end with the first HTTP answer on the
  published port. The time of ` + "`kubectl apply`" + ` includes kubectl itself; that of
  ` + "`podman run`" + ` is taken inside the device. Medians; the ratio is the median of
  the ratios of neighbours.
- *Idle* is with one device connected that runs one Deployment, while nothing
  changes: resident memory (VmRSS, of no file: RssAnon) at the end, processor time over
  the interval.
- *Devices that report at once* are connections to the device API in one process with
  it: each sends its next report when the last one is answered. A device rests for
  three times as long as its work took, so that others come first. Medians of repeated
  runs (` + "`go test -bench Door ./pkg/deviceapi`" + `).
- *In the core* are the table of devices and Deployments alone, in one process, and the time
  of one change on the clock (` + "`go test -bench . ./pkg/assignment`" + `): medians of repeated runs
  with 10,000 devices, one run with a million. Its memory is what is live after a collection,
  with a report of each device.
- *Simulated devices* speak the real protocol, each with a key, an enrollment and
  a connection over mutual TLS of its own, and share the machine with the server.
  Three Deployments select half, a quarter and a quarter of them. Each number is
  one run; statuses are written at most once a second, which sets the floor.
  *Settled* is 90 s later, while all of them are connected and nothing changes. The
  memory for each device is what the server takes then, less what it took before the
  first one came, without the pages of the program, which are the same for any number
  (RssAnon). *Before* is an earlier tree, measured by turns: ` + "`make bench BASE=COMMIT`" + `.
- *The first and the last* enrollments are the first 500 and the last 500 of a run, or the
  halves of a smaller one, by when each device had its certificate. *The last device came*
  when the API showed the labels of all.
- *The store on disk* is ` + "`state.db`" + ` with its WAL and its index, while the server runs: the
  length of the files.
- *The most memory* is the peak of the resident memory (VmHWM): since the start of the
  server for devices that enroll, and since the first of the lists for those that are
  listed. *Devices come back* from the moment at which a restarted server is ready. It is
  in a control group with that limit of memory; pages of the program that were in the
  kernel's cache before count outside. With such a limit the server sets GOMEMLIMIT to three
  quarters of it. On a host of the older kind, whose limits earlier versions do not read,
  GOMEMLIMIT is set for it.
- *For each flush of the medium* so long is added: strace delays each fsync and fdatasync
  of the server, and counts them. Meanwhile one client reads and writes one object of
  the API, twenty times a second.

## What the time of an apply is made of

Profiles show three parts. kubectl, as embedded in fleet-server, takes nearly half
of it: half of that is the initialisation of everything that is linked into one
binary, the rest is reading the API's description, checking and one write. From
the write until the device begins to create the container 10 to 15 ms pass.
podman's own create and start are the remainder, a little less than a whole
` + "`podman run`" + `, whose own start the service saves. What was changed after
profiling: kubectl's message catalogue is not unpacked (17 ms), nothing is garbage
collected during initialisation (15 ms), manifests do not wait for the finalizer,
and an agent reports that it is waiting only when it has to pull an image.

## What the time of five services is made of

The agent looks at a device, makes and starts what can be started, one container after another,
and looks again when a probe has succeeded. Most of the time is podman's, for five containers,
150 ms each beside other work. Of the chain store, api, web, each of which waits until the one before
is healthy, every link costs 20 ms besides until a probe of the new container has succeeded, and
20 ms until the next one is made, in which podman is asked for each container, for images and for
the network. A look also waited until 200 ms had passed since the one before, so that what changes
all the time does not keep a device busy: 400 ms of this chain. After some rest, ten looks may
follow each other at once now, which brought the ratio from 1.2 to 0.85, measured by turns on a busy
machine. To make those that wait ahead of time would save nothing here: each is healthy as soon as
it runs, so that the same work would only be done a moment earlier.

## What a device at rest does

With five services and a tcp and an http probe each, every 10 s, agent, helper, podman and
monitors once took 0.54 %% of a core: podman 0.38, the helper 0.09, the agent 0.07. More than a
third of podman's part was its stream of events, for which it reads a file four times a second;
two looks a minute at all containers took some of the rest. The agent watches control groups
instead, see [design note 16](design/0016-the-agent-owns-what-runs.md), and the helper makes
eight sockets at a time: 0.24 %%, podman 0.19, the helper 0.01, the agent 0.04. In ten minutes
no file is written, and the link carries 0.77 MB a day, of which heartbeats are 0.73: 203
bytes and 52 to acknowledge them, every 30 s. What remains of podman is a timer of its own, ten
times a second for as long as its service runs. If it did not run, the next apply would wait
for its start.

## What an idle server does

A trace of an idle server shows 40 wake-ups a second and next to no work in any of
them: 18 count the unfinished work of the API server's nine queues (client-go, twice
a second each), 10 keep the clock of JetStream's file stores, the rest are timers of
a second and more. The first two cannot be switched off from outside.

By the kernel's count of its threads, a server with one device takes 30 ms in ten seconds, and 30
to 40 ms more once a minute, when it gives memory back: under 0.4 %% of a core. Goroutines run for a
third of that; the rest is what it costs to wake a thread. With 1,000 devices it is 43 ms in ten
seconds, and 130 ms once a minute. Tables that say more began to measure 15 s after a change.

Of the 145 MB that it once took, 100 MB were pages of the program itself, which is large
because half of it describes APIs. A start reads nearly all of it, and once a minute the
server now releases what it has mapped of it: 15 to 45 MB come back, depending on what happens
within the minute. The others stay in the kernel's cache until somebody needs the memory, and
are then among the first to go. The server's own clients, which connect in memory, ask for no
compression: that took 3.5 MB of the 51 MB that are of no file.

## What the memory of a server is made of

A server with 1,000 devices, while nothing changes, by /proc/PID/smaps and Go's own counts, on a
machine that others kept busy:

| MB | before | with GOGC at 50 |
|---|---|---|
| pages of the program that are mapped | 104 | 65 |
| Go's heap: what is live | 65 | 58 |
| Go's heap: garbage, and free places on pages that hold something live | 54 | 50 |
| stacks of goroutines | 19 | 19 |
| what the collector, its spans and its profiles take | 14 | 13 |
| the data of SQLite and of the program, and what is about to be given back | 5 | 5 |
| all that is resident | 261 | 210 |

Of what is live, 25 MB are there without a device, and 33 KB are of each: 13 KB are NATS's
connection and its TLS (4 KB are a buffer within the parser, 2.3 KB what the handshake grew the
reader's to, 1.5 KB tables of the cipher), 7 KB the trees of what it may say and hear and of what
it subscribed to, the rest the Device, its manifest, its roster entry and its digests. A
connection kept the certificate that it came with, 6.4 KB, and NATS 6 KB of each of the last 10,000
that had ended.

A connection has two goroutines and 12 KB of stack. The one that reads stands 2 KB deep: Go makes
a stack smaller only when less than a quarter is used, 800 bytes to spare included, so that 8 KB
stay; for the one that writes, 4 KB.

The free places are what a burst leaves. Go does not move what is live, and a page goes back to
the system when nothing on it is. So the settled server still has the shape of its largest
moment, which is what was live then and the garbage that GOGC allows. Collections in quiet times
change little: 1,000 heartbeats every 30 s leave 12 MB of garbage a minute, which go with the
memory that is given back each minute. With GOGC at 35 instead of 50, 1,000 devices take 239 MB instead of 276 at most
until all are connected, 255 instead of 276 with their Deployments, and 11 %% less stays (at 40: 250,
272 and 8 %%); the collector's share of the processor while they come grows from 23
to 28 %%. Collections cost in inverse proportion: with 20, under 85 KB are left for each
device, and the collector would take twice its share. The server has 50.

## Ten thousand devices from one process

The example of ` + "`" + `fleet-sim --help` + "`" + `, on the same two cores as the server, for twenty minutes: 10,000
devices enrolled in 64 s (half of them within 96 ms, 99 of 100 within 191 ms), all were connected 66 s
later, and a Deployment for all of them was exact 8 s after its apply, while ` + "`" + `kubectl get` + "`" + ` asked for
it twice a second. One device in a hundred lost its connection every 30 s. Three times all lost
theirs at once, and were back after 82, 72 and 68 s: a storm of connections meets a server that takes about 130 a
second beside the simulator, and turns the others away before their handshake. They pause for up to
10 s and ask again. The server took 1,228 MB at most and 790 to 1,030 MB later, 79 to 96 KB a device, and
its data directory 72 MB. At the end all 10,000 were in step.

## What a start with 10,000 Devices waits for

The server is ready when manifests are complete, and for that its controllers need every
Device. When they asked the API, half of the start's processor time was the API server that
decodes each Device on its way out of the store (a custom resource becomes a tree of maps,
which is pruned and gets its defaults), a quarter the server's own client that decodes it again,
and an eighth the garbage of both. On a machine with thirty processes that wanted its two
cores, such a start took more than the minute after which the server gives up.

The controllers now begin with the rows of the store, which are read and decoded once, in one
transaction, while the API server starts ([design note
6](design/0006-no-watch-cache-and-full-synchronous.md)). kine reads the keys of everything, to find
those that expire, ten seconds later. Until the server is ready, Go collects garbage when there is
twice as much of it as of what is live, instead of half as much. Measured by turns
on a machine that others kept busy, a start takes 1.0 s of the processor instead of 5 to 10 s, of which
0.6 s are those of a start without Devices; the table above is from before.
Controllers do not look ten times a second whether lists are complete: they are told.

## What a write costs

Every change is flushed before it is acknowledged. kine does that for one change at a time;
here, those that come during a flush share the next one. 16 clients that create, read and
change 1,500 keys of 3 KB: 640 flushes instead of 3,570, and 1.6 instead of 2.9 ms of processor
time for each key. While the statuses of 10,000 Devices were written, 28 %% of the processor's
time was the API server's update of custom resources, 10 %% kine's write, 9 %% the decoding of
what watches tell, 14 %% the collection of garbage, and 7 %% SQLite's parser, which prepared
statements save since.

## What a device that enrolls or comes back costs

In processor time on a machine that others kept busy, with fleet-sim on the same cores. An enrollment took the server 14 ms
and the simulator 4 ms, the 4,000th as much as the first: a read of the token, a write of the
Device, which is most of it, and two handshakes. The collection of garbage was 28 %% of it: a
busy server with a small heap now lets 96 MB of garbage gather before it collects, which makes a quarter as
many collections (12 instead of 48 for 600 enrollments) and leaves 12 ms. Those that ask at one
time share a read of their token: 231 instead of 600. Eight are decided at a time instead of
sixteen, which lets as many in, and a write of the API meanwhile takes a quarter less.

A device that came back after a restart of the server took 11.5 ms, most of it to apply a report that
changed nothing, and one attempt in three was turned away, since handshakes had to wait. The
server now knows from its cache what it applied: 3.6 ms, and 1.5 ms of the simulator. While devices
connect for the first time and report, each costs three writes and no read.

## Images of other registries through the gateway

` + "`" + `FLEET_IMAGE_MB=200 go test ./test/integration -run TestTenDevices -v` + "`" + ` has ten devices pull an image of 200 MB at
the same time through the gateway: 1.0001 times the image came from its registry (at most 1.05 were the aim), in 39 s on a
busy machine, on which registry, gateway and devices shared the two cores. Without the gateway it is 10 times.
`

// write writes the report and its chart.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, chartName), []byte(r.chart()), 0o644); err != nil {
		return err
	}
	page := fmt.Sprintf(text, time.Now().UTC().Format(time.DateOnly), r.table(), r.loadTable(), chartName, machine())
	return atomicfile.Write(filepath.Join(dir, reportName), []byte(page), 0o644)
}

// machine says what the figures were measured on.
func machine() string {
	model := "unknown processor"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	var info unix.Sysinfo_t
	memory := "?"
	if unix.Sysinfo(&info) == nil {
		memory = fmt.Sprint(uint64(info.Totalram) * uint64(info.Unit) >> 30)
	}
	return fmt.Sprintf("%s, %d cores, %s GiB, %s", model, runtime.NumCPU(), memory, runtime.Version())
}
