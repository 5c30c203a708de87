package datastore

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// scrapeTime is how long a scrape waits for the sizes: a compaction may hold them up.
const scrapeTime = 2 * time.Second

var (
	storeBytes = prometheus.NewDesc("fleet_store_bytes", "Size of the API store: its file, what of it is in use, and SQLite's log beside it.", []string{"of"}, nil)
	diskBytes  = prometheus.NewDesc("fleet_disk_bytes", "Size of the file system of the data directory, and what of it is free.", []string{"of"}, nil)
	diskFull   = prometheus.NewDesc("fleet_disk_full", "1 while writes are refused because the disk has no room, else 0.", nil, nil)
)

// Collector are the metrics of the store and of its disk.
func (d *Datastore) Collector() prometheus.Collector { return collector{d} }

type collector struct{ *Datastore }

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- storeBytes
	ch <- diskBytes
	ch <- diskFull
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	if sizes, err := c.FileSizes(ctx); err == nil {
		gauge(storeBytes, sizes.File, "file")
		gauge(storeBytes, sizes.Live, "live")
		gauge(storeBytes, sizes.Log, "log")
	}
	space, full := c.Space(), int64(0)
	if c.Full() != nil {
		full = 1
	}
	gauge(diskBytes, space.Free, "free")
	gauge(diskBytes, space.Total, "total")
	gauge(diskFull, full)
}
