package route

import "strings"

// Resolve decides a request (R1 to R5). It does not allocate, and its cost does
// not depend on how much the table holds.
//
// What a source carries is a route as soon as it is not empty; a route that makes
// no sense names nothing known, which the decision says. An empty one (a baggage
// member "dynamic_route=", an empty header or cookie) is none, and the next source
// is asked. Header and cookie values of more than [MaxBaggage] bytes are not read.
func (t *Table) Resolve(r *Request) Decision {
	return t.resolve(r, nil)
}

// resolve is Resolve, and tells x, which may be nil, how it came to the decision.
func (t *Table) resolve(r *Request, x *recorder) Decision {
	var d Decision
	var buf hostBuffer
	host := normalHost(&buf, r.Host)
	label := t.selectService(&d, host)
	if x != nil {
		x.host(t, &d, r.Host, string(host), string(label))
	}
	if d.Service == nil {
		d.Outcome = UnknownHost
		return d
	}
	if d.HostBy == HostPreview {
		d.By, d.Route = ByPreview, t.previewRoute(d.Service, label, r.Host[:len(label)])
	} else {
		t.findRoute(&d, r)
	}
	if x != nil {
		x.sources(t, &d, r, string(label))
	}
	if d.By == ByDefault {
		d.Version = d.Service.Default
	} else {
		d.Strict = isStrict(d.Route)
		t.selectVersion(&d, x)
	}
	if d.Version == nil && d.Outcome == Found {
		d.Outcome = NoVersion
	}
	if x != nil {
		x.end(t, &d)
	}
	return d
}

// selectService applies R1, and returns the label of the route in a preview host.
func (t *Table) selectService(d *Decision, host []byte) (label []byte) {
	if h := t.dir.hosts.find(host); h.host != "" {
		d.Service, d.HostBy = t.services.at(h.service), HostExact
		return nil
	}
	if s := t.bySuffix(host); s != nil {
		d.Service, d.HostBy = s, HostSuffix
		return nil
	}
	if s, label := t.byPreview(host); s != nil {
		d.Service, d.HostBy = s, HostPreview
		return label
	}
	return nil
}

// bySuffix finds the service with the longest "*.suffix" that host is under.
func (t *Table) bySuffix(host []byte) *ServiceEntry {
	if t.dir.longest == 0 {
		return nil
	}
	for at := max(1, len(host)-t.dir.longest); at < len(host); at++ {
		if host[at] == '.' {
			if i, ok := t.dir.suffixes[string(host[at:])]; ok {
				return t.services.at(i)
			}
		}
	}
	return nil
}

// byPreview finds the service of <route>--<service>.<domain> or
// <route>.<service-host>. The label of the route is never empty and has no "--",
// which no name has.
func (t *Table) byPreview(host []byte) (s *ServiceEntry, label []byte) {
	dot := 0
	dashes := -1
	for dot < len(host) && host[dot] != '.' {
		if host[dot] == '-' && dot+1 < len(host) && host[dot+1] == '-' {
			dashes = dot
		}
		dot++
	}
	if dot == len(host) || dot == 0 {
		return nil, nil
	}
	if dashes < 0 {
		if h := t.dir.hosts.find(host[dot+1:]); h.host != "" {
			return t.services.at(h.service), host[:dot]
		}
		return nil, nil
	}
	for i := 0; i+1 < dashes; i++ {
		if host[i] == '-' && host[i+1] == '-' {
			return nil, nil
		}
	}
	if dashes == 0 || string(host[dot+1:]) != t.spec.Domain {
		return nil, nil
	}
	if i, ok := t.dir.labels[string(host[dashes+2:dot])]; ok {
		return t.services.at(i), host[:dashes]
	}
	return nil, nil
}

// previewRoute is the route that the label of a preview host names: the version
// or named route of that name, be it one that the service lacks; else the one
// whose preview label it is; else the label as it came.
func (t *Table) previewRoute(s *ServiceEntry, label []byte, raw string) string {
	if known := t.names.find(label); known.count > 0 {
		return known.name
	}
	hashed := t.hashed.find(labelHash(label))
	if name := hashed.labelled(label, s.owner.previewRoom()); name != "" {
		return name
	}
	if name := hashed.labelled(label, maxName); name != "" {
		return name
	}
	return raw
}

// findRoute applies R2.2 to R2.5.
func (t *Table) findRoute(d *Decision, r *Request) {
	if value, _ := Member(r.Baggage, t.spec.BaggageKey); value != "" {
		d.By, d.Route = ByBaggage, value
		return
	}
	if t.spec.RouteHeader != "" {
		if value := headerRoute(r.Header); value != "" {
			d.By, d.Route = ByHeader, value
			return
		}
	}
	if value := cookieRoute(r.Cookie); value != "" {
		d.By, d.Route = ByCookie, value
		return
	}
	if r.Healed != "" {
		d.By, d.Route = r.HealedBy, r.Healed
	}
}

// headerRoute is the first line that is not empty, without the white space around it.
func headerRoute(lines []string) string {
	for _, line := range lines {
		if line = trimOWS(line); line != "" {
			return readable(line)
		}
	}
	return ""
}

// cookieRoute is the value of the first cookie named CookieName (RFC 6265,
// section 4.2.1), without the quotes it may stand in. User agents send the cookie
// with the longest path first, so the first one is the most specific.
func cookieRoute(lines []string) string {
	for _, line := range lines {
		for line != "" {
			pair := line
			if at := strings.IndexByte(line, ';'); at >= 0 {
				pair, line = line[:at], line[at+1:]
			} else {
				line = ""
			}
			pair = trimOWS(pair)
			if !strings.HasPrefix(pair, CookieName) {
				continue
			}
			value := pair[len(CookieName):]
			if value == "" || value[0] != '=' {
				continue
			}
			value = value[1:]
			if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
				value = value[1 : n-1]
			}
			return readable(value)
		}
	}
	return ""
}

// readable is value, or nothing where it is longer than what is read of a route.
func readable(value string) string {
	if len(value) > MaxBaggage {
		return ""
	}
	return value
}

// selectVersion applies R4 and the part of R5 that chooses a version.
//
// A selector that is scoped to the service, and a named route with a pick for it,
// decide for the service even where it lacks the version they name: a person
// asked for exactly that one, and a later selector is not an answer to it.
func (t *Table) selectVersion(d *Decision, x *recorder) {
	s := d.Service
	var scan selectorScan
	var chosen *VersionEntry
	match := MatchNone
	selectors := 0
	for scan.start(d.Route); scan.next(); {
		selectors++
		name := scan.version()
		service, scoped := scan.service()
		switch {
		case scoped && string(service) == s.Name:
			chosen, match = s.versions.find(name), MatchScoped
			if x != nil {
				x.chosen(scan.text(), match, s, string(name), chosen)
			}
		case scoped || match != MatchNone:
			if x != nil {
				x.skipped(scan.text(), scoped)
			}
		default:
			chosen, match = t.byName(s, name)
			if x != nil {
				x.unscoped(scan.text(), match, s, string(name), chosen)
			}
		}
		if match == MatchScoped {
			break
		}
	}
	anyKnown, allKnown := true, true
	alone := selectors == 1 && !scan.more && chosen != nil // it is known: the common case needs no second look
	if !alone && (d.Strict || match == MatchNone) {
		anyKnown, allKnown = t.known(d.Route, x)
	}
	switch {
	case d.Strict && (!allKnown || match != MatchNone && chosen == nil):
		d.Outcome = UnknownRoute
	case chosen != nil:
		d.Version, d.Match = chosen, match
	case match == MatchNone && anyKnown:
		d.Version, d.Fallback = s.Default, FallbackDefault
	default:
		d.Version, d.Fallback = s.Default, FallbackUnknown
	}
}

// byName finds what an unscoped selector means for a service: the pick of a named
// route, else a version. Chosen is nil where the service lacks the version that
// the route picks. It does not look into the version: that is a line of memory
// which is hardly ever in a cache where there are many.
func (t *Table) byName(s *ServiceEntry, name []byte) (chosen *VersionEntry, match Match) {
	if len(s.picks) > 0 {
		if want, ok := s.picks[string(name)]; ok {
			return s.Version(want), MatchNamed
		}
	}
	if v := s.versions.find(name); v != nil {
		return v, MatchName
	}
	return nil, MatchNone
}

// known says whether any and whether all selectors of a route name something that
// exists somewhere in the environment: a version of the service they are scoped
// to, and without a scope a version of any service or a named route.
func (t *Table) known(route string, x *recorder) (anyKnown, allKnown bool) {
	allKnown = true
	var scan selectorScan
	for scan.start(route); scan.next(); {
		known := t.knows(&scan)
		if known {
			anyKnown = true
		} else {
			allKnown = false
		}
		if x != nil {
			x.known(scan.text(), known)
		}
	}
	return anyKnown, allKnown
}

func (t *Table) knows(scan *selectorScan) bool {
	name := scan.version()
	if service, scoped := scan.service(); scoped {
		i, ok := t.dir.byName[string(service)]
		return ok && t.services.at(i).versions.find(name) != nil
	}
	return t.names.find(name).count > 0
}
