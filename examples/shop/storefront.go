package shop

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
)

//go:embed storefront.html
var storefrontHTML string

// storefront is what visitors see: a page for browsers, JSON for programs.
type storefront struct {
	cfg    config
	others *caller
}

func (s *storefront) answer(ctx context.Context) (Answer, error) {
	a := Answer{ServedBy: s.cfg.id(), Build: s.cfg.build}
	cart, err := s.others.get(ctx, s.cfg.cartURL+"/cart")
	a.add(cart)
	if err != nil {
		return a, err
	}
	a.Products, a.Total = cart.Products, cart.Total

	liked, err := s.others.get(ctx, s.cfg.recommendationsURL+"/recommendations")
	a.add(liked)
	if err != nil {
		return a, err
	}
	a.Recommended = liked.Recommended
	return a, nil
}

// page serves the page to clients that ask for HTML, and JSON to all others.
func (s *storefront) page(log *slog.Logger) http.Handler {
	page := template.Must(template.New("storefront").Funcs(template.FuncMap{"money": money}).Parse(storefrontHTML))
	asJSON := answering(s.answer, log)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		if !strings.Contains(r.Header.Get("Accept"), "text/html") {
			asJSON.ServeHTTP(w, r)
			return
		}
		answer, status := settle(r.Context(), s.answer, log)
		var html bytes.Buffer // whole before the status is sent
		if err := page.Execute(&html, answer); err != nil {
			log.ErrorContext(r.Context(), "render page", "err", err)
			http.Error(w, fmt.Sprintf("render page: %v", err), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		w.WriteHeader(status)
		if _, err := html.WriteTo(w); err != nil {
			log.WarnContext(r.Context(), "write page", "err", err)
		}
	})
}
