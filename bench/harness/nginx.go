package harness

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

// nginx looks host and version up in a map.
type nginx struct{}

// Name is "nginx".
func (nginx) Name() string { return "nginx" }

// Install takes it from Debian.
func (nginx) Install(ctx context.Context) error { return fromDebian(ctx, "nginx", "nginx-light") }

// Start writes the configuration and runs it with one worker.
func (nginx) Start(_ context.Context, s Setup) (*Running, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	if _, err := s.writeFile("table.map", nginxTable(s, nil)); err != nil {
		return nil, err
	}
	config, err := s.writeFile("nginx.conf", nginxConfig(s, address))
	if err != nil {
		return nil, err
	}
	p, err := start(exec.Command("nginx", "-p", s.Dir, "-c", config, "-e", "stderr"), ProxyCPU)
	if err != nil {
		return nil, err
	}
	var added extra
	return &Running{Process: p, Address: address, Route: func(_ context.Context, a Added) error {
		if _, err := s.writeFile("table.map", nginxTable(s, added.put(a))); err != nil {
			return err
		}
		return p.cmd.Process.Signal(syscall.SIGHUP)
	}}, nil
}

func nginxTable(s Setup, added []Added) string {
	var b strings.Builder
	s.with(added, func(host, version string, backend int) {
		fmt.Fprintf(&b, "\"%s|%s\" backend-%02d;\n", host, version, backend)
	})
	return b.String()
}

func nginxConfig(s Setup, address string) string {
	var b strings.Builder
	b.WriteString(`daemon off;
pid nginx.pid;
worker_processes 1;
worker_rlimit_nofile 16384;
events { worker_connections 8192; }
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  keepalive_requests 1000000000;
  map_hash_max_size 1048576;
  map_hash_bucket_size 256;
  map $http_baggage $version {
    default main;
    "~(?:^|,)[ \t]*dynamic_route[ \t]*=[ \t]*(?<named>[^,; \t]+)" $named;
  }
  map "$host|$version" $found { default ""; include table.map; }
  map "$host|main" $fallback { default ""; include table.map; }
  map $found $target { "" $fallback; default $found; }
`)
	for i := range Backends {
		fmt.Fprintf(&b, "  upstream backend-%02d { server %s; keepalive 64; keepalive_requests 1000000000; }\n", i, s.Backend.Address(s.Routes.Protocol, i))
	}
	fmt.Fprintf(&b, `  server {
    listen %s;
    location / {
      proxy_pass http://$target;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
    }
  }
}
`, address)
	return b.String()
}
