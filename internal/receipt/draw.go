package receipt

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/layover-dev/layover/api"
)

// How the picture is laid out, in pixels.
const (
	boxWidth, boxHeight   = 150, 34
	columnGap, rowGap     = 110, 26
	margin                = 20
	legendHeight          = 30
	longestName, arrowLen = 20, 8
)

// Draw writes an X-ray as a picture (SVG): services from left to right, as they call each other; edges that lose the route are
// red, those that lose it sometimes are orange, and those of which nothing is known are grey and dashed.
func Draw(w io.Writer, x api.XRay) {
	edges := mergedEdges(x.Edges)
	columns := columnsOf(edges)
	at := map[string][2]int{}
	width, height := 0, 0
	for c, names := range columns {
		for r, name := range names {
			at[name] = [2]int{margin + c*(boxWidth+columnGap), margin + r*(boxHeight+rowGap)}
			width, height = max(width, at[name][0]+boxWidth+margin), max(height, at[name][1]+boxHeight+margin)
		}
	}
	width, height = max(width, 420), height+legendHeight
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // into memory
	p(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height, width, height)
	p("<title>Which services pass the route on</title>\n")
	p(`<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	for _, e := range edges {
		from, to := at[e.caller], at[e.callee]
		x1, y1, x2, y2 := from[0]+boxWidth, from[1]+boxHeight/2, to[0], to[1]+boxHeight/2
		if from[0] >= to[0] { // backwards: below
			x1, y1, x2, y2 = from[0]+boxWidth/2, from[1]+boxHeight, to[0]+boxWidth/2, to[1]+boxHeight
		}
		colour, dash := e.look()
		p(`<path d="M%d %d C%d %d %d %d %d %d" fill="none" stroke="%s" stroke-width="2"%s><title>%s</title></path>`+"\n",
			x1, y1, (x1+x2)/2, y1, (x1+x2)/2, y2, x2, y2, colour, dash, html.EscapeString(e.words()))
		p(`<path d="M%d %d l-%d -4 l0 8 z" fill="%s"/>`+"\n", x2, y2, arrowLen, colour)
		if e.routed > 0 && e.carried < e.routed {
			p(`<text x="%d" y="%d" fill="%s" text-anchor="middle">%d of %d lost</text>`+"\n", (x1+x2)/2, (y1+y2)/2-5, colour, e.routed-e.carried, e.routed)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(at)) {
		p(`<rect x="%d" y="%d" width="%d" height="%d" rx="5" fill="#f3f4f6" stroke="#374151"/>`+"\n", at[name][0], at[name][1], boxWidth, boxHeight)
		short := name
		if len(short) > longestName {
			short = short[:longestName-1] + "…"
		}
		p(`<text x="%d" y="%d" text-anchor="middle" fill="#111827">%s</text>`+"\n", at[name][0]+boxWidth/2, at[name][1]+boxHeight/2+4, html.EscapeString(short))
	}
	p(`<text x="%d" y="%d"><tspan fill="#15803d">passes the route on</tspan>  <tspan fill="#c2410c">loses it at times</tspan>  <tspan fill="#dc2626">loses it</tspan>  <tspan fill="#6b7280">not known</tspan></text>`+"\n",
		margin, height-margin/2)
	p("</svg>\n")
}

// drawnEdge is what all versions of a service do together.
type drawnEdge struct {
	caller, callee         string
	calls, routed, carried int
	reasons                []string
}

func mergedEdges(all []api.XRayEdge) []drawnEdge {
	byName := map[[2]string]*drawnEdge{}
	for _, e := range all {
		caller, version, _ := strings.Cut(e.Caller, "@")
		key := [2]string{caller, e.Callee}
		d := byName[key]
		if d == nil {
			d = &drawnEdge{caller: caller, callee: e.Callee}
			byName[key] = d
		}
		d.calls, d.routed, d.carried = d.calls+e.Calls, d.routed+e.Routed, d.carried+e.Carried
		for _, reason := range slices.Sorted(maps.Keys(e.Reasons)) {
			d.reasons = append(d.reasons, fmt.Sprintf("%s: %s (%d)", version, reason, e.Reasons[reason]))
		}
	}
	out := make([]drawnEdge, 0, len(byName))
	for _, d := range byName {
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b drawnEdge) int {
		return cmp.Or(strings.Compare(a.caller, b.caller), strings.Compare(a.callee, b.callee))
	})
	return out
}

func (e drawnEdge) look() (colour, dash string) {
	switch {
	case e.routed == 0:
		return "#6b7280", ` stroke-dasharray="5 4"`
	case e.carried == e.routed:
		return "#15803d", ""
	case e.carried == 0:
		return "#dc2626", ""
	}
	return "#c2410c", ""
}

func (e drawnEdge) words() string {
	text := fmt.Sprintf("%s to %s: %d calls, %d should have carried a route, %d did", e.caller, e.callee, e.calls, e.routed, e.carried)
	if len(e.reasons) > 0 {
		text += "; " + strings.Join(e.reasons, ", ")
	}
	return text
}

// columnsOf puts each service one column behind the furthest that calls it; where they call each other in a circle, it ends.
func columnsOf(edges []drawnEdge) [][]string {
	column := map[string]int{}
	for _, e := range edges {
		column[e.caller], column[e.callee] = 0, 0
	}
	for range column {
		for _, e := range edges {
			if e.caller != e.callee && column[e.callee] <= column[e.caller] && column[e.caller] < len(column)-1 {
				column[e.callee] = column[e.caller] + 1
			}
		}
	}
	var out [][]string
	for _, name := range slices.Sorted(maps.Keys(column)) {
		for len(out) <= column[name] {
			out = append(out, nil)
		}
		out[column[name]] = append(out[column[name]], name)
	}
	return slices.DeleteFunc(out, func(names []string) bool { return len(names) == 0 })
}
