package traefik

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The parts of a baggage member (R3). A backquote would end a text of a rule.
const (
	ows        = `[ \t]*`
	word       = `[!#$%&'*+.^_\x60|~0-9A-Za-z-]+`
	value      = `(?:[!#$&-+\--:<-\[\]-~]|%[0-9A-Fa-f]{2})*`
	properties = `(?:;` + ows + `(?:` + word + ows + `(?:=` + ows + value + ows + `)?)?)*`
	hostName   = `[a-z0-9._-]+`
	// upgradeToHTTP is true of a line that names a kind of HTTP, or TLS, of any version.
	upgradeToHTTP = `(?i)(?:^|,)\s*(?:h2c?|http|tls)\s*(?:[/,]|$)`
	// label is that of a route in a preview host: no dot, and no "--".
	label = `(?:(?:-?[a-z0-9_])+-?|-)`
)

// baggageHas is true of a line that has a member with the key, be it malformed.
func baggageHas(key string) string { return `(?:^|,)` + ows + literal(key) + ows + `=` }

// baggageIs is true of a line that has a well-formed member with the key and that value.
func baggageIs(key, value string) string {
	return baggageHas(key) + ows + literal(value) + ows + properties + `(?:,|$)`
}

// baggageIsNot is true of a line that has a member with the key and any other value, be it malformed. Of a
// request with no such line, and one of baggageIs, the route is the value: all well-formed members have it (R3).
//
// Regular expressions of this kind know no "not": it is said for each byte that another one, or the end, is there.
func baggageIsNot(key, value string) string {
	var b strings.Builder
	b.WriteString(baggageHas(key) + ows)
	for i := range len(value) {
		b.WriteString(`(?:$|[^` + literal(value[i:i+1]))
		if i == 0 {
			b.WriteString(` \t`) // what ows may have left
		}
		b.WriteString(`]|` + literal(value[i:i+1]))
	}
	b.WriteString(ows + `[^ \t,;]`) // more behind it
	b.WriteString(strings.Repeat(`)`, len(value)))
	return b.String()
}

// cookieHas is true of a line that has the cookie.
func cookieHas(name string) string { return `(?:^|;)` + ows + literal(name) + `=` }

// literal matches text, in and outside of a class of characters.
func literal(text string) string {
	return strings.NewReplacer("`", `\x60`, "-", `\-`).Replace(regexp.QuoteMeta(text))
}

// ruleHosts is true of a request for one of the hosts. Traefik compares as R1 does: without case, port and a
// trailing dot. IPv6 addresses stand without brackets there.
func ruleHosts(hosts []string) string {
	rules := make([]string, 0, len(hosts))
	for _, host := range hosts {
		rules = append(rules, "Host(`"+strings.Trim(host, "[]")+"`)")
	}
	return or(rules...)
}

// ruleBelow is true of a request for a host under the suffix, which begins with a dot.
func ruleBelow(suffix string) string {
	return hostRegexp(`^` + hostName + literal(suffix) + `\.?$`)
}

// rulePreview is true of a request for <route>--<service>.<domain> (R2.1).
func rulePreview(labels []string, domain string) string {
	return hostRegexp(`^` + label + `--` + anyOf(labels) + literal("."+domain) + `\.?$`)
}

// rulePreviewOf is true of a request for <route>.<service-host>.
func rulePreviewOf(hosts []string) string {
	return hostRegexp(`^` + label + `\.` + anyOf(hosts) + `\.?$`)
}

func anyOf(texts []string) string {
	texts = slices.Clone(texts)
	slices.Sort(texts)
	for i, text := range texts {
		texts[i] = literal(text)
	}
	return `(?:` + strings.Join(texts, `|`) + `)`
}

func hostRegexp(expression string) string { return "HostRegexp(`" + expression + "`)" }

func headerRegexp(header, expression string) string {
	name := "`" + header + "`"
	if strings.Contains(header, "`") {
		name = strconv.Quote(header)
	}
	return "HeaderRegexp(" + name + ", `" + expression + "`)"
}

func path(p string) string { return "Path(`" + p + "`)" }

func and(rules ...string) string { return strings.Join(rules, " && ") }

// or is a rule that can be part of another; "" of none.
func or(rules ...string) string {
	if len(rules) < 2 {
		return strings.Join(rules, "")
	}
	return "(" + strings.Join(rules, " || ") + ")"
}

func not(rules []string) (out []string) {
	for _, rule := range rules {
		out = append(out, "!"+rule)
	}
	return out
}
