package shop

import (
	"fmt"
	"slices"
)

// Answer is what a service answers: who answered, what it knows, and the answers
// of the services it called for that, so that the answer of the storefront holds
// the whole tree of the request.
type Answer struct {
	ServedBy    string    `json:"served_by"`             // service@version, the instance's own word
	Build       string    `json:"build,omitempty"`       // SHOP_BUILD of that instance; the inventory has none
	Routed      string    `json:"routed,omitempty"`      // the Layover-Served-By header that the caller saw on this answer
	TraceID     string    `json:"trace_id,omitempty"`    // the trace the service took part in, 32 hex digits
	Error       string    `json:"error,omitempty"`       // why the answer is not complete
	Products    []Product `json:"products,omitempty"`    // of storefront, cart and pricing
	Total       int       `json:"total,omitempty"`       // of storefront and cart: price of what is in the cart, in cents
	Recommended []string  `json:"recommended,omitempty"` // of storefront and recommendations: names of products
	Calls       []Answer  `json:"calls,omitempty"`       // the calls the service made, in order
}

// Product is one thing the shop sells.
type Product struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Price    int    `json:"price"`              // in cents
	Was      int    `json:"was,omitempty"`      // price in cents before the discount, where there is one
	Badge    string `json:"badge,omitempty"`    // text beside a reduced price
	Stock    int    `json:"stock"`              // pieces left
	Quantity int    `json:"quantity,omitempty"` // pieces in the cart
}

// Hops returns who answered in the whole tree, as service@version, each service
// before the ones it called.
func (a Answer) Hops() []string {
	hops := []string{a.ServedBy}
	for _, call := range a.Calls {
		hops = append(hops, call.Hops()...)
	}
	return hops
}

// Served reports whether id (service@version) took part in the answer.
func (a Answer) Served(id string) bool { return slices.Contains(a.Hops(), id) }

// add records a call. The zero Answer stands for a call that got none.
func (a *Answer) add(call Answer) {
	if call.ServedBy != "" {
		a.Calls = append(a.Calls, call)
	}
}

// catalog returns what the shop sells, at list prices.
func catalog() []Product {
	return []Product{
		{ID: "espresso", Name: "Terminal Espresso", Price: 350},
		{ID: "pillow", Name: "Neck Pillow", Price: 1_990},
		{ID: "postcard", Name: "Postcard of the Runway", Price: 150},
		{ID: "suitcase", Name: "Cabin Suitcase", Price: 8_900},
	}
}

// money writes cents as people read them, for example "$19.90".
func money(cents int) string { return fmt.Sprintf("$%d.%02d", cents/100, cents%100) }
