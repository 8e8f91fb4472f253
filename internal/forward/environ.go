package forward

import (
	"cmp"
	_ "embed"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed preload.cjs
var preload []byte

// systemRoots are where the certificates are that a machine trusts.
var systemRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
}

// Environ returns the environment of a program that is to go through the proxy: environ with the variables that programs of
// all kinds take proxies and certificates from. Files for it are written into dir, which only the user may read.
func (p *Proxy) Environ(environ []string, dir string) ([]string, error) {
	get := func(name string) string {
		for _, e := range slices.Backward(environ) {
			if value, ok := strings.CutPrefix(e, name+"="); ok {
				return value
			}
		}
		return ""
	}
	ca, own, script := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "node.pem"), filepath.Join(dir, "preload.cjs")
	node := p.ca.pem()
	if more := get("NODE_EXTRA_CA_CERTS"); more != "" {
		if text, err := os.ReadFile(more); err == nil {
			node = append(append(text, '\n'), node...)
		}
	}
	files := map[string][]byte{ca: p.ca.pem(), own: node, script: preload}
	set := map[string]string{}
	for _, name := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"} {
		trusted, err := p.trusted(name, cmp.Or(get(name), get("SSL_CERT_FILE")))
		if err != nil {
			return nil, err
		}
		set[name] = filepath.Join(dir, strings.ToLower(name)+".pem")
		files[set[name]] = trusted
	}
	for name, text := range files {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return nil, fmt.Errorf("write a file for the program: %w", err)
		}
	}
	address := "http://" + p.Address()
	host, port, _ := net.SplitHostPort(p.Address())
	bypass := p.bypass(get("NO_PROXY") + "," + get("no_proxy"))
	java := fmt.Sprintf("-Dhttp.proxyHost=%s -Dhttp.proxyPort=%s -Dhttps.proxyHost=%s -Dhttps.proxyPort=%s -Dhttp.nonProxyHosts=", host, port, host, port)
	maps.Copy(set, map[string]string{
		"HTTP_PROXY": address, "http_proxy": address, "HTTPS_PROXY": address, "https_proxy": address,
		"NO_PROXY": bypass, "no_proxy": bypass,
		"NODE_EXTRA_CA_CERTS": own, "LAYOVER_CA_FILE": ca,
		"NODE_USE_ENV_PROXY": "1", "LAYOVER_FORWARD_PROXY": address,
		"NODE_OPTIONS":      strings.TrimSpace(get("NODE_OPTIONS") + " --require " + nodeWord(script)),
		"JAVA_TOOL_OPTIONS": strings.TrimSpace(get("JAVA_TOOL_OPTIONS") + " " + java),
	})
	var out []string
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if _, ours := set[name]; !ours && !strings.EqualFold(name, "all_proxy") {
			out = append(out, e)
		}
	}
	for name, value := range set {
		out = append(out, name+"="+value)
	}
	return out, nil
}

// nodeWord is a word of NODE_OPTIONS, which are split at spaces outside of double quotes.
func nodeWord(text string) string {
	if !strings.ContainsAny(text, " \"\\") {
		return text
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// trusted are the certificates that the machine trusts, or those in the file that a variable names, and ours.
func (p *Proxy) trusted(variable, file string) ([]byte, error) {
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the certificates for %s: %w", variable, err)
		}
		return append(append(text, '\n'), p.ca.pem()...), nil
	}
	for _, name := range systemRoots {
		if text, err := os.ReadFile(name); err == nil {
			return append(append(text, '\n'), p.ca.pem()...), nil
		}
	}
	return p.ca.pem(), nil
}

// bypass is what stays of a list of hosts that programs reach without a proxy: nothing that covers a host of the environment. The
// proxy itself holds to the whole list. Chromium never asks a proxy for names below localhost, unless the list says "<-loopback>".
func (p *Proxy) bypass(list string) string {
	kept := []string{"<-loopback>"}
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.TrimSpace(entry)
		if entry != "" && !slices.Contains(kept, entry) && !p.covers(entry) {
			kept = append(kept, entry)
		}
	}
	return strings.Join(kept, ",")
}

// covers says whether an entry of such a list is, as any program reads it, about a host of the environment: about itself, all
// names below it, or even all that end in it.
func (p *Proxy) covers(entry string) bool {
	name := strings.ToLower(strings.TrimLeft(entry, "*."))
	if _, _, err := net.ParseCIDR(name); err == nil {
		return false
	}
	name = withoutPort(name)
	if net.ParseIP(name) != nil {
		return p.opts.Ours(name)
	}
	if name == "" || strings.Contains(name, "*") || p.opts.Ours(name) || p.opts.Ours("x."+name) {
		return true
	}
	return slices.ContainsFunc(p.opts.Hosts, func(host string) bool { return strings.HasSuffix(strings.ToLower(host), name) })
}
