.DEFAULT_GOAL := test
.PHONY: test build lint generate bench microbench demo vuln

test: ## Check everything, as CI does
	./scripts/test

build: ## bin/layover
	CGO_ENABLED=0 go build -trimpath -o bin/layover ./cmd/layover

lint: ## Only the linter
	./scripts/test lint

generate: ## Files made from the code: CLI and configuration reference, JSON Schema, OpenAPI
	go generate ./...

bench: ## The proxy beside nginx, Traefik, HAProxy, Caddy and bare Go (BENCH="--rounds 3" for other flags)
	go run ./bench $(BENCH)

microbench: ## What a decision and a proxied request cost in one process
	go test -run '^$$' -bench . -benchmem ./internal/route ./internal/proxy

demo: ## The shop, with one service in two versions
	go run ./cmd/layover demo

vuln: ## Known vulnerabilities in what we use (asks vuln.go.dev)
	go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...
