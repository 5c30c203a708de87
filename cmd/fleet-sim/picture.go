package main

import (
	"bytes"
	"fmt"
	"strings"
)

// The picture's panel, and what is around it, in pixels.
const (
	panelWidth, panelHeight = 720, 300
	left, top               = 70, 50
)

// picture draws the devices that enrolled, and those that are synced, over time, as
// SVG. Storms are dashed lines.
func (r *rehearsal) picture() []byte {
	var b bytes.Buffer
	most, end := float64(len(r.fleet.Devices)), r.samples[len(r.samples)-1].at.Seconds()
	x := func(seconds float64) float64 { return left + panelWidth*seconds/max(end, 1) }
	y := func(devices float64) float64 { return top + panelHeight*(1-devices/most) }
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", panelWidth+2*left, panelHeight+2*top)
	b.WriteString(`<rect width="100%" height="100%" fill="#ffffff"/>` + "\n")
	fmt.Fprintf(&b, `<path d="M%d %d V%d H%d" fill="none" stroke="#888888"/>`+"\n", left, top, top+panelHeight, left+panelWidth)
	const marks = 4
	for i := range marks + 1 {
		part := float64(i) / marks
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end" fill="#555555">%.0f</text>`+"\n", left-8, y(most*part)+4, most*part)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555555">%.0f s</text>`+"\n", x(end*part), top+panelHeight+20, end*part)
	}
	for _, at := range r.storms {
		fmt.Fprintf(&b, `<path d="M%.1f %d V%d" stroke="#8a3033" stroke-dasharray="4 4"/>`+"\n", x(at.Seconds()), top, top+panelHeight)
	}
	for i, line := range []struct {
		name, color string
		of          func(sample) int
	}{
		{"enrolled", "#555555", func(s sample) int { return s.enrolled }},
		{"synced", "#0b6e4f", func(s sample) int { return s.synced }},
	} {
		points := make([]string, len(r.samples))
		for j, s := range r.samples {
			points[j] = fmt.Sprintf("%.1f,%.1f", x(s.at.Seconds()), y(float64(line.of(s))))
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), line.color)
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s" font-weight="bold">%s</text>`+"\n", left+i*90, top-18, line.color, line.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
