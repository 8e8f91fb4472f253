package shop

import "context"

// cart keeps what the visitor wants to buy, and asks pricing what that costs.
type cart struct {
	cfg    config
	others *caller
}

func (c *cart) answer(ctx context.Context) (Answer, error) {
	a := Answer{ServedBy: c.cfg.id(), Build: c.cfg.build}
	prices, err := c.others.get(ctx, c.cfg.pricingURL+"/prices")
	a.add(prices)
	if err != nil {
		return a, err
	}
	wanted := map[string]int{"espresso": 2, "suitcase": 1} // the one visitor of this shop
	a.Products = prices.Products
	for i, p := range a.Products {
		a.Products[i].Quantity = wanted[p.ID]
		a.Total += p.Price * wanted[p.ID]
	}
	return a, nil
}
