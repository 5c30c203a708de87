//go:build linux

package main

import (
	"fmt"
	"strings"
)

// The chart has two panels with an axis each.
const (
	panelWidth, panelHeight = 300, 180
	margin                  = 50
)

// chart draws time and memory by the number of devices.
func (r *report) chart() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		2*(panelWidth+2*margin), panelHeight+2*margin)
	b.WriteString(`<rect width="100%" height="100%" fill="#ffffff"/>` + "\n")
	r.panel(&b, 0, "apply until all aggregates are exact, s", "#0b6e4f", func(l loadResult) float64 { return l.Exact.Seconds() })
	r.panel(&b, panelWidth+2*margin, "resident memory of fleet-server, MB", "#8a3033", func(l loadResult) float64 { return float64(l.settled) / 1e6 })
	b.WriteString("</svg>\n")
	return b.String()
}

func (r *report) panel(b *strings.Builder, left int, title, color string, value func(loadResult) float64) {
	largest, most := 0.0, r.most()
	for _, l := range r.loads {
		largest = max(largest, value(l))
	}
	x := func(devices int) float64 {
		return float64(left+margin) + float64(panelWidth)*float64(devices)/float64(most)
	}
	y := func(v float64) float64 { return margin + panelHeight*(1-v/(1.15*largest)) }
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold" fill="#222222">%s</text>`+"\n", left+margin, margin-20, title)
	fmt.Fprintf(b, `<path d="M%d %d V%d H%d" fill="none" stroke="#888888"/>`+"\n", left+margin, margin, margin+panelHeight, left+margin+panelWidth)
	for _, tree := range []struct{ name, color string }{{earlierTree, "#999999"}, {thisTree, color}} {
		loads := r.of(tree.name)
		points := make([]string, len(loads))
		for i, l := range loads {
			v := value(l)
			points[i] = fmt.Sprintf("%.1f,%.1f", x(l.devices), y(v))
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x(l.devices), y(v), tree.color)
			fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="%s">%.4g</text>`+"\n", x(l.devices), y(v)-8, tree.color, v)
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), tree.color)
	}
	for _, l := range r.of(thisTree) {
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555555">%d</text>`+"\n", x(l.devices), margin+panelHeight+16, l.devices)
	}
	if len(r.of(earlierTree)) > 0 {
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#999999">%s</text>`+"\n", left+margin+panelWidth, margin-4, earlierTree)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle" fill="#555555">devices</text>`+"\n", left+margin+panelWidth/2, margin+panelHeight+36)
}
