package forward

import (
	_ "embed"
	"fmt"
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
	own, bundle, script := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "bundle.pem"), filepath.Join(dir, "preload.cjs")
	trusted, err := p.trusted(get("SSL_CERT_FILE"))
	if err != nil {
		return nil, err
	}
	node := p.ca.pem()
	if more := get("NODE_EXTRA_CA_CERTS"); more != "" {
		if text, err := os.ReadFile(more); err == nil {
			node = append(append(text, '\n'), node...)
		}
	}
	for name, text := range map[string][]byte{own: node, bundle: trusted, script: preload} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return nil, fmt.Errorf("write a file for the program: %w", err)
		}
	}
	address := "http://" + p.Address()
	host, port, _ := net.SplitHostPort(p.Address())
	bypass := p.bypass(get("NO_PROXY") + "," + get("no_proxy"))
	java := fmt.Sprintf("-Dhttp.proxyHost=%s -Dhttp.proxyPort=%s -Dhttps.proxyHost=%s -Dhttps.proxyPort=%s -Dhttp.nonProxyHosts=", host, port, host, port)
	set := map[string]string{
		"HTTP_PROXY": address, "http_proxy": address, "HTTPS_PROXY": address, "https_proxy": address,
		"NO_PROXY": bypass, "no_proxy": bypass,
		"SSL_CERT_FILE": bundle, "REQUESTS_CA_BUNDLE": bundle, "CURL_CA_BUNDLE": bundle, "NODE_EXTRA_CA_CERTS": own,
		"NODE_USE_ENV_PROXY": "1", "LAYOVER_FORWARD_PROXY": address,
		"NODE_OPTIONS":      strings.TrimSpace(get("NODE_OPTIONS") + " --require " + nodeWord(script)),
		"JAVA_TOOL_OPTIONS": strings.TrimSpace(get("JAVA_TOOL_OPTIONS") + " " + java),
	}
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

// trusted are the certificates that the machine trusts, or that the user named, and ours.
func (p *Proxy) trusted(named string) ([]byte, error) {
	names := systemRoots
	if named != "" {
		names = []string{named}
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err == nil {
			return append(append(text, '\n'), p.ca.pem()...), nil
		}
		if named != "" {
			return nil, fmt.Errorf("read the certificates of SSL_CERT_FILE: %w", err)
		}
	}
	return p.ca.pem(), nil
}

// bypass is what stays of a list of hosts that programs reach without a proxy: nothing that is of the environment. Chromium
// never asks a proxy for names below localhost, unless the list says "<-loopback>".
func (p *Proxy) bypass(list string) string {
	kept := []string{"<-loopback>"}
	seen := map[string]bool{"<-loopback>": true}
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.TrimSpace(entry)
		name := strings.TrimLeft(strings.TrimPrefix(entry, "*."), ".")
		if name == "" || name == "*" || seen[entry] {
			continue
		}
		_, _, err := net.ParseCIDR(name)
		if isIP := err == nil || net.ParseIP(strings.Trim(name, "[]")) != nil; !isIP && (p.opts.Ours(name) || p.opts.Ours("x."+name)) {
			continue
		}
		seen[entry] = true
		kept = append(kept, entry)
	}
	return strings.Join(kept, ",")
}
