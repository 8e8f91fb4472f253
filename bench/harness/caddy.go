package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
)

// caddy looks host and version up with its handler "map", which goes through its list.
type caddy struct{}

// Name is "caddy".
func (caddy) Name() string { return "caddy" }

// Install takes it from Debian.
func (caddy) Install(ctx context.Context) error { return fromDebian(ctx, "caddy", "caddy") }

// Start writes the configuration and runs it.
func (caddy) Start(_ context.Context, s Setup) (*Running, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	text, err := caddyConfig(s, address, admin, nil)
	if err != nil {
		return nil, err
	}
	config, err := s.writeFile("caddy.json", string(text))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("caddy", "run", "--config", config)
	cmd.Env = append(os.Environ(), "HOME="+s.Dir, "XDG_DATA_HOME="+s.Dir, "XDG_CONFIG_HOME="+s.Dir)
	p, err := start(cmd, ProxyCPU)
	if err != nil {
		return nil, err
	}
	var added extra
	return &Running{Process: p, Address: address, Route: func(ctx context.Context, a Added) error {
		text, err := caddyConfig(s, address, admin, added.put(a))
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+admin+"/load", bytes.NewReader(text))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			said, _ := io.ReadAll(io.LimitReader(res.Body, maxText))
			return fmt.Errorf("caddy refuses its configuration: %s %s", res.Status, said)
		}
		return nil
	}}, nil
}

func caddyConfig(s Setup, address, admin string, added []Added) ([]byte, error) {
	type object = map[string]any
	type list = []any
	var table, fallback list
	s.with(added, func(host, version string, backend int) {
		to := list{s.Backend.Address(s.Routes.Protocol, backend)}
		table = append(table, object{"input": host + "|" + version, "outputs": to})
		if version == "main" {
			fallback = append(fallback, object{"input": host, "outputs": to})
		}
	})
	route := object{
		"match":  list{object{"header_regexp": object{"Baggage": object{"name": "b", "pattern": `(?:^|,)[ \t]*dynamic_route[ \t]*=[ \t]*([^,; \t]+)`}}}},
		"handle": list{object{"handler": "vars", "version": "{http.regexp.b.1}"}},
	}
	forward := object{"handle": list{
		object{"handler": "map", "source": "{http.request.host}", "destinations": list{"{fallback}"}, "mappings": fallback},
		object{"handler": "map", "source": "{http.request.host}|{http.vars.version}", "destinations": list{"{target}"}, "mappings": table, "defaults": list{"{fallback}"}},
		object{"handler": "reverse_proxy", "upstreams": list{object{"dial": "{target}"}}, "transport": object{
			"protocol": "http", "keep_alive": object{"enabled": true, "max_idle_conns_per_host": 64, "idle_timeout": "60s"},
		}},
	}}
	return json.Marshal(object{
		"admin":   object{"listen": admin, "config": object{"persist": false}},
		"logging": object{"logs": object{"default": object{"level": "ERROR"}}},
		"apps": object{"http": object{"servers": object{"bench": object{
			"listen": list{address}, "routes": list{route, forward}, "automatic_https": object{"disable": true},
		}}}},
	})
}
