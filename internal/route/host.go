package route

import (
	"fmt"
	"net/netip"
	"strings"
)

// maxHost is the longest host name (RFC 1035, section 2.3.4, as text without the
// final dot).
const maxHost = 253

// hostBuffer has room for a host with its final dot.
type hostBuffer [maxHost + 1]byte

// normalHost writes the host that an authority names into buf: lower case,
// without port and without one trailing dot. An IPv6 address keeps its brackets.
// What cannot be the host of a service comes back as nil: an empty or very long
// host, one with user information or any other byte that host names do not have,
// and a port that is no number. It does not allocate.
func normalHost(buf *hostBuffer, authority string) []byte {
	if strings.HasPrefix(authority, "[") {
		return normalIPv6(buf, authority)
	}
	n := 0
	for n < len(authority) && n < len(buf) {
		c := authority[n]
		if octets[c]&inName == 0 {
			if c = lower(c); octets[c]&inName == 0 {
				break
			}
		}
		buf[n] = c
		n++
	}
	if port := authority[n:]; port != "" && (port[0] != ':' || !isDigits(port[len(":"):])) {
		return nil
	}
	if n > 0 && buf[n-1] == '.' {
		n--
	}
	if n > maxHost {
		return nil
	}
	return buf[:n]
}

func normalIPv6(buf *hostBuffer, authority string) []byte {
	end := strings.IndexByte(authority, ']')
	if end < 0 || end >= maxHost {
		return nil
	}
	if port := authority[end+1:]; port != "" && (port[0] != ':' || !isDigits(port[1:])) {
		return nil
	}
	for i := range end + 1 {
		buf[i] = lower(authority[i])
	}
	return buf[:end+1]
}

// checkHost checks a host of a service as it stands in a Spec, and returns the
// form that requests are compared with.
func checkHost(host string) (normal string, err error) {
	if strings.HasPrefix(host, "[") {
		return checkIPv6(host)
	}
	normal = strings.ToLower(host)
	labels, wildcard := strings.CutPrefix(normal, "*.")
	switch {
	case host == "":
		return "", fmt.Errorf("host \"\" is empty: leave it out, or write a name such as cart.localhost")
	case strings.Contains(host, "://") || strings.Contains(host, "/"):
		return "", fmt.Errorf("host %s is a URL: write the host name alone, such as cart.localhost", quoteShort(host))
	case strings.Contains(host, ":"):
		return "", fmt.Errorf("host %s has a port: write it without, every port of the proxy serves every host", quoteShort(host))
	case strings.HasSuffix(host, "."):
		return "", fmt.Errorf("host %s ends in a dot: write it without", quoteShort(host))
	case strings.Contains(labels, "*"):
		return "", fmt.Errorf("host %s: \"*\" can only be the whole first label, such as *.cart.test", quoteShort(host))
	case len(labels) > maxHost:
		return "", fmt.Errorf("host %s has %d bytes, and host names have at most %d", quoteShort(host), len(labels), maxHost)
	}
	if problem := labelsProblem(labels); problem != "" {
		return "", fmt.Errorf("host %s %s", quoteShort(host), problem)
	}
	if wildcard {
		return "*." + labels, nil
	}
	return labels, nil
}

func checkIPv6(host string) (normal string, err error) {
	inner, ok := strings.CutSuffix(host[1:], "]")
	addr, err := netip.ParseAddr(inner)
	if !ok || err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", fmt.Errorf("host %s is no IPv6 address: write one in brackets and without a port, such as [::1]", quoteShort(host))
	}
	return "[" + addr.String() + "]", nil
}

// labelsProblem says what is wrong with the labels of a lower-case host name.
func labelsProblem(host string) string {
	for label := range strings.SplitSeq(host, ".") {
		if label == "" {
			return "has an empty label: two dots, or one at the beginning"
		}
		if len(label) > maxName {
			return fmt.Sprintf("has a label of %d bytes, and DNS labels have at most %d", len(label), maxName)
		}
		for i, r := range label {
			if r >= 0x80 {
				return fmt.Sprintf("has %s: write an international name in its xn-- form", quoteRune(label[i:], r))
			}
			if c := byte(r); !isAlnum(c) && c != '-' && c != '_' { //nolint:gosec // the host is ASCII by now
				return fmt.Sprintf("has %s: host names are made of a-z, 0-9, \"-\", \"_\" and dots", quoteRune(label[i:], r))
			}
		}
	}
	return ""
}

func isDigits(text string) bool {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return true
}
