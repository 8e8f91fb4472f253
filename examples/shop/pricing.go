package shop

import "context"

// pricing knows what things cost. PRICING_DISCOUNT makes a version of it whose
// prices differ from those of main.
type pricing struct {
	cfg    config
	others *caller
}

func (p *pricing) answer(ctx context.Context) (Answer, error) {
	a := Answer{ServedBy: p.cfg.id(), Build: p.cfg.build}
	stock, call, err := p.others.stock(ctx)
	a.add(call)
	if err != nil {
		return a, err
	}
	for _, product := range catalog() {
		product.Stock = stock[product.ID]
		if p.cfg.discount > 0 {
			product.Was = product.Price
			product.Price -= product.Price * p.cfg.discount / 100
			product.Badge = p.cfg.badge
		}
		a.Products = append(a.Products, product)
	}
	return a, nil
}
